"""`python -m tests.integration.stopped_run DIR [N]`: a run in DIR/whole, and the same in DIR/broken, stopped by N signals (40).

SIGTERMs and SIGINTs in turns go to the whole process group, so to the loader processes too, at random moments between the start
and the end: while data are opened, in training, evaluation, checkpoints, measuring. A process of its own that imports
everything but computes nothing, so that it can fork runs in no time. Prints how many signals stopped a run, and how many runs
ended.
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
from supervit.train import TrainConfig, loop, run_training
from tests.integration.test_train import EVERYTHING, changed, tiny_run

STOPS = int(sys.argv[2]) if len(sys.argv) > 2 else 40


def start(config: TrainConfig, output: Path) -> int:
    """Fork a process group that runs the training; its number. Returns when the run listens to signals."""
    ready, begun = os.pipe()
    pid = os.fork()
    if pid:
        os.close(begun)
        assert os.read(ready, 1), output.read_text()
        os.close(ready)
        return pid
    os.setpgid(0, 0)
    for number in (1, 2):
        os.dup2(os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
    for signum in (signal.SIGINT, signal.SIGTERM):  # before and after the run, as the command does
        signal.signal(signum, lambda signum, _: os._exit(128 + signum))
    torch.set_num_threads(1)
    original = loop.make_directory
    loop.make_directory = lambda path: (os.write(begun, b"1"), original(path))
    status = 0
    try:
        run_training(config)
    except SystemExit as stop:
        status = int(stop.code)
    sys.stdout.flush()
    os._exit(status)


def status_of(pid: int) -> int:
    """How a process ended."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def main() -> None:
    """Run, stop, compare."""
    settings = {
        **EVERYTHING,
        "data.workers": 1,
        "data.limit": 480,
        "data.batch_size": 96,
        "epochs": 2,
        "eval_every": 1,
        "throughput_repeats": 1,
    }
    digits = sklearn.datasets.load_digits()  # read once for all runs
    sklearn.datasets.load_digits = lambda: digits
    directory, output = Path(sys.argv[1]), Path(sys.argv[1], "output.txt")
    config = changed(tiny_run(directory / "whole"), settings)
    begin = time.monotonic()
    assert status_of(start(config, output)) == 0, output.read_text()
    span = time.monotonic() - begin
    wanted = file_digest(config.out / "model/model.safetensors")
    broken = replace(config, out=directory / "broken", resume=True)
    draw, stops, ends = random.Random(0), 0, 0
    while stops < STOPS or (broken.out / "checkpoints").exists():
        pid = start(broken, output)
        if stops < STOPS:
            time.sleep(span * draw.uniform(0, 0.7))
            signum = (signal.SIGTERM, signal.SIGINT)[stops % 2]
            os.killpg(pid, signum)
        status = status_of(pid)
        if status == 0:  # it had ended before
            assert file_digest(broken.out / "model/model.safetensors") == wanted, "other weights"
            shutil.rmtree(broken.out)
            ends += 1
        else:
            assert status == 128 + signum, f"status {status} after {stops} stops: {output.read_text()[-3000:]}"
            stops += 1
    print(stops, ends)


if __name__ == "__main__":
    main()
