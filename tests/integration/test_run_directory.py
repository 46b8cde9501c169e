"""The directory of a run: one run at a time writes there, a full disk is one line, other data are noticed."""

import dataclasses
import errno
import json
import os
import resource
import shutil
import signal
import stat
import time
from pathlib import Path

import pytest
import torch

import supervit
from supervit import InputError, SuperViTError
from supervit.distributed import World
from supervit.recipes import load_recipe
from supervit.train import lock as locks
from supervit.train import loop, run_training
from supervit.train.checkpoint import checkpoints
from supervit.train.lock import locked
from tests.data_sets import write_images, write_shards
from tests.integration.test_resume import assert_equal_weights
from tests.integration.test_train import changed, log, tiny_run

# --- one run at a time ----------------------------------------------------------------------------------------------------


def hold(directory):
    """Fork a process that holds the lock, and has a child; their numbers."""
    ready, begun = os.pipe()
    if pid := os.fork():
        os.close(begun)
        return pid, int(os.read(ready, 20))
    with locked(directory, World()):
        if child := os.fork():  # a process that loads images, which outlives a killed run for seconds
            os.write(begun, str(child).encode())
        time.sleep(600)
    os._exit(0)


def test_a_directory_that_cannot_be_locked_is_refused_with_the_reason(tmp_path, monkeypatch):
    (tmp_path / ".lock").mkdir()
    with pytest.raises(InputError, match=r"cannot lock .*\.lock' \(Is a directory\); remove it"), locked(tmp_path, World()):
        pass
    (tmp_path / ".lock").rmdir()

    def fail(*_arguments):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(locks.fcntl, "lockf", fail)
    with pytest.raises(InputError, match=r"\(No locks available\); .* a disk that has locks"), locked(tmp_path, World()):
        pass


def test_a_lock_whose_run_ends_while_it_is_taken_is_taken_anew(tmp_path, monkeypatch):
    original, calls = locks.fcntl.lockf, []

    def ends(*arguments):
        if not calls:
            (tmp_path / ".lock").unlink()
        calls.append(original(*arguments))

    monkeypatch.setattr(locks.fcntl, "lockf", ends)
    with locked(tmp_path, World()):
        assert (tmp_path / ".lock").read_text().startswith(f"process {os.getpid()} on ")
    assert len(calls) == 2


@pytest.mark.parametrize("resume", [False, True])
def test_a_directory_is_locked_until_its_process_is_gone_however_it_went(tmp_path, resume):
    config = tiny_run(tmp_path, epochs=1, throughput_repeats=0, resume=resume)
    holder, child = hold(tmp_path)
    try:
        with pytest.raises(InputError, match=rf"is being written by another run \(process {holder} on .+\); wait"):
            run_training(config)
        assert [path.name for path in tmp_path.iterdir()] == [".lock"]
    finally:
        os.kill(holder, signal.SIGKILL)
        os.waitpid(holder, 0)
    try:
        run_training(config)
    finally:
        os.kill(child, signal.SIGKILL)
    assert not (tmp_path / ".lock").exists()


def test_a_lock_holds_within_a_process_and_is_given_back(tmp_path):
    with locked(tmp_path, World()):
        for _ in range(2):
            refused = pytest.raises(InputError, match=rf"by another run \(process {os.getpid()}, this one\)")
            with refused, locked(tmp_path / "x/..", World()):
                pass
    with locked(tmp_path, World()):
        assert supervit.__version__
    assert list(tmp_path.iterdir()) == []


# --- a full disk ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    config = tiny_run(tmp_path_factory.mktemp("whole") / "run", ema_decay=0.9, evaluate_ema=False)
    run_training(config)
    return config


@pytest.mark.parametrize(
    "owner, name, call, most_bytes",
    [
        (loop, "write_config", 1, 0),
        (loop._Run, "_log_window", 3, 0),
        (loop._Run, "_save", 2, 0),
        (loop._Run, "_save", 2, 1000),
        (loop._Run, "_evaluate_epoch", 1, 0),
        (loop._Run, "_finish", 1, 0),
        (loop._Run, "_finish", 1, 1000),
        (loop, "write_report", 1, 0),
        (loop, "write_report", 1, 10_000),
    ],
)
def test_a_full_disk_is_one_line_and_the_run_goes_on_when_there_is_room(
    whole, tmp_path, monkeypatch, owner, name, call, most_bytes
):
    """No file may grow beyond a size, which is what the system's writers then see as an error."""
    original, calls = getattr(owner, name), []
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def full(*arguments, **options):
        calls.append(1)
        if len(calls) == call:
            resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, hard))
        try:
            return original(*arguments, **options)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    config = dataclasses.replace(whole, out=tmp_path, plot=most_bytes == 10_000)
    with monkeypatch.context() as patched:
        patched.setattr(owner, name, full)
        with pytest.raises(SuperViTError) as stop:
            run_training(config)
    assert "\n" not in str(stop.value)
    assert name == "write_config" or "go on with --resume from " in str(stop.value)
    run_training(dataclasses.replace(config, resume=True))
    assert_equal_weights(whole.out, tmp_path)
    kinds = ("png", "svg", "pdf") if config.plot else ()
    plots = {f"{name}.{kind}" for name in ("tradeoff", "curves") for kind in kinds}
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in whole.out.iterdir()} | plots
    for line in (tmp_path / "log.jsonl").read_text().splitlines():
        json.loads(line, parse_constant=pytest.fail)


@pytest.mark.parametrize("umask, rights", [(0o022, 0o644), (0o027, 0o640), (0o002, 0o664)])
def test_all_files_have_the_rights_that_the_umask_gives(tmp_path, umask, rights):
    before = os.umask(umask)
    try:
        run_training(tiny_run(tmp_path / "run", epochs=1, ema_decay=0.9, evaluate_ema=False, plot=True))
    finally:
        os.umask(before)
    files = [path for path in (tmp_path / "run").rglob("*") if path.is_file()]
    assert len(files) > 10
    assert {oct(stat.S_IMODE(path.stat().st_mode)) for path in files} == {oct(rights)}


# --- other data than it began with ----------------------------------------------------------------------------------------


@pytest.fixture
def begun(tmp_path):
    """A run on 24 images, after one of two epochs."""
    for split, count in (("train", 12), ("val", 2)):
        write_images(tmp_path / "data" / split, count)
    settings = {"data.name": "image_folder", "data.root": tmp_path / "data", "data.batch_size": 8, "data.workers": 0}
    config = changed(tiny_run(tmp_path / "run", epochs=1, throughput_repeats=0, resume=True), settings)
    run_training(config)
    return config


def test_another_number_of_images_is_noticed_and_both_are_said(begun):
    write_images(begun.data.root / "train", 24)
    with pytest.raises(InputError, match=r"another .*number of training images.*number of training images: 24, now 48"):
        run_training(begun)


def test_other_images_of_the_same_number_are_noticed(begun):
    (begun.data.root / "train/a/03.png").rename(begun.data.root / "train/a/99.png")
    with pytest.raises(InputError, match="with another names of training images; resume needs the same"):
        run_training(begun)


def test_other_classes_are_noticed(begun):
    for split in ("train", "val"):
        (begun.data.root / split / "b").rename(begun.data.root / split / "c")
    with pytest.raises(InputError, match=r"model.class_names: \['a', 'b'\], now \['a', 'c'\]"):
        run_training(begun)
    for split in ("train", "val"):
        write_images(begun.data.root / split, 12, "b")
    with pytest.raises(InputError, match=r"model.num_classes: 2, now 3"):
        run_training(begun)


def test_data_that_have_moved_are_the_same(begun, tmp_path):
    moved = shutil.move(begun.data.root, tmp_path / "elsewhere")
    run_training(changed(begun, {"data.root": Path(moved)}))


def test_a_part_of_a_whole_that_has_grown_is_noticed(begun, tmp_path):
    limited = changed(begun, {"data.limit": 10, "out": tmp_path / "limited"})
    run_training(limited)
    write_images(begun.data.root / "train", 24)
    with pytest.raises(InputError, match="names of training images"):
        run_training(limited)


def test_other_weights_to_start_from_are_noticed_and_the_same_elsewhere_are_not(begun, tmp_path):
    config = dataclasses.replace(begun, init=str(begun.out / "model"), out=tmp_path / "tuned")
    run_training(config)
    shutil.copytree(begun.out / "model", tmp_path / "copy")
    run_training(dataclasses.replace(config, init=str(tmp_path / "copy")))
    other = supervit.load(tmp_path / "copy")
    with torch.no_grad():
        other.norm.weight[0] += 1
    other.save(tmp_path / "copy")
    with pytest.raises(InputError, match="with another weights of init; resume needs the same"):
        run_training(dataclasses.replace(config, init=str(tmp_path / "copy")))


def test_another_number_of_shards_is_noticed(tmp_path):
    pytest.importorskip("webdataset")
    for split in ("train", "val"):
        write_shards(tmp_path, split, (8, 8))
    settings = {"data.name": "webdataset", "data.root": tmp_path, "data.batch_size": 4, "data.workers": 0}
    config = changed(tiny_run(tmp_path / "run", epochs=1, throughput_repeats=0, resume=True), settings)
    run_training(config)
    shards = sorted((tmp_path / "train").glob("*.tar")) or sorted(tmp_path.glob("train-*.tar"))
    shutil.copy(shards[0], shards[0].with_name(f"{shards[0].stem}9.tar"))
    for sizes in tmp_path.rglob("sizes.json"):
        sizes.unlink()
    with pytest.raises(InputError, match=rf"number of shards: {len(shards)}, now {len(shards) + 1}"):
        run_training(config)


def test_other_versions_are_said_and_no_obstacle(begun, monkeypatch, capsys):
    now = loop.versions()
    monkeypatch.setattr(loop, "versions", lambda: {**now, "torch": "99.0"})
    run_training(begun)
    assert "begun with another version of torch" in (said := capsys.readouterr().out)
    assert "now '99.0'" in said
    assert len(log(begun.out, "start")) == 2
    assert log(begun.out, "start")[-1]["versions"]["torch"] == "99.0"


def test_finetune_without_weights_is_refused(begun, tmp_path):
    config = dataclasses.replace(load_recipe("finetune"), data=begun.data, out=tmp_path / "tuned")
    with pytest.raises(InputError, match="starts from pretrained weights; name them with --init"):
        run_training(config)
    assert checkpoints(config.out) == []
    assert "finetune" in (load_recipe.__globals__["_recipe"]("image_folder").__doc__)
