"""`torchrun ... -m tests.integration.distributed_run OUT JSON`: train; JSON names config fields that differ, and mishaps.

Writes OUT/weights-RANK.txt, a digest of the weights that each process ends with.
"""

import dataclasses
import hashlib
import json
import os
import signal
import sys
from pathlib import Path

import torch

from supervit.distributed import World
from supervit.runtimes import pick_device
from supervit.train import loop
from supervit.train.lock import locked
from supervit.train.stopping import StopRequest
from tests.integration.test_train import changed, tiny_run


def main() -> None:
    """One process of the run."""
    torch.set_num_threads(1)
    out, changes = Path(sys.argv[1]), json.loads(sys.argv[2])
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
