import pytest

from supervit import InputError
from supervit.choose import Budget, choose
from tests.cost_tables import cost, table

TABLE = table(
    cost("4@0.5", latency_ms=1.0, top1=50.0, macs=10, energy_j=0.1, peak_memory_mib=1.0),
    cost("4@0.5", 8, latency_ms=4.0, top1=50.0, macs=10, energy_j=0.02, peak_memory_mib=8.0),
    cost("7", latency_ms=5.0, top1=70.0, macs=60, energy_j=0.5, peak_memory_mib=4.0),
    cost("7", 8, latency_ms=30.0, top1=70.0, macs=60, energy_j=0.2, peak_memory_mib=32.0),
)


@pytest.mark.parametrize(
    "budget, batch_size, chosen",
    [
        (Budget(latency_ms=100), None, ("7", 1)),  # both sizes fit: the one that takes less of the budget
        (Budget(latency_ms=100), 8, ("7", 8)),
        (Budget(latency_ms=5.9), None, ("4@0.5", 1)),  # 5 ms in the median, 6 ms in 95 %
        (Budget(throughput_ips=250), None, ("7", 8)),
        (Budget(throughput_ips=1500), None, ("4@0.5", 8)),
        (Budget(macs=60), 1, ("7", 1)),
        (Budget(macs=59), 1, ("4@0.5", 1)),
        (Budget(energy_j=0.05), None, ("4@0.5", 8)),
        (Budget(memory_mib=4), None, ("7", 1)),
        (Budget(latency_ms=40, throughput_ips=250, memory_mib=40), None, ("7", 8)),
        (Budget(latency_ms=40, throughput_ips=250, memory_mib=10), None, ("4@0.5", 1)),
    ],
)
def test_the_most_accurate_row_within_the_budget_is_chosen(budget, batch_size, chosen):
    row = choose(TABLE, budget, batch_size)
    assert (str(row.complexity), row.batch_size) == chosen


@pytest.mark.parametrize(
    "budget, message",
    [
        (Budget(latency_ms=1), r"budget \(latency_ms 1\); the cheapest is 4@0.5 at batch size 1 with latency_ms 1.2"),
        (Budget(throughput_ips=1e6), "4@0.5 at batch size 8 with throughput_ips 2000"),
        (Budget(latency_ms=1, throughput_ips=2000), "4@0.5 at batch size 1 with latency_ms 1.2, throughput_ips 1000"),
    ],
)
def test_where_nothing_fits_the_cheapest_is_named(budget, message):
    with pytest.raises(InputError, match=message):
        choose(TABLE, budget)


@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf"), "5", True])
def test_impossible_budgets_are_refused(value):
    with pytest.raises(InputError, match="budget latency_ms=.* must be a number above 0"):
        Budget(latency_ms=value)


def test_a_budget_needs_a_limit():
    with pytest.raises(InputError, match="set one of latency_ms, throughput_ips, macs, energy_j, memory_mib"):
        Budget()


def test_what_was_not_measured_is_not_guessed():
    with pytest.raises(InputError, match="no energy_j of 4"):
        choose(table(cost("4", top1=1.0)), Budget(energy_j=1))
    with pytest.raises(InputError, match="accuracy of 4 is not in the cost table"):
        choose(table(cost("4")), Budget(macs=100))
    with pytest.raises(InputError, match="batch size 3 is not in the cost table"):
        choose(TABLE, Budget(macs=100), batch_size=3)
