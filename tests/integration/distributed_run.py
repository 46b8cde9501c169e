"""`torchrun ... -m tests.integration.distributed_run OUT JSON`: train; JSON names config fields that differ, and mishaps.

Writes OUT/weights-RANK.txt, a digest of the weights that each process ends with. Without torchrun, and with any number of
pairs OUT JSON: each run in two processes forked from this one, which imports everything but computes nothing.
"""

import dataclasses
import hashlib
import json
import os
import signal
import socket
import sys
import traceback
from pathlib import Path

import torch

from supervit.distributed import World
from supervit.runtimes import pick_device
from supervit.train import loop
from supervit.train.lock import locked
from supervit.train.stopping import StopRequest
from tests.integration.test_train import changed, tiny_run


def main() -> None:
    """One process of the run, or all of several runs."""
    torch.set_num_threads(1)
    words = sys.argv[1:]
    for out, changes in zip(map(Path, words[::2]), map(json.loads, words[1::2]), strict=True):
        if "WORLD_SIZE" in os.environ:
            train(out, changes)
        else:
            fork_two(out, changes)


def fork_two(out: Path, changes: dict) -> None:
    """Train in two processes, in the environment that torchrun would give them."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    ranks = []
    for rank in (0, 1):
        if pid := os.fork():
            ranks.append(pid)
            continue
        here = {"MASTER_ADDR": "localhost", "MASTER_PORT": port, "WORLD_SIZE": 2, "RANK": rank, "LOCAL_RANK": rank}
        os.environ.update({name: str(value) for name, value in here.items()})
        status = 1
        try:
            train(out, changes)
            status = 0
        except BaseException:
            traceback.print_exc()
        os._exit(status)
    statuses = [os.waitpid(pid, 0)[1] for pid in ranks]  # of both, whatever the first
    if any(statuses):
        raise SystemExit(f"a process of {out} failed")


def train(out: Path, changes: dict) -> None:
    """One process of a run."""
    out.mkdir(parents=True, exist_ok=True)
    lost_at = changes.pop("lose rank 1 at step", None)
    config = changed(tiny_run(out, throughput_repeats=0), changes)
    config = dataclasses.replace(config, paths=tuple(config.paths))
    with StopRequest() as stop:
        world, device = World.join("cpu")
        with locked(out, world):
            run = loop._Run(config, world, pick_device(device), stop)
            _train(run, lost_at)
    digest = hashlib.sha256(b"".join(value.numpy().tobytes() for value in run.model.state_dict().values())).hexdigest()
    (out / f"weights-{world.rank}.txt").write_text(digest)
    world.leave()


def _train(run, lost_at) -> None:
    world = run.world
    if lost_at is not None and world.rank == 1 and run.step == 0:
        step = run._train_step

        def lost(*arguments):
            if run.step == lost_at:
                os.kill(os.getpid(), signal.SIGKILL)
            step(*arguments)

        run._train_step = lost
    run.train()
    run.finish()


if __name__ == "__main__":
    main()
