"""The commands that draw: what they write, and what they refuse before anything is computed."""

import csv
import json
import runpy
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from supervit import SuperViT
from supervit.cli import main
from supervit.commands._drawing import picture_names
from supervit.runtimes import as_runtime
from tests.conftest import plain_runtime, small_config, trained_like

pytest.importorskip("matplotlib")
NAMES = ("cat", "dog", "eel", "fox", "gnu")


@pytest.fixture
def saved(tmp_path) -> str:
    trained_like(SuperViT(small_config(class_names=NAMES, depth=4, drop_blocks=(1, 2)))).save(tmp_path / "model")
    return str(tmp_path / "model")


def photograph(path, seed=0, size=(40, 30)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (*size, 3), dtype=np.uint8)).save(path)
    return path


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def refusal(capsys, *command):
    with pytest.raises(SystemExit):
        main(list(map(str, command)))
    return capsys.readouterr().err


def test_predict_draws_each_image_that_it_can_read(saved, tmp_path, capsys):
    photograph(tmp_path / "a/x.png")
    photograph(tmp_path / "b/X.png", 1)
    (tmp_path / "b/bad.png").write_bytes(b"no image")
    with pytest.raises(SystemExit) as stop:
        main(["predict", saved, str(tmp_path / "a"), str(tmp_path / "b"), "--draw", str(tmp_path / "drawn")])
    assert stop.value.code == 1
    assert "1 of 3 images could not be read" in capsys.readouterr().err
    assert names(tmp_path / "drawn") == [f"{name}.{form}" for name in ("X_2", "x") for form in ("pdf", "png", "svg")]
    svg = (tmp_path / "drawn/X_2.svg").read_text()
    assert svg.count("<image") == 6  # as seen, the point that answered, two cut points of two grids
    for text in ("7: 49 of 49 patches", "7@0.5:", "4@0.7:", "X.png", "dropped in block 2 of 4"):
        assert text in svg


def test_predict_draws_the_points_asked_for_or_those_of_a_ladder(saved, tmp_path, capsys):
    image = str(photograph(tmp_path / "x.png"))
    main(["predict", saved, image, "--draw", str(tmp_path / "drawn"), "--draw-points", "6@0.3"])
    assert (tmp_path / "drawn/x.svg").read_text().count("<image") == 2
    ladder = {"rungs": ["4@0.5", "7"], "thresholds": [0.9], "confidence": "probability", "answer": "last", "model": None}
    (tmp_path / "ladder.json").write_text(json.dumps(ladder))
    options = ["--ladder", str(tmp_path / "ladder.json"), "--form", "json"]
    main(["predict", saved, image, *options, "--draw", str(tmp_path / "ladder")])
    svg = (tmp_path / "ladder/x.svg").read_text()
    assert svg.index("4@0.5:") < svg.index("7: 49 of 49")
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["class_name"] in NAMES


def test_predict_writes_over_no_image(saved, tmp_path):
    image = photograph(tmp_path / "x.png")
    before = image.read_bytes()
    main(["predict", saved, str(image), "--draw", str(tmp_path)])
    assert image.read_bytes() == before
    assert {"x_2.png", "x_2.svg", "x_2.pdf"} <= set(names(tmp_path))
    many = [tmp_path / folder / f"{'y' * 200}.jpg" for folder in "abc"]
    found = picture_names(many, tmp_path)
    assert len(set(found)) == 3
    assert max(map(len, found)) < 60


def test_what_cannot_be_drawn_is_refused_before_anything_is_computed(saved, tmp_path, capsys, monkeypatch):
    image = photograph(tmp_path / "x.png")
    assert "name a folder for them: --draw FOLDER" in refusal(capsys, "predict", saved, image, "--draw-points", "7")
    assert "does not parse" in refusal(capsys, "predict", saved, image, "--draw", tmp_path / "d", "--draw-points", "7@")
    assert "cannot write to" in refusal(capsys, "predict", saved, image, "--draw", image)
    monkeypatch.setattr("importlib.util.find_spec", lambda name, package=None: None)
    assert "needs matplotlib" in refusal(capsys, "predict", saved, image, "--draw", tmp_path / "d")
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("name", ["onnx_runtime", "openvino", "torch_export", "aot_inductor"])
def test_runtimes_that_do_not_tell_what_they_drop_are_refused(saved, tmp_path, capsys, monkeypatch, name):
    opened = plain_runtime(as_runtime(SuperViT.from_pretrained(saved)), name=name)
    monkeypatch.setattr("supervit.commands._opening._RunOptions.open", lambda self, path: opened)
    error = refusal(capsys, "predict", saved, photograph(tmp_path / "x.png"), "--draw", tmp_path / "d")
    assert f"{name} does not tell which patches it drops, PyTorch's runtimes alone do; give the model itself" in error


def test_evaluate_writes_the_classes_and_their_confusion(saved, tmp_path, capsys):
    for index in range(10):
        photograph(tmp_path / "data/val" / NAMES[index % 5] / f"{index}.png", index)
    options = ["--data.root", str(tmp_path / "data"), "--data.workers", "0", "--repeats", "0", "--points", "4@0.5", "7"]
    main(["evaluate", saved, *options, "--out", str(tmp_path / "out")])
    assert " ± " in capsys.readouterr().out
    assert {"classes.csv", "classes.md", "confusion", "confusion.png", "confusion.svg", "confusion.pdf"} <= {
        *names(tmp_path / "out")
    }
    rows = list(csv.DictReader((tmp_path / "out/classes.csv").open()))
    results = {row["complexity"]: row for row in json.loads((tmp_path / "out/results.json").read_text())["results"]}
    for point in ("4@0.5", "7"):
        right = sum(float(row["top1"]) * int(row["images"]) / 100 for row in rows if row["complexity"] == point)
        assert 100 * right / 10 == pytest.approx(results[point]["top1"])
        assert results[point]["top1_standard_error"] == pytest.approx(
            (results[point]["top1"] * (100 - results[point]["top1"]) / 10) ** 0.5
        )
        matrix = list(csv.reader((tmp_path / f"out/confusion/{point}.csv").open()))
        assert matrix[0] == ["class", *NAMES]
        assert [row[0] for row in matrix[1:]] == list(NAMES)
        assert sum(int(cell) for row in matrix[1:] for cell in row[1:]) == 10
        assert sum(int(matrix[1 + index][1 + index]) for index in range(5)) == pytest.approx(right)


def test_the_picture_of_the_readme_can_be_drawn_anew(tmp_path, monkeypatch):
    pytest.importorskip("sklearn")
    SuperViT(small_config(num_classes=1000)).save(tmp_path / "model")
    script = Path(__file__).parents[2] / "docs/images/what_is_dropped.py"
    monkeypatch.setattr("sys.argv", [str(script), str(tmp_path / "model"), "--out", str(tmp_path / "drawn.png")])
    runpy.run_path(str(script), run_name="__main__")
    with Image.open(tmp_path / "drawn.png") as drawn, Image.open(script.with_suffix(".png")) as committed:
        assert drawn.size == committed.size
    assert script.with_suffix(".png").stat().st_size < 400_000


def test_curves_are_drawn_of_any_run(tmp_path, capsys):
    run = tmp_path / "run"
    run.mkdir()
    train = {"event": "train", "step": 2, "epoch": 1, "lr": 1e-3, "loss": 3.0, "losses": {"7": 2.0, "7@0.5": 1.0}}
    evaluated = {"event": "evaluate", "step": 2, "epoch": 1, "top1": {"7@0.5": 40.0, "7": 50.0}}
    (run / "log.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in (train, evaluated)) + "damage\n{")
    main(["curves", str(run), "--out", str(tmp_path / "new")])
    out, err = capsys.readouterr()
    assert "epoch 1, step 2: loss 3.000, learning rate 0.001\ntop-1 after epoch 1: 50.00 % at 7, 40.00 % at 7@0.5" in out
    assert "left out 1 damaged lines of" in err
    main(["curves", str(run / "log.jsonl")])
    assert (run / "curves.pdf").read_bytes() == (tmp_path / "new/curves.pdf").read_bytes()
    (tmp_path / "new/log.jsonl").write_text("{\n}\n")
    capsys.readouterr()
    for directory, reason in ((tmp_path / "new", "no entries yet, 2 damaged lines"), (tmp_path / "nowhere", "No such file")):
        error = refusal(capsys, "curves", directory)
        assert error.startswith("supervit: error: ")
        assert reason in error
        assert error.count("\n") == 1
