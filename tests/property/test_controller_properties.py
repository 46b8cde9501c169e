from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from supervit.controller import Controller, ControllerSettings
from tests.unit.test_controller import BUDGET_MS, TABLE

SETTINGS = ControllerSettings(window=6, tolerated=1, hold_s=0.5, longest_hold_s=8)
RUNGS = [row.complexity for row in Controller(TABLE, BUDGET_MS).rungs]
LATENCIES_MS = [row.latency_ms_p50 for row in Controller(TABLE, BUDGET_MS).rungs]
loads = st.floats(0.05, 50)


def run(controller, slowdowns, start_s=0.0) -> list[int]:
    """The rungs that ran, batch by batch, and the one to run next."""
    now_s, rungs = start_s, []
    for slowdown in slowdowns:
        rungs.append(RUNGS.index(controller.complexity))
        latency_ms = slowdown * LATENCIES_MS[rungs[-1]]
        now_s += max(latency_ms / 1e3, 0.05)
        controller.observe(latency_ms, now_s)
    return [*rungs, RUNGS.index(controller.complexity)]


@settings(deadline=None)
@given(loads, st.lists(st.floats(1, 0.999 / SETTINGS.margin), min_size=1, max_size=200))
def test_on_a_steady_load_with_noise_within_the_margin_no_climb_is_taken_back(load, noise):
    rungs = run(Controller(TABLE, BUDGET_MS, settings=SETTINGS), [load * each for each in noise])
    directions = [b - a for a, b in pairwise(rungs) if a != b]
    climbs = [index for index, step in enumerate(directions) if step > 0]
    assert not climbs or all(step > 0 for step in directions[climbs[0] :])
    assert len(directions) <= 2 * (len(RUNGS) - 1)


@settings(deadline=None)
@given(st.lists(loads, max_size=40), loads)
def test_whatever_was_before_a_new_load_holds_the_budget_after_the_stated_number_of_batches(before, load):
    controller = Controller(TABLE, BUDGET_MS, settings=SETTINGS)
    run(controller, before)
    rungs = run(controller, [load] * 60, start_s=1e6)
    for rung in rungs[controller.reaction_observations :]:
        assert load * LATENCIES_MS[rung] <= BUDGET_MS * (1 + 1e-9) or rung == 0


@settings(deadline=None)
@given(st.lists(loads, min_size=1, max_size=100))
def test_it_climbs_one_rung_at_a_time(slowdowns):
    rungs = run(Controller(TABLE, BUDGET_MS, settings=SETTINGS), slowdowns)
    assert all(b - a <= 1 for a, b in pairwise(rungs))
