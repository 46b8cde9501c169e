"""What somebody meets who tries the command line for the first time: interruptions, results in the way, hints that help."""

import dataclasses
import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from PIL import Image

import supervit
from supervit import InputError, SuperViT
from supervit.cli import main
from supervit.commands._help import in_flags, options_of
from supervit.data import DamagedImage, Reading, open_image, read_image, split_folder
from supervit.recipes import load_recipe
from supervit.runtimes import Availability
from supervit.train import loop, run_training
from tests.conftest import small_config, trained_like
from tests.data_sets import write_images
from tests.integration.test_predictor import png_of_size
from tests.integration.test_train import changed, tiny_run

DIGITS = ["--data.name", "digits", "--data.workers", "0"]


@pytest.fixture
def model(tmp_path) -> str:
    pytest.importorskip("sklearn")
    small = {"in_chans": 1, "num_classes": 10, "depth": 2, "drop_blocks": (1,), "grid_sizes": (4, 7), "keep_rates": (0.5, 1.0)}
    trained_like(SuperViT(small_config(**small))).save(tmp_path / "model")
    return str(tmp_path / "model")


def ended(*arguments) -> int:
    with pytest.raises(SystemExit) as stop:
        main([*map(str, arguments)])
    return stop.value.code


# --- interruptions --------------------------------------------------------------------------------------------------


INTERRUPTED = {
    "evaluate": ([*DIGITS, "--out"], "supervit.evaluate.evaluate"),
    "predict": (["0.png", "--draw"], "supervit.predictor.Predictor.stream"),
    "benchmark": (["--out"], "supervit.evaluate.measure_throughput"),
    "profile": (["--out"], "supervit.profiling.profile"),
    "cascade": ([*DIGITS, "--out"], "supervit.calibrate.collect_answers"),
    "search": ([*DIGITS, "--out"], "supervit.evaluate.evaluate"),
    "runtimes": ([*DIGITS, "--out"], "supervit.comparison.compare_runtimes"),
    "export": (["--out"], "supervit.export.trace"),
    "convert": ([], "supervit.storage.whole_file"),
    "curves": (["--out"], "supervit.pictures.curves.draw_curves"),
    "macs": (None, "supervit.evaluate.tabulate"),
    "label": (None, "supervit.label.pick_device"),
}


@pytest.mark.parametrize("command", INTERRUPTED)
def test_an_interrupted_command_says_so_in_one_line_and_leaves_no_empty_folder(command, model, tmp_path, monkeypatch, capsys):
    def interrupted(*_arguments, **_options):
        raise KeyboardInterrupt

    options, place = INTERRUPTED[command]
    monkeypatch.setattr(place, interrupted)
    out = tmp_path / "new/results"
    call = [command, model, *(options or []), out]
    if command == "macs":
        call = [command, "deit_tiny"]
    if command == "label":
        (tmp_path / "data/train/cat").mkdir(parents=True)
        Image.new("RGB", (9, 9)).save(tmp_path / "data/train/cat/1.png")
        teacher = torch.nn.Linear(1, 1)
        monkeypatch.setattr("supervit.label.load_teacher", lambda *_: teacher)
        call = [command, "--root", tmp_path / "data", "--out", out, "--teacher", "any"]
    assert ended(*call) == 130
    assert capsys.readouterr().err == "supervit: interrupted; nothing was written\n"
    assert not (tmp_path / "new").exists()


def test_every_command_is_interrupted_above():
    from supervit.cli import COMMANDS

    assert {*INTERRUPTED, "train"} == {*COMMANDS}


def test_an_error_leaves_no_empty_folder_either(model, tmp_path, capsys):
    assert ended("evaluate", model, "--data.root", tmp_path / "nowhere", "--out", tmp_path / "a/b/c") == 2
    assert ended("export", tmp_path / "no model", "--out", tmp_path / "a/b/c") == 2
    assert not (tmp_path / "a").exists()
    (tmp_path / "mine").mkdir()
    assert ended("evaluate", model, "--data.root", tmp_path / "nowhere", "--out", tmp_path / "mine") == 2
    assert (tmp_path / "mine").is_dir()


def test_accuracies_outlive_an_interrupted_timing_and_the_line_says_where_they_are(model, tmp_path, monkeypatch, capsys):
    def interrupted(*_arguments, **_options):
        raise KeyboardInterrupt(signal.SIGTERM)

    pytest.importorskip("matplotlib")
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", lambda *_, **__: None)
    monkeypatch.setattr("supervit.evaluate.measure_throughput", interrupted)
    assert ended("evaluate", model, *DIGITS, "--out", tmp_path / "table") == 143
    said = capsys.readouterr().err
    assert re.fullmatch(r"supervit: interrupted; what was written before is kept in '.*/table'\n", said)
    assert all(row["top1"] is not None for row in json.loads((tmp_path / "table/results.json").read_text())["results"])


def test_a_signal_ends_a_process_with_one_line_and_the_status_of_a_shell(model, tmp_path):
    call = [sys.executable, "-m", "supervit", "benchmark", model, "--out", str(tmp_path / "out")]
    process = subprocess.Popen([*call, "--seconds", "0", "--repeats", "3000"], stderr=subprocess.PIPE, text=True)
    while not (tmp_path / "out").exists() and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    assert said.strip() == "supervit: interrupted; nothing was written"
    assert not (tmp_path / "out").exists()


# --- results in the way ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["evaluate", "profile", "search", "cascade", "runtimes", "benchmark"])
def test_results_of_another_model_or_other_data_are_not_written_over_unasked(command, model, tmp_path, monkeypatch, capsys):
    pytest.importorskip("matplotlib")
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", lambda *_, **__: None)  # takes the most of the time
    here = [Availability("eager", "float32", None)]
    monkeypatch.setattr("supervit.comparison.available_runtimes", lambda device: here)
    monkeypatch.setattr("supervit.runtimes.available_runtimes", lambda device: here)
    trained_like(SuperViT(small_config(in_chans=1, num_classes=10, depth=1, drop_blocks=(0,)))).save(tmp_path / "other")
    options = {
        "evaluate": [*DIGITS, "--repeats", "0"],
        "profile": ["--repeats", "1", "--warmup", "0"],
        "search": [*DIGITS, "--passes", "1"],
        "cascade": [*DIGITS, "--timed-images", "0"],
        "runtimes": [*DIGITS, "--repeats", "1", "--images", "20", "--calibration-images", "0"],
        "benchmark": ["--repeats", "1", "--warmup", "0", "--batch-size", "2"],
    }[command] + ["--out", str(tmp_path / "out")]
    options += [] if command == "search" else ["--points", "4@0.5", "7"]
    main([command, model, *options])
    main([command, model, *options])  # the same again
    written = {file: file.read_bytes() for file in (tmp_path / "out").rglob("*") if file.is_file()}
    capsys.readouterr()
    assert ended(command, tmp_path / "other", *options) == 2
    said = capsys.readouterr().err
    assert re.fullmatch(
        r"supervit: error: '.*out' holds results of another model \(model '.*', now '.*'\); .*--overwrite\n", said
    )
    if "--data.name" in options and command != "runtimes":
        assert ended(command, model, *options, "--split", "train") == 2
        assert "of another split (split 'val', now 'train')" in capsys.readouterr().err
    assert {file: file.read_bytes() for file in (tmp_path / "out").rglob("*") if file.is_file()} == written
    main([command, str(tmp_path / "other"), *options, "--overwrite"])
    for file in (tmp_path / "out").glob("*.json"):
        file.write_text("{")
    capsys.readouterr()
    assert ended(command, model, *options) == 2
    assert "is there and does not say what it is of" in capsys.readouterr().err


def test_weights_are_not_converted_over_others(model, tmp_path, capsys):
    main(["convert", model, str(tmp_path / "copy")])
    for source, out in ((model, tmp_path / "copy"), (f"{model}/model.safetensors", model)):
        assert ended("convert", source, out) == 2
        assert "has model.safetensors and config.json already; name another directory" in capsys.readouterr().err
    main(["convert", model, str(tmp_path / "copy"), "--overwrite"])


# --- training -------------------------------------------------------------------------------------------------------


def test_a_run_says_at_its_start_what_it_trains_on_what(tmp_path, capsys):
    pytest.importorskip("sklearn")
    run = tiny_run(tmp_path / "run", epochs=1, plot=False, throughput_repeats=0)
    SuperViT(run.model.replace(num_classes=11)).save(tmp_path / "other")
    run_training(run)
    said = capsys.readouterr().out.splitlines()
    expected = "1,437 training and 360 validation images of 10 classes; 1 epochs of 3 steps of 479 images: 3 steps"
    assert said[0] == expected
    assert re.search(
        r"deit of width 16 and 3 blocks, [\d.]+ million parameters, fresh weights; 6 operating points: 3@0.5", said[1]
    )
    run_training(dataclasses.replace(run, out=tmp_path / "tuned", init=str(tmp_path / "other")))
    assert "its classifier (11 classes) replaced by a new one for the data's classes" in capsys.readouterr().out
    run_training(dataclasses.replace(run, out=tmp_path / "again", init=str(tmp_path / "run")))
    assert "replaced" not in capsys.readouterr().out


def test_the_timing_at_the_end_takes_a_tenth_of_the_trainings_time_at_most(tmp_path, monkeypatch, capsys):
    pytest.importorskip("sklearn")
    limits, start = {}, time.monotonic()

    def measure(model, points, *_counts, **options):
        limits.update(options, elapsed=time.monotonic() - start)
        return {}

    monkeypatch.setattr(loop, "measure_throughput", measure)
    run_training(tiny_run(tmp_path / "run", epochs=1, plot=False))
    assert 0 < limits["seconds"] <= limits["elapsed"] / 10
    assert limits["each_once"]
    assert "measuring images/s of 6 operating points (at most about 0." in capsys.readouterr().out
    run_training(tiny_run(tmp_path / "unlimited", epochs=1, plot=False, throughput_seconds=0))
    assert limits["seconds"] == 0


def test_damage_found_after_an_epoch_loses_none_of_its_steps(tmp_path, capsys):
    write_images(tmp_path / "data/train", 8, digits=1)
    write_images(tmp_path / "data/val", 4, digits=1)
    (tmp_path / "data/val/b/1.png").write_bytes(b"no image")
    settings = {"data.name": "image_folder", "data.root": tmp_path / "data", "data.batch_size": 8}
    run = changed(tiny_run(tmp_path / "run", epochs=3, save_every=3, eval_every=2, plot=False), settings)
    with pytest.raises(InputError, match=r"1 of 8 images cannot .* raise max_damaged; go on with --resume from '.*00000004'"):
        run_training(run)
    run_training(changed(run, {"data.max_damaged": 0.2, "resume": True}))
    assert "goes on after step 4 of 6" in capsys.readouterr().out
    assert (tmp_path / "run/model/config.json").exists()


def test_the_directory_of_a_run_is_taken_for_its_model_everywhere(model, tmp_path, capsys):
    (tmp_path / "run").mkdir()
    (tmp_path / "model").rename(tmp_path / "run/model")
    run, here = str(tmp_path / "run"), SuperViT.from_pretrained(tmp_path / "run/model").fingerprint()
    assert supervit.load(run).fingerprint() == SuperViT.from_pretrained(run).fingerprint() == here
    Image.new("L", (30, 30)).save(tmp_path / "0.png")
    main(["predict", run, str(tmp_path / "0.png")])
    main(["benchmark", run, "--repeats", "1", "--batch-size", "1"])
    main(["convert", run, str(tmp_path / "copy")])
    assert supervit.load(tmp_path / "copy").fingerprint() == here
    (tmp_path / "begun/checkpoints/step-00000007").mkdir(parents=True)
    assert ended("predict", tmp_path / "begun", tmp_path / "0.png") == 2
    assert "has not ended, so there is no model yet; go on with --resume, or take" in capsys.readouterr().err


# --- hints ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text, expected",
    [
        ("1 of 24, more than max_damaged = 0.01 allows", "1 of 24, more than --data.max-damaged = 0.01 allows"),
        ("lr 0 must be more than 0", "--lr 0 must be more than 0"),
        ("workers 99 at least 0", "--data.workers 99 at least 0"),
        ("device 'gpu' cannot be used", "--device 'gpu' cannot be used"),
        ("data.batch_size: 8, now 9", "--data.batch-size: 8, now 9"),
        ("use fewer workers, or --data.max-damaged 1", "use fewer workers, or --data.max-damaged 1"),
        ("it holds the name 'a'; the seed of '/my/batch_size/3'", "it holds the name 'a'; the seed of '/my/batch_size/3'"),
        ("'run.yaml' cannot be used (batch_size 0)", "'run.yaml' cannot be used (batch_size 0)"),
    ],
)
def test_errors_of_the_command_line_name_flags(text, expected):
    config = load_recipe("image_folder")
    assert in_flags(text, options_of(type(config), config)) == expected


def test_no_error_of_a_field_that_is_a_flag_names_the_field(capsys, tmp_path):
    """All numbers of a run, out of their range: what the line says of them is what is typed."""
    config = load_recipe("digits")
    flags = [flag for option in options_of(type(config), config) for flag in option.flags[:1]]
    calls = [["train", "digits", flag, "-7"] for flag in flags if "_" not in flag and flag.count("-") > 2]
    for call in calls:
        with pytest.raises(SystemExit):
            main([*call, "--out", str(tmp_path / "run"), "--epochs", "0"])
        said = capsys.readouterr().err
        field = call[2].removeprefix("--").rpartition(".")[2].replace("-", "_")
        assert field not in said.replace(call[2], ""), said


@pytest.mark.parametrize(
    "call, hint",
    [
        (["evaluate", "--modl", "x"], "unknown option '--modl'; MODEL is written without one, usage: supervit evaluate"),
        (["evaluate", "--model", "x"], "MODEL is written without one"),
        (["predict", "x", "--image", "y"], "IMAGES ... is written without one"),
        (["convert", "--soruce", "x"], "SOURCE is written without one"),
    ],
)
def test_arguments_that_are_known_by_their_place_are_named(call, hint, capsys):
    assert ended(*call) == 2
    assert hint in capsys.readouterr().err


def test_a_folder_near_the_root_is_named(tmp_path):
    for split in ("train", "val"):
        (tmp_path / "PHOTOS" / split / "cat").mkdir(parents=True)
    (tmp_path / "other/train/cat").mkdir(parents=True)
    (tmp_path / "other/test/cat").mkdir(parents=True)
    (tmp_path / "plain/cat").mkdir(parents=True)
    cases = {
        "PHOTOS/train": r"did you mean '.*/PHOTOS'\?",
        "PHOTOS/val": r"did you mean '.*/PHOTOS'\?",
        "PHOTOS/train/cat": r"did you mean '.*/PHOTOS'\?",
        ".": r"did you mean '.*/PHOTOS'\?",
        "other": "rename '.*/other/test' to val",
        "plain": "it has the folders cat, ...: put most of the images of each below train/",
        "nowhere": "expected ROOT",
    }
    for root, hint in cases.items():
        with pytest.raises(InputError, match=f"no folder '.*val'; {hint}"):
            split_folder(tmp_path / root, "val", "ROOT/val")
    assert split_folder(tmp_path / "PHOTOS", "val", "") == tmp_path / "PHOTOS/val"


@pytest.mark.parametrize("start, kind", [
    (b"\0\0\0\x18ftypheic", "HEIC"), (b"\0\0\0\x18ftypmif1", "HEIC"), (b"\xff\x0a", "JPEG XL"), (b"8BPS\0\1", "Photoshop"),
    (b"%PDF-1.4", "PDF"), (b"%!PS-Adobe", "EPS"), (b"<svg>", "SVG"),
])  # fmt: skip
def test_pictures_of_other_formats_say_what_to_convert_them_to(start, kind):
    with pytest.raises(DamagedImage, match=rf"known format, but {kind}.*; convert it to JPEG or PNG"):
        read_image(start + bytes(99))


def test_files_that_are_left_aside_say_what_to_do(tmp_path, caplog):
    (tmp_path / "train/cat").mkdir(parents=True)
    Image.new("L", (9, 9)).save(tmp_path / "train/cat/1.png")
    (tmp_path / "train/cat/2.HEIC").touch()
    from supervit.data import SourceConfig
    from supervit.data.image_folder import open_split

    open_split(SourceConfig(root=tmp_path), "train")
    assert "(1 .heic), such as 'cat/2.HEIC'" in caplog.text
    assert "must be converted to JPEG or PNG" in caplog.text


def test_pillows_limit_of_pixels_is_not_ours(monkeypatch):
    giant = png_of_size(20_000, 20_000)
    with open_image(giant, Reading(max_pixels=10**9)) as image:
        assert image.size == (20_000, 20_000)
    with pytest.raises(DamagedImage, match="20000 x 20000 pixels .* larger than max_pixels = 50000000 allows"):
        open_image(giant)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    from tests.integration.test_predictor import as_bytes, photograph

    for form in ("PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP"):
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
        image = read_image(as_bytes(photograph(80, 60), form), Reading(max_pixels=10**6))
        assert image.crop((0, 0, 80, 60)).size == (80, 60)


def test_a_config_that_contradicts_itself_is_named(model, capsys):
    file = Path(model, "config.json")
    file.write_text(json.dumps({**json.loads(file.read_text()), "class_names": ["a", "b"]}))
    assert ended("predict", model, "0.png") == 2
    said = capsys.readouterr().err
    assert "/model/config.json' cannot be used (2 class_names do not fit num_classes 10)" in said
