"""`supervit search`, and menus from files wherever operating points are named."""

import json

import pytest
import torch

import supervit
from supervit import Complexity, InputError, SuperViT
from supervit.calibrate import halves
from supervit.choose import Budget, choose
from supervit.cli import main
from supervit.commands import Search
from supervit.commands._opening import parse_points
from supervit.controller import Controller
from supervit.cost_table import CostTable
from supervit.data import EpochLoader, SourceConfig, open_dataset
from tests.conftest import small_config, trained_like

DATA = SourceConfig(name="digits", batch_size=64, workers=0)
DIGITS = ["--data.name", "digits", "--data.workers", "0"]
SMALL = {"passes": 2, "candidates": 16, "between": True}


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> str:
    """A network whose classifier knows digits by what random blocks make of them; its menu has exits."""
    pytest.importorskip("sklearn")
    axes = {"depth": 4, "drop_blocks": (1, 2), "grid_sizes": (4, 6), "exit_blocks": (3,)}
    model = trained_like(SuperViT(small_config(in_chans=1, num_classes=10, **axes))).eval()
    images, labels = images_of(model, "train")
    with torch.no_grad():
        points = list(model.config.space)
        pooled = [model.forward_head(path.tokens, pre_logits=True) for path in model.encode(images[:700], points)]
        wanted = torch.nn.functional.one_hot(labels[:700], 10).float().repeat(len(points), 1)
        model.head.weight.copy_(torch.linalg.lstsq(torch.cat(pooled), wanted - 0.1).solution.T)
    out = tmp_path_factory.mktemp("trained")
    model.save(out)
    return str(out)


@pytest.fixture(scope="module")
def found(trained, tmp_path_factory):
    """Where a search wrote what it found."""
    out = tmp_path_factory.mktemp("found") / "new"
    Search(trained, DATA, out=out, **SMALL).run()
    return out


def images_of(model, split) -> tuple[torch.Tensor, torch.Tensor]:
    batches = EpochLoader(open_dataset(DATA, split, model.config), 64, 0).epoch()
    images, labels = zip(*(batch[:2] for batch in batches), strict=True)
    return torch.cat(images), torch.cat(labels)


def menu_of(directory) -> dict:
    return json.loads((directory / "menu.json").read_text())


def test_a_search_writes_a_menu_and_says_what_it_is_worth(trained, found):
    assert {path.name for path in found.iterdir()} == {"menu.json", "menu.png", "menu.svg", "menu.pdf"}
    menu, model = menu_of(found), supervit.load(trained)
    assert (menu["fingerprint"], menu["data"], menu["split"], menu["confirmed"]) == (model.fingerprint(), "digits", "val", True)
    assert (menu["calibration_images"], menu["images"]) == (180, 180)
    points = [Complexity.of(text) for text in menu["points"]]
    own = list(model.config.space)
    rows = {Complexity.of(row["complexity"]): row for row in menu["results"]}
    assert {*rows} == {*points, *own}
    assert [point for point, row in rows.items() if row["found"]] == points
    assert [row["executed_macs"] for row in rows.values()] == sorted(row["cost"] for row in rows.values())
    assert all(row["images"] == 180 and row["top1_standard_error"] > 0 for row in rows.values())
    best = [rows[point]["calibration_top1"] for point in points if point not in own]
    assert best == sorted(set(best))
    assert best[-1] > 40  # it was trained


def test_what_it_says_is_what_the_model_does_on_the_images_held_out(trained, found):
    model = supervit.load(trained).eval()
    images, labels = images_of(model, "val")
    chosen_by, held_out = halves(len(labels), seed=0)
    for row in menu_of(found)["results"]:
        with torch.inference_mode():
            is_hit = model(images, row["complexity"]).argmax(dim=1) == labels
        told = row["calibration_top1"], row["top1"]
        assert told == pytest.approx([100 * float(is_hit[half].float().mean()) for half in (chosen_by, held_out)], abs=0.6)


def test_the_same_seed_finds_the_same_menu(trained, found, tmp_path, capsys):
    main(["search", trained, *DIGITS, "--passes", "2", "--candidates", "16", "--between", "--out", str(tmp_path / "again")])
    assert menu_of(tmp_path / "again") == menu_of(found) | {"model": trained}
    printed = capsys.readouterr().out
    assert "pass 1: " in printed
    assert "pass 2: " in printed
    assert "180 images that had no part in the choice say" in printed
    assert "of the model's own menu at equal or lower executed MACs: " in printed


def test_profile_choose_controller_and_cascade_take_the_menu(trained, found, tmp_path):
    menu, texts = f"@{found / 'menu.json'}", menu_of(found)["points"]
    options = ["--accuracies", str(found / "menu.json"), "--repeats", "1", "--out", str(tmp_path / "costs")]
    main(["profile", trained, "--points", menu, *options])
    table = CostTable.load(tmp_path / "costs/costs.json")
    assert [str(row.complexity) for row in table.rows] == texts
    assert str(choose(table, Budget(latency_ms=1e6)).complexity) in texts
    assert str(Controller(table, 1e6, batch_size=1).complexity) in texts
    main(["cascade", trained, *DIGITS, "--points", menu, "--timed-images", "0", "--out", str(tmp_path / "exit")])
    assert {*json.loads((tmp_path / "exit/ladder.json").read_text())["rungs"]} <= {*texts}


def test_cost_can_be_latency_of_this_device(trained, found, tmp_path, capsys):
    main(["profile", trained, "--points", "4", "6", "--repeats", "2", "--out", str(tmp_path / "costs")])
    file = tmp_path / "costs/costs.json"
    before = {row.complexity: row for row in CostTable.load(file).rows}
    Search(trained, DATA, costs=file, out=tmp_path / "out", **SMALL).run()
    assert "ms p50" in capsys.readouterr().out
    menu, table = menu_of(tmp_path / "out"), CostTable.load(tmp_path / "out/costs.json")
    assert menu["cost"] == "latency_ms"
    assert {str(row.complexity) for row in table.rows} == {*menu["points"]}
    told = {row["complexity"]: row for row in menu["results"]}
    for row in table.rows:
        assert (row.top1, row.latency_ms_p50) == (told[str(row.complexity)]["top1"], told[str(row.complexity)]["cost"])
    for point, row in before.items():  # what is in the table is not measured again
        assert told[str(point)]["cost"] == row.latency_ms_p50
    costs = [told[text]["cost"] for text in menu["points"]]
    assert costs == sorted(costs)
    assert str(choose(table, Budget(latency_ms=1e6)).complexity) in menu["points"]


def test_a_cost_table_of_several_batch_sizes_is_asked_for_one(trained, tmp_path, capsys):
    costs = ["--costs", str(tmp_path / "costs/costs.json"), "--passes", "1"]
    main(["profile", trained, "--batch-sizes", "1", "3", "--repeats", "1", "--out", str(tmp_path / "costs")])
    with pytest.raises(SystemExit):
        main(["search", trained, *DIGITS, *costs])
    assert "batch size None is not in the cost table; name one of 1, 3" in capsys.readouterr().err
    main(["search", trained, *DIGITS, *costs, "--cost-batch-size", "3"])
    assert "at equal or lower latency at batch size 3: " in capsys.readouterr().out


def test_an_interrupted_search_keeps_what_it_has_found(trained, tmp_path, capsys, monkeypatch):
    calls = []

    def stops(*arguments, **options):
        calls.append(arguments)
        if len(calls) == 3:  # in the second pass
            raise KeyboardInterrupt
        return evaluate(*arguments, **options)

    evaluate = supervit.evaluate.evaluate
    monkeypatch.setattr("supervit.evaluate.evaluate", stops)
    monkeypatch.setattr("supervit.search._LEAST_TRIAL", 20)
    with pytest.raises(SystemExit) as stop:
        main(["search", trained, *DIGITS, "--passes", "3", "--out", str(tmp_path / "out")])
    assert stop.value.code == 130
    assert "what was written before is kept in" in capsys.readouterr().err
    menu = menu_of(tmp_path / "out")
    assert (menu["confirmed"], menu["passes"]) == (False, 1)
    assert parse_points((f"@{tmp_path / 'out/menu.json'}",), ()) == [Complexity.of(text) for text in menu["points"]]


def test_a_search_ends_in_time(trained, capsys):
    Search(trained, DATA, passes=50, candidates=2, minutes=1e-6).run()
    assert "pass 1: " in (printed := capsys.readouterr().out)
    assert "pass 2: " not in printed


@pytest.mark.parametrize(
    "options, message",
    [
        (["--passes", "0"], "--passes 0 and --candidates 64 must be at least 1"),
        (["--candidates", "0"], "--candidates 0 must be at least 1"),
        (["--minutes", "-1"], "--minutes -1 and --safety 1 must be at least 0"),
        (["--safety", "-1"], "--safety -1 must be at least 0"),
        (["--exit-blocks", "4"], "stops after 4 of 4 blocks"),
        (["--exit-blocks", "0"], "exit 0 is not usable"),
        (["--keep-rates", "1.5"], "keep rate 1.5 is not in (0, 1]"),
        (["--costs", "nowhere.json"], "'nowhere.json' is not a cost table"),
        (["--split", "test"], "--split"),
    ],
)
def test_what_cannot_be_searched_is_one_line(trained, options, message, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["search", trained, *DIGITS, *options])
    said = capsys.readouterr().err
    assert (stop.value.code, said.count("\n")) == (2, 1)
    assert message in said


def test_results_and_costs_of_another_model_are_refused(trained, found, tmp_path):
    SuperViT(small_config(in_chans=1, num_classes=10)).save(tmp_path / "other")
    with pytest.raises(InputError, match="holds results of another model"):
        Search(str(tmp_path / "other"), DATA, out=found, **SMALL).run()
    main(["profile", str(tmp_path / "other"), "--points", "4", "--repeats", "1", "--out", str(tmp_path / "costs")])
    with pytest.raises(InputError, match="the cost table holds for model"):
        Search(trained, DATA, costs=tmp_path / "costs/costs.json", **SMALL).run()


BAD_MENUS = [
    (None, "No such file"),
    ("{", "not JSON"),
    ("[]", "no JSON object"),
    ("{}", "a list of points"),
    ('{"points": []}', "a list of points"),
    ('{"points": "14"}', "a list of points"),
    ('{"points": ["14@"]}', "does not parse"),
    ('{"points": [14]}', "does not parse"),
]
TAKERS = {
    "evaluate": (*DIGITS, "--repeats", "0", "--points"),
    "benchmark": ("--repeats", "1", "--points"),
    "profile": ("--repeats", "1", "--points"),
    "cascade": (*DIGITS, "--points"),
    "runtimes": (*DIGITS, "--points"),
    "export": ("--target", "torch_export", "--out", "exported", "--points"),
}


@pytest.mark.parametrize("content, message", BAD_MENUS)
@pytest.mark.parametrize("command", TAKERS)
def test_a_bad_menu_is_refused_in_one_line_by_every_command(command, content, message, trained, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    if content is not None:
        (tmp_path / "menu.json").write_text(content)
    with pytest.raises(SystemExit) as stop:
        main([command, trained, *TAKERS[command], "@menu.json"])
    said = capsys.readouterr().err
    assert (stop.value.code, said.count("\n")) == (2, 1)
    assert "'menu.json' is not a menu of operating points (" in said
    assert message in said


def test_a_menu_stands_beside_points_and_other_menus(tmp_path):
    (tmp_path / "menu.json").write_text('{"points": ["8@0.9-0.7-0.5", "12x16/9"]}')
    points = parse_points(("14", f"@{tmp_path}/menu.json"), [Complexity(2)])
    assert list(map(str, points)) == ["14", "8@0.9-0.7-0.5", "12x16/9"]
    assert parse_points((), [Complexity(2)]) == [Complexity(2)]
