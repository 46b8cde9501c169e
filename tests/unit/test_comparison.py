import pytest
import torch

from supervit import Complexity, InputError, SuperViT
from supervit.comparison import Comparison, best_runtime, compare_runtimes
from supervit.runtimes import Availability
from tests.conftest import small_config, trained_like


def row(runtime: str, speedup: float, change: float = 0.0, point: str = "7", precision="float32") -> Comparison:
    return Comparison(runtime, precision, Complexity.of(point), 1.0, speedup, 50.0 + change, change, 100.0)


def test_the_best_runtime_is_the_fastest_over_all_points_that_loses_little_at_each():
    rows = [row("eager", 1.0), row("eager", 1.0, point="4")]
    rows += [row("quick", 4.0, -0.1), row("quick", 1.0, -0.3, "4")]  # loses too much at one point
    rows += [row("even", 1.7), row("even", 1.7, point="4")]
    rows += [row("uneven", 3.0), row("uneven", 0.9, point="4")]
    assert best_runtime(rows) == ("even", "float32")
    assert best_runtime(rows, max_loss=0.3) == ("quick", "float32")
    with pytest.raises(InputError, match="no runtime loses at most 0.2 points"):
        best_runtime(rows[2:4])


@pytest.fixture
def only_eager(monkeypatch):
    here = [Availability("eager", "float32", None), Availability("onnx_runtime", "int8", None)]
    monkeypatch.setattr("supervit.comparison.available_runtimes", lambda device: here)


def test_accuracy_and_agreement_are_counted_by_operating_point(only_eager):
    model = trained_like(SuperViT(small_config())).eval()
    images, points = torch.randn(10, 3, 28, 28), [Complexity.of("4"), Complexity.of("7")]
    labels = model(images, "4").argmax(dim=1)
    labels[:3] = (labels[:3] + 1) % 5
    found = compare_runtimes(model, images, labels, points, threads=1, batch_size=4, repeats=2)
    assert [(each.runtime, each.complexity) for each in found] == [("eager", point) for point in points]
    assert found[0].top1 == pytest.approx(70)
    assert [(each.top1_change, each.agreement) for each in found] == [(0, 100)] * 2
    assert all(each.latency_ms > 0 < each.speedup for each in found)


def test_a_loss_of_just_as_much_as_is_allowed_is_allowed():
    assert best_runtime([row("eager", 1.0), row("quick", 2.0, 80.0 - 80.2)]) == ("quick", "float32")  # -0.20000000000000284


def test_grids_that_exported_graphs_do_not_have_are_refused_before_any_work(only_eager):
    with pytest.raises(InputError, match="grid size 3 is not on the menu .*; use one of 4, 5, 6, 7"):
        compare_runtimes(SuperViT(small_config()), torch.randn(2, 3, 28, 28), torch.zeros(2), [Complexity(3)], batch_size=2)


@pytest.mark.parametrize("change", [{"complexities": []}, {"batch_size": 3}, {"batch_size": 0}, {"repeats": 0}])
def test_comparisons_that_make_no_sense_are_refused(change, only_eager):
    options = {"complexities": [Complexity(7)], "batch_size": 2, **change}
    with pytest.raises(InputError, match="must all be at least 1"):
        compare_runtimes(SuperViT(small_config()), torch.randn(2, 3, 28, 28), torch.zeros(2), **options)
