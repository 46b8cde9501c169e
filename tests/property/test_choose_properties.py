from dataclasses import fields, replace

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from supervit import Complexity, InputError
from supervit.choose import Budget, choose
from supervit.cost_table import Cost, CostTable
from tests.cost_tables import setup

positive = st.floats(min_value=1e-3, max_value=1e6)
rows = st.builds(
    Cost,
    complexity=st.builds(Complexity, st.integers(2, 20), st.sampled_from([0.5, 0.7, 1.0])),
    batch_size=st.sampled_from([1, 8]),
    latency_ms_p50=positive,
    latency_ms_p95=positive,
    throughput_ips=positive,
    macs=st.integers(1, 10**9),
    executed_macs=st.integers(1, 10**9),
    peak_memory_mib=positive,
    energy_j=positive,
    top1=st.floats(0, 100),
)
tables = st.builds(
    lambda rows: CostTable(tuple(rows), setup()),
    st.lists(rows, min_size=1, max_size=12, unique_by=lambda row: (row.complexity, row.batch_size)),
)
limits = st.dictionaries(st.sampled_from([field.name for field in fields(Budget)]), positive, min_size=1)


def fits(row: Cost, budget: Budget) -> bool:
    return all(
        [
            budget.latency_ms is None or row.latency_ms_p95 <= budget.latency_ms,
            budget.throughput_ips is None or row.throughput_ips >= budget.throughput_ips,
            budget.macs is None or row.macs <= budget.macs,
            budget.energy_j is None or row.energy_j <= budget.energy_j,
            budget.memory_mib is None or row.peak_memory_mib <= budget.memory_mib,
        ]
    )


@settings(deadline=None)
@given(tables, limits)
def test_the_choice_is_within_the_budget_and_no_other_row_within_is_better(table, limits):
    budget = Budget(**limits)
    fitting = [row for row in table.rows if fits(row, budget)]
    if fitting:
        chosen = choose(table, budget)
        assert chosen in fitting
        assert chosen.top1 == max(row.top1 for row in fitting)
    else:
        with pytest.raises(InputError, match="the cheapest is"):
            choose(table, budget)


@settings(deadline=None)
@given(tables, limits, st.data())
def test_a_larger_budget_never_gives_lower_accuracy(table, limits, data):
    tight = Budget(**limits)
    assume(any(fits(row, tight) for row in table.rows))
    name = data.draw(st.sampled_from(sorted(limits)))
    factor = data.draw(st.floats(1, 100))
    wider = replace(tight, **{name: limits[name] / factor if name == "throughput_ips" else limits[name] * factor})
    assert choose(table, wider).top1 >= choose(table, tight).top1
