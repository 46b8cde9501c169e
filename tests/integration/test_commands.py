import csv
import dataclasses
import io
import json
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from PIL import Image

import supervit.comparison
import supervit.export
from supervit import InputError, SuperViT
from supervit.calibrate import halves
from supervit.cascade import Cascade as RunningCascade
from supervit.cascade import Ladder
from supervit.choose import Budget, choose
from supervit.cli import main
from supervit.commands import Cascade, Export, Profile, Runtimes
from supervit.controller import Controller
from supervit.cost_table import CostTable, Setup
from supervit.data import EpochLoader, SourceConfig, open_dataset
from supervit.export import Quantised, export_model
from supervit.runtimes import Availability
from tests.conftest import small_config, trained_like

POINTS = ("4@0.5", "7@0.7", "7")
DIGITS = SourceConfig(name="digits", batch_size=64, workers=0)


@pytest.fixture
def saved(tmp_path) -> str:
    pytest.importorskip("sklearn")
    trained_like(SuperViT(small_config(in_chans=1, num_classes=10, depth=4, drop_blocks=(1, 2)))).save(tmp_path / "model")
    return str(tmp_path / "model")


def accuracies_file(saved, tmp_path, points=POINTS, **changes):
    rows = [{"complexity": point, "top1": 50.0 + index} for index, point in enumerate(points)]
    evaluated = {"fingerprint": SuperViT.from_pretrained(saved).fingerprint(), "precision": "float32", "runtime": "compiled"}
    (tmp_path / "results.json").write_text(json.dumps({"results": rows, **evaluated, **changes}))
    return tmp_path / "results.json"


def test_profile_writes_a_table_to_choose_from(saved, tmp_path, capsys):
    out = tmp_path / "profile"
    accuracies = accuracies_file(saved, tmp_path)
    Profile(saved, POINTS, (1, 4), repeats=2, warmup=1, accuracies=accuracies, out=out).run()
    printed = capsys.readouterr().out
    assert "Pareto set at batch size 4: " in printed
    assert (out / "latency_batch_1.png").exists()
    assert (out / "latency_batch_4.svg").exists()
    table = CostTable.load(out / "costs.json")
    table.check(Setup.of(SuperViT.from_pretrained(saved)))
    assert len(table.rows) == 6
    assert str(choose(table, Budget(latency_ms=1e6)).complexity) == "7"
    assert str(Controller(table, 1e6, batch_size=1).complexity) == "7"
    other = trained_like(SuperViT(small_config(in_chans=1, num_classes=11)))
    with pytest.raises(InputError, match="the cost table holds for model"):
        table.check(Setup.of(other))


def test_profile_without_accuracies_is_a_table_of_costs(saved, tmp_path, capsys):
    Profile(saved, ("4@0.5",), repeats=1, warmup=0, out=tmp_path / "profile").run()
    assert "Pareto" not in capsys.readouterr().out
    assert [path.name for path in (tmp_path / "profile").iterdir()] == ["costs.json"]


def test_profile_refuses_accuracies_that_do_not_fit(saved, tmp_path):
    with pytest.raises(InputError, match="has no accuracy of 7; evaluate these too"):
        Profile(saved, POINTS, accuracies=accuracies_file(saved, tmp_path, POINTS[:2])).run()
    for name, value in [("fingerprint", "0123"), ("fingerprint", None), ("precision", "int8")]:
        with pytest.raises(InputError, match=f"holds accuracies of {name} {value!r}, here it is .*evaluate what you profile"):
            Profile(saved, POINTS, accuracies=accuracies_file(saved, tmp_path, **{name: value})).run()
    for content in (
        "{",
        '{"results": [{"complexity": "7", "top1": null}]}',
        "[]",
        json.dumps({"results": [{"complexity": "7", "top1": 10**400}]}),
    ):
        (tmp_path / "results.json").write_text(content)
        with pytest.raises(InputError, match="holds no accuracies"):
            Profile(saved, POINTS, accuracies=tmp_path / "results.json").run()


def test_cascade_writes_a_ladder_that_runs(saved, tmp_path, capsys):
    out = tmp_path / "cascade"
    Cascade(saved, DIGITS, points=POINTS, max_rungs=2, timed_images=40, out=out).run()
    printed = capsys.readouterr().out
    assert "chosen by 180 images; 180 held-out images say" in printed
    assert "paper_pair" in printed
    assert {path.name for path in out.iterdir()} == {"ladder.json", "cascade.json", "cascade.png", "cascade.svg", "cascade.pdf"}
    report = json.loads((out / "cascade.json").read_text())
    assert report["cascade"]["calibration"]["top1"] >= report["dearest"]["calibration"]["top1"]
    assert report["cascade"]["throughput_ips"] > 0
    ladder = Ladder.load(out / "ladder.json")
    model = SuperViT.from_pretrained(saved)
    written = {name: report["cascade"][name] for name in ladder.to_dict()} | {"model": model.fingerprint()}
    assert json.loads(json.dumps(ladder.to_dict())) == written
    dataset = open_dataset(DIGITS, "val", model.config)
    batches = [batch[:2] for batch in EpochLoader(dataset, 64, 0).epoch()]
    labels = torch.cat([labels for _, labels in batches])
    exits = RunningCascade(model, ladder).run(images for images, _ in batches)
    held_out = halves(len(labels), seed=0)[1]
    top1 = 100 * (exits.logits.argmax(1) == labels)[held_out].float().mean()
    assert top1 == pytest.approx(report["cascade"]["held_out"]["top1"], abs=1.2)  # two of 180 may tip over


def test_cascade_on_a_menu_without_the_papers_pair(tmp_path, capsys):
    pytest.importorskip("sklearn")
    SuperViT(small_config(in_chans=1, num_classes=10, grid_sizes=(4,), keep_rates=(0.5, 1.0))).save(tmp_path)
    Cascade(str(tmp_path), DIGITS, timed_images=0).run()
    assert "paper_pair" not in capsys.readouterr().out


def test_cascade_takes_a_target_and_refuses_what_cannot_be(saved, tmp_path):
    with pytest.raises(InputError, match="no cascade reaches 101 %"):
        Cascade(saved, DIGITS, points=POINTS[:1], target_top1=101.0, out=tmp_path / "out").run()
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"cascade.json", "cascade.png", "cascade.svg", "cascade.pdf"}
    assert json.loads((tmp_path / "out/cascade.json").read_text())["curve"]  # the pass over the data is not lost
    for change in ({"timed_images": -1}, {"safety": -1.0}):
        with pytest.raises(InputError, match="-1 .*must be at least 0"):
            Cascade(saved, DIGITS, **change).run()
    with pytest.raises(InputError, match="give one of the two"):
        Cascade(saved, DIGITS, points=POINTS[:1], target_top1=70.0, target_macs=1.0).run()
    with pytest.raises(InputError, match=r"target_top1 0.98 is in percent"):
        Cascade(saved, DIGITS, target_top1=0.98).run()


def test_export_says_how_each_point_differs(saved, tmp_path, capsys):
    pytest.importorskip("onnxruntime")
    Export(tmp_path / "onnx", points=("4@0.5", "7"), model=saved).run()
    printed = capsys.readouterr().out
    assert "elastic onnx, float32, inputs images, keep" in printed
    report = json.loads((tmp_path / "onnx/export.json").read_text())
    assert [point["complexity"] for point in report["points"]] == ["4@0.5", "7"]
    assert all(point["difference"] < 1e-3 for point in report["points"])


def test_int8_is_calibrated_on_validation_images(saved):
    export = Export(Path("unused"), precision="int8", model=saved, data=DIGITS, calibration_images=7)
    config = small_config(in_chans=1, num_classes=10)
    images, labels = export._calibration(config)
    assert (images.shape, labels.shape) == ((7, 1, 28, 28), (7,))
    assert torch.equal(export._calibration(config)[0], images)


@pytest.mark.parametrize("is_labelled", [True, False])
def test_int8_says_what_it_costs_on_the_images_that_it_was_calibrated_on(saved, tmp_path, capsys, monkeypatch, is_labelled):
    report = export_model(SuperViT.from_pretrained(saved), "torch_export", tmp_path / "out", ["7"])
    top1 = {"7": 70.0} if is_labelled else None
    quantised = Quantised(images=7, agreement={"7": 98.5}, top1=top1, top1_float32=top1 and {"7": 71.0})
    report = dataclasses.replace(report, target="onnx", precision="int8", quantised=quantised)
    monkeypatch.setattr(supervit.export, "check_export", lambda *_arguments: None)
    monkeypatch.setattr(supervit.export, "export_model", lambda *_arguments: report)
    Export(tmp_path / "int8", precision="int8", points=("7",), model=saved, data=DIGITS, calibration_images=7).run()
    printed = capsys.readouterr().out
    assert "on the 7 images that it was calibrated on" in printed
    rows = [line.replace("|", " ").split() for line in printed.splitlines()]
    assert ["7", "98.5", *(["70.0", "71.0"] if is_labelled else [])] in rows
    assert ("float32 top-1 %" in printed) == is_labelled


def test_data_of_other_classes_are_refused(tmp_path):
    pytest.importorskip("sklearn")
    SuperViT(small_config(in_chans=1, num_classes=11)).save(tmp_path)
    with pytest.raises(InputError, match="the data have 10 classes, the model 11"):
        Cascade(str(tmp_path), DIGITS).run()


def test_every_command_runs_an_artefact_in_its_runtime(saved, tmp_path, capsys):
    pytest.importorskip("onnxruntime")
    Export(tmp_path / "onnx", points=POINTS, model=saved).run()
    onnx, options = str(tmp_path / "onnx"), ["--data.name", "digits", "--data.workers", "0"]
    main(["profile", onnx, "--repeats", "1", "--threads", "1", "--out", str(tmp_path / "costs")])
    setup = CostTable.load(tmp_path / "costs/costs.json").setup
    assert (setup.runtime, setup.precision, setup.threads) == ("onnx_runtime", "float32", 1)
    assert setup.model == SuperViT.from_pretrained(saved).fingerprint()
    main(["evaluate", onnx, *options, "--repeats", "0", "--out", str(tmp_path / "onnx_table")])
    main(["evaluate", saved, *options, "--repeats", "0", "--points", *POINTS, "--out", str(tmp_path / "table")])
    tables = [json.loads((tmp_path / name / "results.json").read_text()) for name in ("onnx_table", "table")]
    assert [table["runtime"] for table in tables] == ["onnx_runtime", "eager"]
    for there, here in zip(*(table["results"] for table in tables), strict=True):
        assert (there["complexity"], there["top1"]) == (here["complexity"], pytest.approx(here["top1"], abs=0.6))
    main(["profile", onnx, "--repeats", "1", "--accuracies", str(tmp_path / "table/results.json")])
    assert "Pareto set" in capsys.readouterr().out  # float32 has the same accuracies in all runtimes
    main(["cascade", onnx, *options, "--timed-images", "20", "--out", str(tmp_path / "exit")])
    Image.new("L", (30, 30)).save(tmp_path / "0.png")
    capsys.readouterr()
    main(["predict", onnx, str(tmp_path / "0.png"), "--ladder", str(tmp_path / "exit/ladder.json"), "--form", "json"])
    assert json.loads(capsys.readouterr().out)["complexity"] in POINTS


@pytest.mark.parametrize(
    "options, message",
    [
        (["--precision", "int8"], "int8 is calibrated on images: supervit export"),
        (["--runtime", "eger"], "unknown runtime 'eger'; did you mean eager"),
        (["--threads", "0"], "threads 0 must be at least 1"),
        (["--point", "4", "--ladder", "ladder.json"], "point 4 and ladder 'ladder.json': give one of the two"),
    ],
)
def test_options_that_cannot_be_are_refused(saved, options, message, capsys):
    with pytest.raises(SystemExit):
        main(["predict", saved, "0.png", *options])
    assert message in capsys.readouterr().err


def test_an_artefact_runs_in_its_own_runtime_alone(saved, tmp_path, capsys):
    pytest.importorskip("onnxruntime")
    Export(tmp_path / "onnx", points=("7",), model=saved).run()
    for options, message in [
        (["--runtime", "eager"], "is for onnx_runtime, not eager; leave --runtime out"),
        (["--device", "cuda"], "device 'cuda': artefacts run on the CPU here"),
        (["--precision", "bfloat16"], "runs in float32, not in bfloat16; export it in bfloat16"),
    ]:
        with pytest.raises(SystemExit):
            main(["predict", str(tmp_path / "onnx"), "0.png", *options])
        assert message in capsys.readouterr().err


def test_runtimes_are_compared_on_data(saved, tmp_path, capsys, monkeypatch):
    here = [Availability("eager", "float32", None), Availability("eager", "bfloat16", "not today")]
    here.append(Availability("unheard_of", "float32", None))
    monkeypatch.setattr("supervit.comparison.available_runtimes", lambda device: here)
    monkeypatch.setattr("supervit.runtimes.available_runtimes", lambda device: here)
    options = {"images": 20, "calibration_images": 4, "repeats": 1, "threads": 1, "out": tmp_path / "out"}
    Runtimes(saved, DIGITS, **options).run()
    printed, said = capsys.readouterr()
    assert "not here: eager bfloat16, not today" in printed
    assert "failed: unheard_of float32, unknown runtime" in said
    assert "20 images; against eager float32, timed anew beside each runtime" in printed
    assert "points: eager float32" in printed
    report = json.loads((tmp_path / "out/runtimes.json").read_text())
    assert report["best"] == {"runtime": "eager", "precision": "float32"}
    assert list(report["failures"]) == ["unheard_of float32"]
    assert [row["complexity"] for row in report["rows"]] == ["4@0.5", "7"]
    assert {row["agreement"] for row in report["rows"]} == {100.0}
    for change in ({"images": 0}, {"calibration_images": -1}, {"max_loss": -0.1}):
        with pytest.raises(InputError, match="must be at least 1"):
            Runtimes(saved, DIGITS, **change).run()


def test_runtimes_take_what_the_data_have_and_keep_what_is_measured(saved, tmp_path, capsys, monkeypatch):
    """The digits have 360 images for validation, fewer than the defaults ask for; the second runtime is interrupted."""
    here = [Availability("eager", "float32", None), Availability("compiled", "float32", None)]
    monkeypatch.setattr("supervit.comparison.available_runtimes", lambda device: here)

    def open_runtime(name, model, config, opening=supervit.comparison.open_runtime):
        if name == "compiled":
            raise KeyboardInterrupt
        return opening(name, model, config)

    monkeypatch.setattr("supervit.comparison.open_runtime", open_runtime)
    with pytest.raises(SystemExit) as stop:
        main(
            [
                "runtimes",
                saved,
                "--data.name",
                "digits",
                "--data.workers",
                "0",
                "--repeats",
                "1",
                "--out",
                str(tmp_path / "out"),
            ]
        )
    assert stop.value.code == 130
    assert "360 images are there: 240 are classified, 120 calibrate int8, not [500, 256]" in capsys.readouterr().out
    report = json.loads((tmp_path / "out/runtimes.json").read_text())
    assert (report["best"], report["images"], report["calibration_images"]) == (None, 240, 120)
    assert {row["runtime"] for row in report["rows"]} == {"eager"}


@pytest.mark.parametrize(
    "images, calibration, there, shared",
    [
        (None, None, 5000, (500, 256)),
        (None, None, 756, (500, 256)),
        (None, None, 100, (66, 34)),
        (None, None, 1, (1, 0)),
        (90, None, 100, (90, 10)),
        (100, None, 100, (100, 0)),
        (None, 0, 100, (100, 0)),
        (None, 60, 100, (40, 60)),
        (101, None, 100, None),
        (None, 100, 100, None),
        (60, 60, 100, None),
    ],
)
def test_images_are_shared_out_between_the_two_uses(images, calibration, there, shared):
    runtimes = Runtimes("model", DIGITS, images=images, calibration_images=calibration)
    if shared is not None:
        assert runtimes._share(there) == shared
        return
    with pytest.raises(InputError, match="100 images are there, fewer than images .*; ask for fewer"):
        runtimes._share(there)


@pytest.fixture
def pictures(saved, tmp_path) -> str:
    (tmp_path / "photographs").mkdir()
    for name, grey in (("a", 20), ("b, with a comma", 200)):
        Image.new("L", (30, 30), grey).save(tmp_path / f"photographs/{name}.png")
    (tmp_path / "photographs/broken.png").write_bytes(b"no image")
    return str(tmp_path / "photographs")


def predicted(capsys, *arguments) -> str:
    with pytest.raises(SystemExit) as stop:
        main(["predict", *arguments])
    assert stop.value.code == 1  # one cannot be read
    return capsys.readouterr().out


def test_predictions_are_csv_with_a_line_for_each_of_the_best_classes(saved, pictures, capsys):
    rows = list(csv.DictReader(io.StringIO(predicted(capsys, saved, pictures, "--form", "csv", "--top-k", "3"))))
    assert [row["rank"] for row in rows] == ["1", "2", "3"] * 2 + [""]
    assert [Path(row["image"]).stem for row in rows] == ["a"] * 3 + ["b, with a comma"] * 3 + ["broken"]
    assert all(bool(row["failure"]) == (row["rank"] == "") for row in rows)
    for first, second in pairwise(rows[:3]):
        assert float(first["probability"]) >= float(second["probability"])
    assert {row["complexity"] for row in rows[:6]} == {"7"}


def test_predictions_are_json_with_the_best_classes(saved, pictures, capsys):
    lines = [json.loads(line) for line in predicted(capsys, saved, pictures, "--form", "json", "--top-k", "20").splitlines()]
    for line in lines[:2]:
        assert len(line["top"]) == 10  # there are no more classes
        assert line["top"][0] == {name: line[name] for name in ("class_index", "class_name", "probability")}
        assert sum(each["probability"] for each in line["top"]) == pytest.approx(1)
    assert "reason" in lines[2]


def test_predictions_are_a_table_with_text_on_the_left_and_numbers_on_the_right(saved, pictures, capsys):
    out = predicted(capsys, saved, pictures, "--top-k", "2")
    title, rule, *rows = out.splitlines()
    assert title.startswith("| image  ")
    assert [cell[-1] for cell in rule.strip("|").split("|")] == ["-", "-", ":", ":", ":"]
    assert len({len(row) for row in (title, rule, *rows)}) == 1
    assert len(rows) == 5
    assert rows[0].startswith(f"| {pictures}/a.png  ")
    assert rows[1].startswith("|   ")
    with pytest.raises(SystemExit):
        main(["predict", saved, pictures, "--top-k", "0"])
    assert "--top-k 0 must be at least 1" in capsys.readouterr().err
