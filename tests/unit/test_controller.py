import itertools
import math
import random
import sys
from collections.abc import Callable
from types import SimpleNamespace

import pytest

from supervit import InputError
from supervit.controller import Controller, ControllerSettings, Power, read_power
from tests.cost_tables import cost, table

# Median latencies 1, 2, 4, 8, 16 ms, 95th percentiles a fifth above; the sixth row is on no frontier.
TABLE = table(
    *(cost(str(4 + i), latency_ms=2.0**i, top1=50.0 + i) for i in range(5)), cost("10@0.5", latency_ms=9.0, top1=51.0)
)
BUDGET_MS = 20.0
LATENCIES_MS = {row.complexity: row.latency_ms_p50 for row in TABLE.rows}


def simulate(controller: Controller, seconds: float, slowdown: Callable[[float], float], start_s: float = 0.0) -> list:
    """Batch after batch: (time, latency, operating point that ran)."""
    now_s, trace = start_s, []
    while now_s < start_s + seconds:
        ran = str(controller.complexity)
        latency_ms = slowdown(now_s) * LATENCIES_MS[controller.complexity]
        now_s += latency_ms / 1e3
        controller.observe(latency_ms, now_s)
        trace.append((now_s, latency_ms, ran))
    return trace


def switches(trace: list) -> int:
    return sum(a[2] != b[2] for a, b in itertools.pairwise(trace))


def test_it_starts_at_the_most_accurate_rung_within_the_budget():
    assert str(Controller(TABLE, 20).complexity) == "8"
    assert str(Controller(TABLE, 19).complexity) == "7"  # 16 ms in the median, but 19.2 ms in 95 %


def test_a_step_of_the_load_is_answered_within_the_stated_number_of_batches_and_taken_back_after_it():
    controller = Controller(TABLE, BUDGET_MS)
    trace = simulate(controller, 60, lambda now_s: 3.0 if 10 <= now_s < 30 else 1.0)
    over = [(now_s, latency) for now_s, latency, _ in trace if latency > BUDGET_MS]
    assert 0 < len(over) <= controller.reaction_observations
    assert {ran for now_s, _, ran in trace if 11 < now_s < 30} == {"6"}
    assert trace[-1][2] == "8"
    assert switches(trace) == 3  # down by two rungs at once, up one by one
    back_s = next(now_s for now_s, _, ran in trace if now_s > 30 and ran == "8")
    assert 30 + 2 * controller.settings.hold_s < back_s < 30 + 2 * (controller.settings.hold_s + 1)


def test_where_nothing_holds_the_budget_the_cheapest_runs():
    trace = simulate(Controller(TABLE, BUDGET_MS), 5, lambda now_s: 100.0)
    assert {ran for _, _, ran in trace[2:]} == {"4"}


def test_a_noisy_steady_load_does_not_make_it_oscillate():
    draw = random.Random(0)
    for slowdown in (0.5, 1.0, 1.3, 2.2, 5.0, 9.0):
        trace = simulate(Controller(TABLE, BUDGET_MS), 150, lambda now_s, load=slowdown: load * math.exp(draw.gauss(0, 0.05)))
        late = [entry for entry in trace if entry[0] > 60]
        assert switches(trace) <= 8
        assert switches(late) <= 2
        over = sum(latency > BUDGET_MS for _, latency, _ in late) / len(late)
        assert over < 0.06, slowdown


def test_a_lone_slow_batch_changes_nothing():
    controller = Controller(TABLE, BUDGET_MS)
    trace = simulate(controller, 60, lambda now_s: 50.0 if 20 < now_s < 20.017 else 1.0)
    assert max(latency for _, latency, _ in trace) == 800
    assert switches(trace) == 0


def test_a_device_that_slows_only_the_dearest_rung_is_tried_less_and_less():
    controller = Controller(TABLE, BUDGET_MS)
    now_s, tried_s = 0.0, []
    while now_s < 600:
        is_dearest = str(controller.complexity) == "8"
        if is_dearest and (not tried_s or now_s - tried_s[-1] > 1):
            tried_s.append(now_s)
        latency_ms = LATENCIES_MS[controller.complexity] * (1.6 if is_dearest else 1.0)
        now_s += latency_ms / 1e3
        controller.observe(latency_ms, now_s)
    gaps = [b - a for a, b in itertools.pairwise(tried_s)]
    assert all(later > 0.99 * gap for gap, later in itertools.pairwise(gaps))
    assert gaps[0] < 15
    assert gaps[-1] > controller.settings.longest_hold_s


def serve(controller: Controller | None, arrivals_s: list[float]) -> list[float]:
    """Response times in ms of a server that runs batches in order of arrival, at the dearest rung without controller."""
    free_s, responses = 0.0, []
    for index, arrival_s in enumerate(arrivals_s):
        latency_ms = LATENCIES_MS[controller.complexity] if controller else 16.0
        free_s = max(free_s, arrival_s) + latency_ms / 1e3
        responses.append((free_s - arrival_s) * 1e3)
        if controller:
            waiting = sum(1 for later_s in arrivals_s[index + 1 : index + 100] if later_s <= free_s)
            controller.observe(latency_ms, free_s, waiting)
    return responses


def test_a_burst_is_drained_at_the_cheapest_rung_and_then_forgotten():
    steady = [0.05 * i for i in range(1200)]  # a batch every 50 ms for a minute
    burst = [20.001 + 0.002 * i for i in range(60)]  # 60 batches more within 120 ms
    arrivals_s = sorted(steady + burst)
    controller = Controller(TABLE, BUDGET_MS)
    followed, fixed = serve(controller, arrivals_s), serve(None, arrivals_s)
    assert sum(response > BUDGET_MS for response in fixed) > 60
    assert sum(response > BUDGET_MS for response in followed) <= 10
    assert max(followed) < 3 * BUDGET_MS
    assert str(controller.complexity) == "8"


def test_the_battery_caps_the_rung():
    def after(power: Power | None) -> str:
        return str(Controller(TABLE, BUDGET_MS).observe(16.0, 0.0, power=power))

    assert after(None) == after(Power(0.05, is_on_mains=True)) == after(Power(0.5, is_on_mains=False)) == "8"
    assert after(Power(0.31, is_on_mains=False)) == "6"
    assert after(Power(0.1, is_on_mains=False)) == after(Power(0.0, is_on_mains=False)) == "4"


def test_a_battery_around_a_limit_does_not_make_it_oscillate():
    controller, seen = Controller(TABLE, BUDGET_MS), []
    for index in range(1000):
        point = controller.observe(1.0, index / 10, power=Power(0.3 + 0.001 * (-1) ** index, is_on_mains=False))
        seen.append((index, 0, str(point)))
    assert switches(seen[2:]) == 0


def test_the_battery_is_read_through_psutil(monkeypatch):
    battery = SimpleNamespace(percent=40, power_plugged=None)  # None: the system does not know
    fake = SimpleNamespace(sensors_battery=lambda: battery, __spec__=SimpleNamespace(name="psutil"))
    monkeypatch.setitem(sys.modules, "psutil", fake)
    assert read_power() == Power(0.4, is_on_mains=False)
    fake.sensors_battery = lambda: None
    assert read_power() is None
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install 'supervit\[battery\]'"):
        read_power()


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: Controller(TABLE, 1), r"nothing fits the budget \(latency_ms 1\); the cheapest is 4 "),
        (lambda: Controller(TABLE, 0), "budget latency_ms=0"),
        (lambda: Controller(table(cost("4")), 5), "accuracy of 4 is not in the cost table"),
        (lambda: Controller(TABLE, BUDGET_MS, batch_size=2), "batch size 2 is not in the cost table"),
        (lambda: ControllerSettings(tolerated=20), "tolerated 20 must be at least 0 and less than window 20"),
        (lambda: ControllerSettings(margin=1.0), "margin 1.0"),
        (lambda: ControllerSettings(hold_s=0), "hold_s 0"),
        (lambda: ControllerSettings(hold_s=90), "hold_s 90 must be above 0 and at most longest_hold_s 80.0"),
        (lambda: ControllerSettings(battery_full=0.1), "must ascend"),
        (lambda: Controller(TABLE, BUDGET_MS).observe(0, 0), "latency_ms 0"),
        (lambda: Controller(TABLE, BUDGET_MS).observe(float("nan"), 0), "latency_ms nan"),
        (lambda: Controller(TABLE, BUDGET_MS).observe(1, float("nan")), "now_s nan"),
        (lambda: Controller(TABLE, BUDGET_MS).observe(1, 0, queue_length=-1), "queue_length -1"),
    ],
)
def test_what_makes_no_sense_is_refused(make, message):
    with pytest.raises(InputError, match=message):
        make()


def test_time_does_not_go_back():
    controller = Controller(TABLE, BUDGET_MS)
    controller.observe(16.0, 5.0)
    with pytest.raises(InputError, match=r"now_s 4.0 not before 5.0"):
        controller.observe(16.0, 4.0)
