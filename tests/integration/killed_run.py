"""`python -m tests.integration.killed_run DIR`: a run in DIR/whole, and the same again and again, killed 20 times.

A process of its own that imports everything but computes nothing, so that it can fork runs in no time.
"""

import os
import random
import shutil
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path

import sklearn.datasets
import torch

from supervit.files import file_digest
from supervit.train import TrainConfig, run_training
from supervit.train.checkpoint import checkpoints
from tests.integration.test_train import EVERYTHING, changed, tiny_run

KILLS = int(sys.argv[2]) if len(sys.argv) > 2 else 20


def start(config: TrainConfig) -> int:
    """Fork a process that runs the training; its number."""
    pid = os.fork()
    if pid:
        return pid
    sys.stdout = sys.stderr = Path(os.devnull).open("w")  # noqa: SIM115
    torch.set_num_threads(1)
    run_training(config)
    os._exit(0)


def _half_written(config: TrainConfig) -> bool:
    """Whether a checkpoint is, or was being written when its process was killed."""
    return any((config.out / "checkpoints").glob(".step-*.tmp"))


def check_weights(config: TrainConfig, whole: TrainConfig) -> None:
    """That a run ended where the whole one did, to the last bit."""
    assert file_digest(config.out / "model/model.safetensors") == file_digest(whole.out / "model/model.safetensors"), config.out


def main() -> None:
    """Run, kill, compare. Prints the kills and how many of them left a half-written checkpoint."""
    digits = sklearn.datasets.load_digits()  # read once for all runs
    sklearn.datasets.load_digits = lambda: digits
    # A checkpoint after each step, so that many kills meet one that is being written.
    settings = {**EVERYTHING, "data.workers": 1, "data.batch_size": 96, "epochs": 4, "eval_every": 4, "save_minutes": 1e-9}
    config = changed(tiny_run(Path(sys.argv[1], "whole"), throughput_repeats=0), settings)
    begin = time.monotonic()
    pid = start(config)
    while not checkpoints(config.out):
        time.sleep(0.01)
    until_first = time.monotonic() - begin
    assert os.waitpid(pid, 0)[1] == 0
    draw, kills, half_written, attempt = random.Random(0), 0, 0, 0
    while kills < KILLS:
        broken = replace(config, out=Path(sys.argv[1], f"broken-{attempt}"), resume=True)
        pid = start(broken)
        time.sleep(until_first * draw.uniform(0.7, 1.7))
        if kills % 2:  # every other one while a checkpoint is being written, where the run is not over before
            while not _half_written(broken) and os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
                time.sleep(1e-4)  # writing takes longer
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:  # before it was killed; those killed on its way count, and the next begins anew
            assert status == 0
            check_weights(broken, config)
            shutil.rmtree(broken.out)
            until_first, attempt = 0.9 * until_first, attempt + 1
            continue
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        kills += 1
        half_written += _half_written(broken)
    broken = replace(config, out=Path(sys.argv[1], f"broken-{attempt}"), resume=True)
    assert os.waitpid(start(broken), 0)[1] == 0
    check_weights(broken, config)
    print(kills, half_written)


if __name__ == "__main__":
    main()
