import dataclasses
import json

import pytest
import torch

from supervit import Complexity, InputError, SuperViT
from supervit.cost_table import CostTable, Setup
from supervit.macs import executed_macs, macs
from supervit.profiling import profile
from supervit.runtimes import as_runtime
from tests.conftest import small_config
from tests.cost_tables import cost, setup, table

POINTS = [Complexity(4, 0.5), Complexity(7)]


def test_every_point_is_measured_at_every_batch_size():
    model = SuperViT(small_config())
    found = profile(model, POINTS, batch_sizes=(1, 3), repeats=2, warmup=0)
    assert [(row.complexity, row.batch_size) for row in found.rows] == [(point, size) for size in (1, 3) for point in POINTS]
    for row in found.rows:
        assert 0 < row.latency_ms_p50 <= row.latency_ms_p95
        assert row.macs == macs(model.config, row.complexity)
        assert row.executed_macs == executed_macs(model.config, row.complexity)
        assert row.top1 is None
    assert model.training
    found.check(Setup.of(model))


def test_any_runtime_can_be_measured_and_its_points_take_turns():
    calls = []
    runtime = as_runtime(SuperViT(small_config()))
    run = lambda images, point: calls.append((len(images), point)) or runtime.run(images, point)  # noqa: E731
    found = profile(dataclasses.replace(runtime, name="other", precision="int8", threads=7, run=run), POINTS, [2], 2, 1)
    warmup, turn = list(POINTS), [point for point in POINTS for _ in range(3)]  # the first of a turn does not count
    assert calls[: len(warmup + turn)] == [(2, point) for point in warmup + turn]
    assert (found.setup.runtime, found.setup.precision, found.setup.threads) == ("other", "int8", 7)
    with pytest.raises(InputError, match="holds for runtime 'other', here it is 'eager'"):
        found.check(Setup.of(runtime))


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"complexities": []}, "at least one operating point"),
        ({"batch_sizes": ()}, "at least one operating point"),
        ({"batch_sizes": (1, 0)}, r"batch sizes \(1, 0\)"),
        ({"repeats": 0}, "repeats 0"),
        ({"warmup": -1}, "warmup -1"),
    ],
)
def test_measurements_that_make_no_sense_are_refused(changes, message):
    with pytest.raises(InputError, match=message):
        profile(SuperViT(small_config()), **{"complexities": POINTS, **changes})


def test_tables_are_read_as_they_were_written(tmp_path):
    written = table(cost("4@0.7", top1=50.0), cost("7", batch_size=8, energy_j=0.1, peak_memory_mib=3.5))
    written.save(tmp_path / "new" / "costs.json")
    for file in (tmp_path / "new" / "costs.json", str(tmp_path / "new" / "costs.json")):
        assert CostTable.load(file) == written


def damage(name):
    def change(content):
        content["rows"][0]["latency_ms_p50"] = name
        return content

    return change


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda c: [c], "it holds no JSON object"),
        (lambda c: c | {"schema": 1}, "it has schema 1, not 2, that of this version of supervit: measure again"),
        (lambda c: c | {"more": 1}, "and nothing else"),
        (lambda c: c | {"rows": {}}, "a list of rows"),
        (lambda c: c | {"rows": []}, "cost table of 0 rows"),
        (lambda c: c | {"rows": c["rows"] * 2}, "2 rows, 1 different"),
        (lambda c: c | {"rows": [c["rows"][0] | {"latency": 1}]}, "unknown Cost field 'latency'; did you mean"),
        (lambda c: c | {"rows": [{"batch_size": 1}]}, "Cost lacks complexity, latency_ms_p50"),
        (lambda c: c | {"rows": [3]}, "3 should be an object"),
        (lambda c: c | {"rows": [c["rows"][0] | {"complexity": 14}]}, "complexity 14 does not parse"),
        (lambda c: c | {"setup": c["setup"] | {"threads": "1"}}, "threads '1' is not usable; it must be of type int"),
        (lambda c: c | {"rows": [c["rows"][0] | {"batch_size": 1.5}]}, "batch_size 1.5 is not usable"),
        (damage(-1), "latency_ms_p50 -1 of 4@0.5 must be a number above 0"),
        (damage("1"), "latency_ms_p50 '1' is not usable"),
        (damage(float("nan")), "it is not JSON: NaN is no number"),
        (damage(None), "latency_ms_p50 None is not usable"),
    ],
)
def test_files_that_are_no_cost_table_are_refused_with_the_reason(tmp_path, change, message):
    file = tmp_path / "costs.json"
    table(cost()).save(file)
    file.write_text(json.dumps(change(json.loads(file.read_text()))))
    with pytest.raises(InputError, match=f"costs.json' is not a cost table .*{message}"):
        CostTable.load(file)


def test_missing_and_damaged_files_are_refused(tmp_path):
    (tmp_path / "broken.json").write_text('{"schema": 2')
    for name in ("broken.json", "missing.json"):
        with pytest.raises(InputError, match=f"{name}' is not a cost table"):
            CostTable.load(tmp_path / name)


@pytest.mark.parametrize(
    "name, value", [("model", "n"), ("device", "e"), ("cpus", 1.0), ("runtime", "onnx"), ("precision", "int8"), ("threads", 2)]
)
def test_a_table_of_another_setup_is_refused_with_the_reason(name, value):
    table(cost()).check(setup(date="later", versions={}))
    with pytest.raises(InputError, match=f"holds for {name} .*, here it is {value!r}; measure again"):
        table(cost()).check(setup(**{name: value}))


def test_a_fingerprint_names_config_and_weights():
    model, other = SuperViT(small_config()), SuperViT(small_config())
    assert model.fingerprint() == model.fingerprint()
    assert model.fingerprint() != other.fingerprint()
    other.load_state_dict(model.state_dict())
    assert model.fingerprint() == other.fingerprint()
    other.config = other.config.replace(keep_rates=(0.6, 1.0))
    assert model.fingerprint() != other.fingerprint()
    assert model.to(torch.bfloat16).fingerprint() != other.fingerprint()


def test_the_pareto_set_is_of_one_batch_size_and_needs_accuracies():
    rows = [cost("4", latency_ms=1.0), cost("5", latency_ms=2.0), cost("6", latency_ms=3.0), cost("4", 8, latency_ms=0.5)]
    measured = table(*rows).with_accuracies({Complexity(4): 50.0, Complexity(5): 40.0})
    with pytest.raises(InputError, match="accuracy of 6 is not in the cost table"):
        measured.pareto(1)
    measured = measured.with_accuracies({Complexity(6): 60.0})
    assert [str(row.complexity) for row in measured.pareto(1)] == ["4", "6"]
    for missing in (None, 2):
        with pytest.raises(InputError, match=f"batch size {missing} is not in the cost table; name one of 1, 8"):
            measured.pareto(missing)


def test_rows_are_checked_where_they_are_made():
    with pytest.raises(InputError, match="top1 -1 of 4@0.5"):
        dataclasses.replace(cost(), top1=-1)
