"""A run that is interrupted, however it is interrupted, ends where an uninterrupted one does."""

import dataclasses
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from supervit import InputError, TrainingError
from supervit.train import checkpoint, loop, run_training
from supervit.train.checkpoint import checkpoints, read_checkpoint
from tests.integration.test_train import EVERYTHING, changed, log, tiny_run, weights

ROOT = Path(__file__).resolve().parents[2]


class Killed(Exception):
    """Stands for any sudden end."""


@pytest.mark.parametrize(
    "end, changes",
    [
        ("between epochs", {}),
        ("while a checkpoint is written", {"ema_decay": 0.9}),
        ("SIGTERM in an epoch", {"model.drop_path_rate": 0.3}),
        ("SIGTERM in an epoch", EVERYTHING),
    ],
)
def test_a_resumed_run_ends_where_an_uninterrupted_one_does(tmp_path, monkeypatch, end, changes):
    whole = changed(tiny_run(tmp_path / "whole", epochs=3), changes)
    run_training(whole)
    step, save = loop._Run._train_step, torch.save

    def ended(self, *arguments):
        if end == "between epochs" and self.step == 4:
            raise Killed
        step(self, *arguments)
        if end == "SIGTERM in an epoch" and self.step == 5:
            os.kill(os.getpid(), signal.SIGTERM)

    def half_written(state, path):
        if state["step"] == 6:
            path.write_bytes(b"half")
            raise Killed
        save(state, path)

    broken = dataclasses.replace(whole, out=tmp_path / "broken")
    with monkeypatch.context() as patched:
        patched.setattr(loop._Run, "_train_step", ended)
        if end == "while a checkpoint is written":
            patched.setattr(torch, "save", half_written)
        with pytest.raises((Killed, SystemExit)) as stop:
            run_training(broken)
    if end == "SIGTERM in an epoch":
        assert stop.value.code == 143
        assert checkpoints(tmp_path / "broken")[-1].name == "step-00000005"
    run_training(dataclasses.replace(broken, resume=True))
    assert_equal_weights(tmp_path / "whole", tmp_path / "broken")
    steps = [entry["step"] for entry in log(tmp_path / "broken", "train")]
    assert steps == sorted(set(steps)), "no step stands twice in the log"


def assert_equal_weights(one, other):
    for name, value in weights(one).items():
        assert torch.equal(value, weights(other)[name]), name


@pytest.mark.slow
def test_kills_at_random_moments_change_nothing(tmp_path):
    """SIGKILL, also while a checkpoint is written (after each step here); workers, average and mixed data are on.

    Eight of them; twenty: `python -m tests.integration.killed_run DIR`.
    """
    command = [sys.executable, "-m", "tests.integration.killed_run", str(tmp_path), "8"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    kills, half_written = map(int, done.stdout.split())
    assert kills == 8
    assert half_written >= 1, "no kill met a checkpoint that was being written"


def test_a_damaged_checkpoint_is_set_aside_and_the_one_before_is_taken(tmp_path, capsys):
    whole = tiny_run(tmp_path / "whole", epochs=3)
    run_training(whole)
    broken = dataclasses.replace(whole, out=tmp_path / "broken", keep_checkpoints=3)
    run_training(broken)
    *_, before, newest = checkpoints(broken.out)
    (newest / "training_state.pt").write_bytes((newest / "training_state.pt").read_bytes()[:100])
    (before / "model.safetensors").unlink()
    run_training(dataclasses.replace(broken, resume=True))
    assert capsys.readouterr().out.count("skipped a damaged checkpoint") == 2
    assert {path.name for path in (broken.out / "checkpoints").glob("damaged-*")} == {
        "damaged-step-00000006", "damaged-step-00000009",
    }  # fmt: skip
    assert_equal_weights(whole.out, broken.out)


def test_a_run_without_any_good_checkpoint_is_refused(tmp_path):
    config = tiny_run(tmp_path, epochs=1)
    run_training(config)
    (path,) = checkpoints(tmp_path)
    (path / "training_state.pt").write_bytes(b"")
    with pytest.raises(InputError, match=r"no checkpoint in .* can be read: .*training_state.pt.*; start anew"):
        run_training(dataclasses.replace(config, resume=True))
    assert checkpoints(tmp_path) == [path]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), RuntimeError("file write failed")])
def test_a_full_disk_leaves_the_last_good_checkpoint(tmp_path, monkeypatch, error):
    original = torch.save

    def full(state, path):
        if state["step"] > 3:
            path.write_bytes(b"half")
            raise error
        original(state, path)

    monkeypatch.setattr(checkpoint.torch, "save", full)
    with pytest.raises(TrainingError, match=r"step-00000006' cannot be written .*; make room .*from .*step-00000003"):
        run_training(tiny_run(tmp_path))
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-00000003"]
    read_checkpoint(tmp_path / "checkpoints" / "step-00000003")


def test_checkpoints_are_written_within_an_epoch(tmp_path, monkeypatch):
    clock = iter(range(0, 10_000, 40))
    monkeypatch.setattr(loop.time, "monotonic", lambda: next(clock))  # each look at the clock is 40 seconds later
    run_training(tiny_run(tmp_path, epochs=1, save_minutes=1, keep_checkpoints=9))
    assert [path.name for path in checkpoints(tmp_path)] == ["step-00000002", "step-00000003"]


def overflowing(monkeypatch, is_bad):
    """Let the losses overflow in some calls, as float16 does."""
    from supervit.train import step

    original, calls = step.path_losses, []

    def path_losses(*arguments):
        calls.append(1)
        return [loss * (float("inf") if is_bad(len(calls)) else 1.0) for loss in original(*arguments)]

    monkeypatch.setattr(step, "path_losses", path_losses)


def with_scaler(monkeypatch):
    """The scaler of float16 on a CPU, whose arithmetic stays float32."""
    from supervit.train import step

    monkeypatch.setitem(step._AUTOCAST, "float16", None)


def test_the_scaler_skips_an_overflow_and_the_log_counts_it(tmp_path, monkeypatch):
    with_scaler(monkeypatch)
    overflowing(monkeypatch, lambda call: call in (2, 3))
    run_training(tiny_run(tmp_path, precision="float16"))
    entries = log(tmp_path, "train")
    assert sum(entry["skipped_steps"] for entry in entries) == 2
    assert all(entry["loss"] is None or entry["loss"] < 100 for entry in entries)


def test_overflows_that_persist_stop_the_run(tmp_path, monkeypatch):
    with_scaler(monkeypatch)
    overflowing(monkeypatch, lambda call: call > 3)
    monkeypatch.setattr(loop, "_MOST_OVERFLOWS", 5)
    with pytest.raises(TrainingError, match=r"the loss of .* is not finite in step \d+ \(learning rate .*--init .*step-"):
        run_training(tiny_run(tmp_path, precision="float16", epochs=5))


def test_a_gradient_that_is_not_finite_is_told_from_a_loss(tmp_path, monkeypatch):
    original = loop._Run._train_step

    def broken(self, *arguments):
        if self.step == 1:
            self.model.norm.weight.register_hook(lambda gradient: gradient * float("nan"))
        original(self, *arguments)

    monkeypatch.setattr(loop._Run, "_train_step", broken)
    with pytest.raises(TrainingError, match=r"the gradient is not finite in step 1 \(learning rate"):
        run_training(tiny_run(tmp_path))
