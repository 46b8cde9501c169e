import json
from pathlib import Path

import pytest
import torch

from supervit import InputError, SuperViT
from supervit.calibrate import halves
from supervit.cascade import Cascade as RunningCascade
from supervit.cascade import Ladder
from supervit.choose import Budget, choose
from supervit.commands import Cascade, Export, Profile
from supervit.controller import Controller
from supervit.cost_table import CostTable, Setup
from supervit.data import EpochLoader, SourceConfig, open_dataset
from tests.conftest import small_config, trained_like

POINTS = ("4@0.5", "7@0.7", "7")
DIGITS = SourceConfig(name="digits", batch_size=64, workers=0)


@pytest.fixture
def saved(tmp_path) -> str:
    pytest.importorskip("sklearn")
    trained_like(SuperViT(small_config(in_chans=1, num_classes=10))).save(tmp_path / "model")
    return str(tmp_path / "model")


def accuracies_file(tmp_path, points=POINTS):
    rows = [{"complexity": point, "top1": 50.0 + index} for index, point in enumerate(points)]
    (tmp_path / "results.json").write_text(json.dumps({"results": rows}))
    return tmp_path / "results.json"


def test_profile_writes_a_table_to_choose_from(saved, tmp_path, capsys):
    out = tmp_path / "profile"
    accuracies = accuracies_file(tmp_path)
    Profile(saved, POINTS, (1, 4), repeats=2, warmup=1, device="cpu", accuracies=accuracies, out=out).run()
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
    Profile(saved, ("4@0.5",), repeats=1, warmup=0, device="cpu", out=tmp_path / "profile").run()
    assert "Pareto" not in capsys.readouterr().out
    assert [path.name for path in (tmp_path / "profile").iterdir()] == ["costs.json"]


def test_profile_refuses_accuracies_that_do_not_fit(saved, tmp_path):
    with pytest.raises(InputError, match="has no accuracy of 7; evaluate these too"):
        Profile(saved, POINTS, accuracies=accuracies_file(tmp_path, POINTS[:2])).run()
    for content in ("{", '{"results": [{"complexity": "7", "top1": null}]}', "[]"):
        (tmp_path / "results.json").write_text(content)
        with pytest.raises(InputError, match="holds no accuracies"):
            Profile(saved, POINTS, accuracies=tmp_path / "results.json").run()


def test_cascade_writes_a_ladder_that_runs(saved, tmp_path, capsys):
    out = tmp_path / "cascade"
    Cascade(saved, DIGITS, complexities=POINTS, max_rungs=2, timed_images=40, device="cpu", out=out).run()
    printed = capsys.readouterr().out
    assert "chosen by 180 images; 180 held-out images say" in printed
    assert "paper_pair" in printed
    assert {path.name for path in out.iterdir()} == {"ladder.json", "cascade.json", "cascade.png", "cascade.svg"}
    report = json.loads((out / "cascade.json").read_text())
    assert report["cascade"]["calibration"]["top1"] >= report["dearest"]["calibration"]["top1"]
    assert report["cascade"]["throughput_ips"] > 0
    ladder = Ladder.load(out / "ladder.json")
    assert json.loads(json.dumps(ladder.to_dict())) == {name: report["cascade"][name] for name in ladder.to_dict()}
    model = SuperViT.from_pretrained(saved)
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
    Cascade(str(tmp_path), DIGITS, timed_images=0, device="cpu").run()
    assert "paper_pair" not in capsys.readouterr().out


def test_cascade_takes_a_target_and_refuses_what_cannot_be(saved):
    with pytest.raises(InputError, match="no cascade reaches 101 %"):
        Cascade(saved, DIGITS, complexities=POINTS[:1], target_top1=101.0, device="cpu").run()
    with pytest.raises(InputError, match="timed_images -1"):
        Cascade(saved, DIGITS, timed_images=-1).run()
    with pytest.raises(InputError, match="give one of the two"):
        Cascade(saved, DIGITS, complexities=POINTS[:1], target_top1=1.0, target_macs=1.0, device="cpu").run()


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
    assert export._calibration(config).shape == (7, 1, 28, 28)
    assert torch.equal(export._calibration(config), export._calibration(config))


def test_data_of_other_classes_are_refused(tmp_path):
    pytest.importorskip("sklearn")
    SuperViT(small_config(in_chans=1, num_classes=11)).save(tmp_path)
    with pytest.raises(InputError, match="the data have 10 classes, the model 11"):
        Cascade(str(tmp_path), DIGITS, device="cpu").run()
