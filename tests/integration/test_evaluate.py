import json
import time

import pytest
import torch

from supervit import Complexity, InputError, SuperViT
from supervit.evaluate import Accuracy, evaluate, measure_throughput, tabulate, time_calls
from supervit.report import csv_table, markdown_table, pareto_set, write_report
from supervit.runtimes import pick_device
from tests.conftest import small_config

POINTS = [Complexity(4, 0.5), Complexity(7)]


def batches(model, count=3):
    generator = torch.Generator().manual_seed(0)
    return [
        (torch.randn(5, 3, 28, 28, generator=generator), torch.randint(0, 5, (5,), generator=generator)) for _ in range(count)
    ]


def test_accuracy_counts_hits(model):
    model.train()
    data = batches(model)
    found = evaluate(model, data, POINTS)
    assert model.training
    model.eval()
    with torch.no_grad():
        for point in POINTS:
            hits = sum((model(images, point).argmax(1) == labels).sum().item() for images, labels in data)
            assert found[point] == Accuracy(100 * hits / 15, 100.0, 15)  # five classes: top-5 is all


def test_the_menu_is_the_default(model):
    assert list(evaluate(model, batches(model, 1))) == list(model.config.space)


def test_data_that_cannot_be_evaluated_on_are_refused(model):
    with pytest.raises(InputError, match="no images"):
        evaluate(model, [])
    with pytest.raises(InputError, match="class index 5 in the data, but the model has 5 classes"):
        evaluate(model, [(torch.randn(1, 3, 28, 28), torch.tensor([5]))])


def test_throughput_is_measured_for_each_point():
    model = SuperViT(small_config())
    found = measure_throughput(model, POINTS, batch_size=2, repeats=2, warmup=1)
    assert list(found) == POINTS
    assert all(value > 0 for value in found.values())
    assert model.training
    with pytest.raises(InputError, match="batch_size 0"):
        measure_throughput(model, POINTS, batch_size=0)


def clocked(monkeypatch, seconds_per_call):
    """A clock that only calls move; what is called, in order."""
    now, calls = [0.0], []
    monkeypatch.setattr("supervit.evaluate.time.monotonic", lambda: now[0])

    def call(_images, way):
        now[0] += seconds_per_call
        calls.append(way)

    return call, calls


@pytest.mark.parametrize("seconds, order, timed", [
    (0, "abab" + "aaabbb", (2, 2)),
    (100, "abab" + "aaabbb", (2, 2)),
    (6.5, "abab" + "aaa", (2, 1)),
    (1.5, "ab", (1, 1)),
    (0.5, "a", (1, 0)),
])  # fmt: skip
def test_timing_ends_at_its_limit_and_then_takes_what_there_is(monkeypatch, seconds, order, timed):
    call, calls = clocked(monkeypatch, 1.0)
    found = time_calls(call, torch.empty(0), "ab", repeats=2, warmup=2, in_a_row=2, seconds=seconds)
    assert "".join(calls) == order
    assert tuple(map(len, found.values())) == timed


def test_each_way_is_called_once_beyond_the_limit_where_that_is_asked_for(monkeypatch):
    call, calls = clocked(monkeypatch, 1.0)
    found = time_calls(call, torch.empty(0), "abc", repeats=2, warmup=1, in_a_row=2, seconds=0.5, each_once=True)
    assert "".join(calls) == "abc"
    assert [len(each) for each in found.values()] == [1, 1, 1]


def test_throughput_has_a_limit():
    model = SuperViT(small_config())
    start = time.monotonic()
    found = measure_throughput(model, POINTS, batch_size=2, repeats=10**6, seconds=1.0)
    assert time.monotonic() - start < 20
    assert list(found) == POINTS
    assert measure_throughput(model, POINTS, batch_size=2, repeats=1, seconds=1e-9).keys() <= set(POINTS)
    for seconds in (-1, float("nan")):
        with pytest.raises(InputError, match=r"seconds .* must be at least 0, which means no limit"):
            measure_throughput(model, POINTS, seconds=seconds)

    def stop():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measure_throughput(model, POINTS, batch_size=2, check=stop)


def test_unknown_devices_are_refused():
    for name in ("gpu", "cuda:99"):
        with pytest.raises(InputError, match=f"device '{name}' cannot be used .*; use auto, cpu or cuda"):
            pick_device(name)


def some_results():
    accuracies = {POINTS[0]: Accuracy(50.0, 90.0, 10), POINTS[1]: Accuracy(60.0, 95.0, 10)}
    return tabulate(small_config(), POINTS, accuracies, {POINTS[1]: 123.45})


def test_tables_say_what_was_measured_and_leave_out_the_rest():
    text = markdown_table(some_results())
    header, _, first, second = text.splitlines()
    assert header.split("|")[1].strip() == "complexity"
    assert "top-1 %" in header
    assert "MMACs" in header
    assert first.rstrip(" |").endswith(first.split("|")[5].strip())  # no images/s measured
    assert "123.5" in second or "123.4" in second
    assert len({len(line) for line in text.splitlines()}) == 1
    costs_only = markdown_table(tabulate(small_config(), POINTS))
    assert "top-1" not in costs_only
    assert "images/s" not in costs_only


def test_csv_and_json_hold_exact_values(tmp_path):
    results = some_results()
    write_report(results, tmp_path / "new", {"model": "m"}, "title")
    records = json.loads((tmp_path / "new/results.json").read_text())
    assert records["model"] == "m"
    assert records["results"][0]["macs"] == results[0].macs
    assert records["results"][0]["throughput_ips"] is None
    lines = csv_table(results).splitlines()
    axes, figures = (
        "complexity,grid_size,keep_rate,exit_block",
        "top1,top5,macs,executed_macs,throughput_ips,top1_standard_error",
    )
    assert lines[0] == f"{axes},{figures}"
    assert lines[2].startswith("7,7,1.0,,60.0,95.0,")
    assert (tmp_path / "new/tradeoff.png").read_bytes()[:4] == b"\x89PNG"
    assert "<svg" in (tmp_path / "new/tradeoff.svg").read_text()


def test_reports_without_accuracy_have_no_plot(tmp_path):
    write_report(tabulate(small_config(), POINTS), tmp_path, {})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["results.csv", "results.json", "results.md"]


def test_pareto_set_leaves_out_what_is_beaten():
    accuracies = {Complexity(4): Accuracy(50, 0, 1), Complexity(5): Accuracy(40, 0, 1), Complexity(6): Accuracy(60, 0, 1)}
    results = tabulate(small_config(), list(accuracies), accuracies)
    assert [str(result.complexity) for result in pareto_set(results)] == ["4", "6"]


def test_ways_take_turns_with_a_call_before_each_that_does_not_count():
    calls = []
    seconds = time_calls(lambda images, way: calls.append(way), torch.empty(0), "ab", repeats=3, warmup=1, in_a_row=2)
    assert "".join(calls) == "ab" + "aaabbb" + "aabb"
    assert [len(each) for each in seconds.values()] == [3, 3]
    calls.clear()
    time_calls(lambda images, way: calls.append(way), torch.empty(0), "ab", repeats=2, warmup=0, in_a_row=1)
    assert "".join(calls) == "abab"


@pytest.mark.parametrize("labels", [torch.tensor([-1, 0]), torch.tensor([0.0, 1.0])])
def test_labels_that_are_no_class_indices_are_refused(labels):
    model = SuperViT(small_config())
    with pytest.raises(InputError, match="class index -1 in the data|labels of type torch.float32"):
        evaluate(model, [(torch.zeros(2, 3, 28, 28), labels)])
