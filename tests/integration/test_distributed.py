"""Several processes train as one does: two gloo ranks on a CPU stand for many GPUs."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from supervit import InputError
from supervit.distributed import World
from supervit.train import run_training
from supervit.train.checkpoint import checkpoints, read_checkpoint
from supervit.train.config import TrainConfig
from supervit.train.optimizer import peak_lr
from tests.integration.test_train import changed, log, tiny_run, weights

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1"}
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def torchrun(out, changes, *options):
    """The command of two processes."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", *options]
    return [*launcher, "-m", "tests.integration.distributed_run", str(out), json.dumps(changes)]


SAME = {
    "epochs": 5,
    "lr": 1e-3,
    "micro_batches": 2,
    "ema_decay": 0.9,
    "data.repeats": 2,
    "log_every": 5,
}
TO_BE_LOST = {"epochs": 3, "data.batch_size": 140, "resume": True}


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """A folder of runs of two processes each: joint, per_grid, and whole, which loses none."""
    folder = tmp_path_factory.mktemp("pairs")
    runs = {backward: {**SAME, "backward": backward, "data.batch_size": 70} for backward in ("joint", "per_grid")}
    words = [
        word for name, changes in {**runs, "whole": TO_BE_LOST}.items() for word in (str(folder / name), json.dumps(changes))
    ]
    command = [sys.executable, "-m", "tests.integration.distributed_run", *words]
    done = subprocess.run(command, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


def digests(out):
    return {(out / f"weights-{rank}.txt").read_text() for rank in (0, 1)}


@pytest.mark.parametrize("backward", ["joint", "per_grid"])
def test_two_processes_are_one_with_the_double_batch(pairs, tmp_path, backward):
    """The same order and augmentation, so the same global batches: 50 steps end at the same weights but for rounding."""
    changes = {**SAME, "backward": backward, "data.batch_size": 140}
    run_training(changed(tiny_run(tmp_path / "one", throughput_repeats=0), changes))
    assert len(digests(pairs / backward)) == 1, "the processes ended with different weights"
    one, two = log(tmp_path / "one", "train"), log(pairs / backward, "train")
    assert one[-1]["step"] == two[-1]["step"] == 50
    for ours, theirs in zip(one, two, strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-4)
    for name, value in weights(tmp_path / "one").items():
        torch.testing.assert_close(value, weights(pairs / backward)[name], atol=2e-4, rtol=1e-3)
    assert log(tmp_path / "one", "evaluate")[-1]["top1"] == pytest.approx(
        log(pairs / backward, "evaluate")[-1]["top1"], abs=0.6
    )


def test_a_run_that_loses_a_process_starts_again_where_it_was(pairs, tmp_path):
    """The launcher starts both again; they end where processes that nobody launched and nobody lost do."""
    command = torchrun(tmp_path, {**TO_BE_LOST, "lose rank 1 at step": 14}, "--max-restarts=1")
    done = subprocess.run(command, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "exitcode: -9" in done.stderr, "no process was lost"
    assert digests(tmp_path) == digests(pairs / "whole")


@pytest.mark.parametrize("signum, send", [(signal.SIGTERM, os.kill), (signal.SIGINT, os.killpg)])
def test_a_signal_ends_all_processes_at_the_same_step(tmp_path, signum, send):
    """To the launcher, as a job manager may send it, or to the whole group, loader processes and all, as Ctrl-C does."""
    command = torchrun(tmp_path, {"epochs": 1000, "data.batch_size": 140, "data.workers": 1})
    process = subprocess.Popen(
        command, cwd=ROOT, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    deadline = time.monotonic() + 120
    while not checkpoints(tmp_path):
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    send(process.pid, signum)
    said, error = process.communicate(timeout=60)
    stopped_at = int(checkpoints(tmp_path)[-1].name.removeprefix("step-"))
    state = read_checkpoint(checkpoints(tmp_path)[-1])[1]
    assert state["step"] == stopped_at
    assert f"stopped by {signum.name} after step {stopped_at}; go on with --resume" in said
    assert "distributed_run.py" not in error, "a traceback of ours"


def test_the_learning_rate_grows_with_the_global_batch():
    config = changed(tiny_run(Path("unused")), {"lr": 5e-4, "lr_batch_size": 512, "data.batch_size": 256})
    assert isinstance(config, TrainConfig)
    assert peak_lr(config, World(size=4)) == pytest.approx(1e-3)
    assert peak_lr(changed(config, {"lr_batch_size": None}), World(size=4)) == 5e-4


def test_one_named_gpu_cannot_serve_several_processes(monkeypatch):
    for name, value in (("RANK", "0"), ("WORLD_SIZE", "2"), ("LOCAL_RANK", "0")):
        monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match="device 'cuda:0' cannot serve 2 processes"):
        World.join("cuda:0")
