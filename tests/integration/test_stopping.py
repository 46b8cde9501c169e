"""Signals end a run at the next good moment, with a checkpoint to go on from; none is lost, none gives a traceback."""

import dataclasses
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from supervit import SuperViTError, TrainingError
from supervit.data import EpochLoader, SourceConfig, open_dataset
from supervit.train import loop, run_training
from supervit.train.checkpoint import checkpoints
from supervit.train.stopping import StopRequest
from tests.conftest import small_config
from tests.integration.test_resume import assert_equal_weights
from tests.integration.test_train import changed, log, tiny_run

ROOT = Path(__file__).resolve().parents[2]
SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]


@pytest.fixture(autouse=True)
def _heeded():
    """Signals as a terminal sets them: `nohup` has SIGHUP ignored, which runs respect."""
    before = {
        signum: signal.signal(signum, signal.default_int_handler if signum == signal.SIGINT else signal.SIG_DFL)
        for signum in SIGNALS
    }
    yield
    for signum, handler in before.items():
        signal.signal(signum, handler)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    config = tiny_run(tmp_path_factory.mktemp("whole") / "run")
    run_training(config)
    return config


@pytest.mark.slow
def test_signals_to_the_group_at_random_moments_change_nothing(tmp_path):
    """A dozen of them; forty: `python -m tests.integration.stopped_run DIR`."""
    command = [sys.executable, "-m", "tests.integration.stopped_run", str(tmp_path), "12"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    output = (tmp_path / "output.txt").read_text()
    assert done.returncode == 0, done.stderr
    stops, ends = map(int, done.stdout.split())
    assert (stops, ends >= 1) == (12, True)
    assert "Traceback" not in output
    assert output.count("go on with --resume") + output.count("nothing is kept") == 12


def sent_before(monkeypatch, owner, name, signum, count=1):
    """Send a signal before the first calls of a function."""
    original, calls = getattr(owner, name), []

    def called(*arguments, **options):
        calls.append(1)
        if len(calls) <= count:
            os.kill(os.getpid(), signum)
        return original(*arguments, **options)

    monkeypatch.setattr(owner, name, called)


@pytest.mark.parametrize("signum", SIGNALS)
@pytest.mark.parametrize(
    "owner, name, kept",
    [
        (loop, "make_start", None),
        (loop, "trajectory_of", None),
        (loop._Run, "_train_step", "step-00000001"),
        (loop, "write_checkpoint", "step-00000003"),
        (loop, "evaluate", "step-00000006"),
        (loop, "measure_throughput", "step-00000006"),
        (loop, "write_report", "step-00000006"),
    ],
)
def test_a_signal_at_any_time_ends_the_run_with_what_is_done(whole, tmp_path, monkeypatch, capsys, signum, owner, name, kept):
    config = dataclasses.replace(whole, out=tmp_path)
    with monkeypatch.context() as patched:
        sent_before(patched, owner, name, signum)
        with pytest.raises(SystemExit) as stop:
            run_training(config)
    assert stop.value.code == 128 + signum
    found = checkpoints(tmp_path)
    assert [path.name for path in found][-1:] == ([kept] if kept else [])
    way = "go on with --resume" if kept else "before the first step: nothing is kept"
    assert f"stopped by {signum.name} " in (said := capsys.readouterr().out)
    assert way in said
    assert signal.getsignal(signum) != loop.StopRequest._ask, "the handlers are still there"
    if signum == signal.SIGINT or name == "evaluate":
        run_training(dataclasses.replace(config, resume=True))
        assert_equal_weights(whole.out, tmp_path)


def test_opening_the_data_is_not_waited_for(whole, tmp_path, monkeypatch):
    def slow(*_, **__):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.01)
        pytest.fail("went on")

    monkeypatch.setattr("supervit.train.start.open_dataset", slow)
    with pytest.raises(SystemExit) as stop:
        run_training(dataclasses.replace(whole, out=tmp_path))
    assert stop.value.code == 143


def test_evaluation_and_measuring_stop_soon(tmp_path, monkeypatch):
    calls = []
    original = loop.SuperViT.forward_paths
    monkeypatch.setattr(loop.SuperViT, "forward_paths", lambda *arguments: calls.append(1) or original(*arguments))
    sent_before(monkeypatch, loop, "evaluate", signal.SIGTERM)
    with pytest.raises(SystemExit):
        run_training(changed(tiny_run(tmp_path, epochs=1), {"data.batch_size": 20}))
    assert len(calls) <= 1
    assert log(tmp_path, "evaluate") == []


def test_a_signal_that_comes_twice_is_one_and_a_later_ctrl_c_forces(monkeypatch):
    clock = iter([0.0, 0.1, 10.0])
    monkeypatch.setattr("supervit.train.stopping.time.monotonic", lambda: next(clock))
    with StopRequest() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)  # `timeout` and the group
        assert stop.signum == signal.SIGINT
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_under_torchrun_which_passes_signals_on_nothing_forces(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    clock = iter(range(0, 100, 10))
    monkeypatch.setattr("supervit.train.stopping.time.monotonic", lambda: next(clock))
    with StopRequest() as stop:
        for _ in range(3):
            os.kill(os.getpid(), signal.SIGINT)
        assert stop.asked


def test_signals_that_were_ignored_stay_so():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # nohup
    try:
        with StopRequest() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not stop.asked
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_run_outside_of_the_main_thread_leaves_signals_alone(whole, tmp_path):
    results = []
    config = dataclasses.replace(whole, out=tmp_path, epochs=1, throughput_repeats=0)
    thread = threading.Thread(target=lambda: results.append(run_training(config)))
    thread.start()
    thread.join()
    assert results


def a_loader(workers):
    dataset = open_dataset(SourceConfig(name="digits"), "val", small_config(in_chans=1, num_classes=10))
    return EpochLoader(dataset, batch_size=16, workers=workers)


def test_loader_processes_heed_their_parent_alone():
    batches = a_loader(workers=2).epoch()
    next(batches)
    workers = multiprocessing.active_children()
    assert len(workers) == 2
    sender = os.fork()
    if not sender:
        for worker in workers:
            for signum in SIGNALS:
                os.kill(worker.pid, signum)
        os._exit(0)
    os.waitpid(sender, 0)
    rest = list(batches)
    assert len(rest) == 22
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == set(), "this process gets its signals again"
    batches = a_loader(workers=1).epoch()
    next(batches)
    (worker,) = multiprocessing.active_children()
    handler = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    worker.terminate()
    worker.join(timeout=20)
    assert worker.exitcode == 0
    signal.signal(signal.SIGCHLD, handler)


@pytest.mark.parametrize("when, step", [("_train_step", 5), ("_log_window", 4)])
def test_a_killed_loader_process_is_one_line_that_names_the_checkpoint(tmp_path, monkeypatch, when, step):
    original = getattr(loop._Run, when)

    def killing(self, *arguments):
        if self.step == 4:
            for worker in multiprocessing.active_children():
                os.kill(worker.pid, signal.SIGKILL)
                worker.join()
        original(self, *arguments)

    config = changed(tiny_run(tmp_path), {"data.workers": 1, "data.batch_size": 470, "log_every": 1})
    with monkeypatch.context() as patched:
        patched.setattr(loop._Run, when, killing)
        with pytest.raises(SuperViTError, match=rf"killed.*go on with --resume from '.*step-0000000{step}'") as stop:
            run_training(config)
    assert "\n" not in str(stop.value)
    run_training(dataclasses.replace(config, resume=True))


def test_a_terminal_that_is_gone_does_not_end_a_run(whole, tmp_path, monkeypatch):
    def gone(*_):
        raise BrokenPipeError

    monkeypatch.setattr(loop.tqdm, "write", gone)
    run_training(dataclasses.replace(whole, out=tmp_path, epochs=1))


@pytest.mark.slow
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_the_command_ends_with_the_status_of_the_signal(tmp_path, signum):
    """Also where what it is piped into, such as `tee`, has ended by the same signal."""
    options = ["--data.workers", "1", "--epochs", "1000", "--save-minutes", "0.0001", "--out", str(tmp_path)]
    command = [sys.executable, "-m", "supervit", "train", "digits", *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)
    deadline = time.monotonic() + 100
    while not checkpoints(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.stdout.close()
    os.killpg(process.pid, signum)
    os.killpg(process.pid, signum)  # as `timeout` does
    error = process.stderr.read()
    assert process.wait(timeout=60) == 128 + signum, error
    assert "Traceback" not in error
    assert "Exception ignored" not in error


def test_only_training_errors_say_how_to_go_on(tmp_path, monkeypatch):
    def other(*_):
        raise RuntimeError("a bug of ours")

    monkeypatch.setattr(loop._Run, "_train_step", other)
    with pytest.raises(RuntimeError, match="a bug of ours") as stop:
        run_training(tiny_run(tmp_path))
    assert not isinstance(stop.value, TrainingError)
