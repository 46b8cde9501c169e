"""Follows the load of a device: which operating point to run next so that a latency budget holds.

Pure decisions: no threads and no clock of its own, so that a server can use it and a test can simulate it.
"""

import importlib.util
import math
from collections import deque
from dataclasses import dataclass, replace

from supervit.choose import Budget, choose
from supervit.complexity import Complexity
from supervit.cost_table import CostTable
from supervit.errors import InputError


@dataclass(frozen=True)
class Power:
    """Where a device has its power from."""

    battery_fraction: float
    """Charge of the battery in [0, 1]."""
    is_on_mains: bool


def read_power() -> Power | None:
    """Where this machine has its power from now; None without a battery.

    Raises:
        InputError: psutil is not installed.
    """
    if importlib.util.find_spec("psutil") is None:
        raise InputError("reading the battery needs psutil; pip install 'supervit[battery]'")
    import psutil

    battery = psutil.sensors_battery()
    return None if battery is None else Power(battery.percent / 100, bool(battery.power_plugged))


@dataclass(frozen=True)
class ControllerSettings:
    """How quickly a controller follows.

    Raises:
        InputError: a value out of range.
    """

    window: int = 20
    """Observations that the slowdown of the device is estimated from."""
    tolerated: int = 1
    """Observations in a window that may break the budget (1 of 20: the budget is a 95th percentile)."""
    margin: float = 0.85
    """The next rung is climbed to when it is expected to take no more than this share of the budget ..."""
    hold_s: float = 5.0
    """... for this long without a break."""
    longest_hold_s: float = 80.0
    """A rung that breaks the budget within `hold_s` after it was climbed to has to be held out for twice as long the next
    time, up to this."""
    battery_full: float = 0.5
    """Charge from which all rungs are allowed off mains; below, fewer and fewer ..."""
    battery_empty: float = 0.1
    """... down to the cheapest alone."""

    def __post_init__(self) -> None:
        if not 0 <= self.tolerated < self.window:
            raise InputError(f"tolerated {self.tolerated} must be at least 0 and less than window {self.window}")
        if not 0 < self.margin < 1:
            raise InputError(f"margin {self.margin} is not in (0, 1)")
        if not 0 < self.hold_s <= self.longest_hold_s < math.inf:
            raise InputError(f"hold_s {self.hold_s} must be above 0 and at most longest_hold_s {self.longest_hold_s}")
        if not 0 <= self.battery_empty < self.battery_full <= 1:
            raise InputError(f"battery_empty {self.battery_empty} and battery_full {self.battery_full} must ascend in [0, 1]")


class Controller:
    """Keeps the time of a batch within a budget by the most accurate operating point that the load allows.

    The load is a slowdown: observed latency / latency in the cost table, the same for all rungs. Its estimate is the
    largest of the last `window` ones but `tolerated`.

    Down: at once, to the most accurate rung that is expected to hold the budget; a load that rises in a step is answered
    after `reaction_observations` batches. Where no rung holds it, the cheapest runs.
    Up: one rung, after it was expected to fit with a margin for all of `hold_s`. On a steady load whose noise stays within
    a factor of 1 / margin no climb is ever taken back, so there is no oscillation; under wilder noise, or a device that
    slows some rungs more than others, the hold of a rung that failed doubles.

    Args:
        table: Costs and accuracies; the rungs are its Pareto set.
        latency_ms: The budget, for the time of a batch from its arrival.
        batch_size: Images per batch, where the table has several sizes.
        settings: How quickly to follow.

    Raises:
        InputError: no rung holds the budget even without load (the cheapest is named), or an accuracy is missing.
    """

    def __init__(
        self,
        table: CostTable,
        latency_ms: float,
        batch_size: int | None = None,
        settings: ControllerSettings | None = None,
    ):
        self.rungs, self.latency_ms, self.settings = table.pareto(batch_size), latency_ms, settings or ControllerSettings()
        start = choose(replace(table, rows=tuple(self.rungs)), Budget(latency_ms=latency_ms))
        self._rung = self.rungs.index(start)
        spread = start.latency_ms_p95 / start.latency_ms_p50
        self._slowdowns = deque([spread] * self.settings.window, maxlen=self.settings.window)
        self._holds_s = [self.settings.hold_s] * len(self.rungs)
        self._fits_since_s: float | None = None  # the next rung, with a margin
        self._arrived_s = self._now_s = -math.inf
        self._is_on_trial = False  # climbed to its rung less than `hold_s` ago

    @property
    def complexity(self) -> Complexity:
        """The operating point to run now."""
        return self.rungs[self._rung].complexity

    @property
    def slowdown(self) -> float:
        """Latency here as a multiple of the cost table's median, as estimated."""
        return sorted(self._slowdowns)[-1 - self.settings.tolerated]

    @property
    def reaction_observations(self) -> int:
        """Batches after a step of the load until an operating point runs that holds the budget again, at most."""
        return self.settings.tolerated + 1

    def observe(self, latency_ms: float, now_s: float, queue_length: int = 0, power: Power | None = None) -> Complexity:
        """The operating point to run next.

        Args:
            latency_ms: What the last batch took; it ran at the operating point that was returned last.
            now_s: The time, from any clock that never goes back.
            queue_length: Batches that wait; the last of them is to be done within the budget too.
            power: Where the device has its power from (`read_power`), if it matters.

        Raises:
            InputError: a latency that is not a number above 0, a negative queue, or a time before the last one.
        """
        if not 0 < latency_ms < math.inf or queue_length < 0 or not now_s >= self._now_s:
            raise InputError(
                f"latency_ms {latency_ms} must be a number above 0, queue_length {queue_length} at least 0, "
                f"now_s {now_s} not before {self._now_s}"
            )
        self._now_s = now_s
        self._slowdowns.append(latency_ms / self.rungs[self._rung].latency_ms_p50)
        if now_s - self._arrived_s >= self.settings.hold_s:
            self._is_on_trial, self._holds_s[self._rung] = False, self.settings.hold_s
        allowed_ms = self.latency_ms / (queue_length + 1)
        highest = self._highest_allowed(power)
        if self._highest_within(allowed_ms) < self._rung:
            if self._is_on_trial:
                self._holds_s[self._rung] = min(2 * self._holds_s[self._rung], self.settings.longest_hold_s)
            self._go_to(min(highest, self._highest_within(allowed_ms)), is_on_trial=False)
        elif highest < self._rung:
            self._go_to(highest, is_on_trial=False)
        elif self._rung < min(highest, self._highest_within(self.settings.margin * allowed_ms)):
            self._climb_if_held()
        else:
            self._fits_since_s = None
        return self.complexity

    def _highest_within(self, latency_ms: float) -> int:
        """The dearest rung that is expected to take no longer; the cheapest if none is."""
        slowdown = self.slowdown
        return max((i for i, row in enumerate(self.rungs) if slowdown * row.latency_ms_p50 <= latency_ms), default=0)

    def _highest_allowed(self, power: Power | None) -> int:
        """The dearest rung that the battery allows."""
        if power is None or power.is_on_mains:
            return len(self.rungs) - 1
        full, empty = self.settings.battery_full, self.settings.battery_empty
        share = min(max((power.battery_fraction - empty) / (full - empty), 0.0), 1.0)
        return int(share * (len(self.rungs) - 1))

    def _climb_if_held(self) -> None:
        if self._fits_since_s is None:
            self._fits_since_s = self._now_s
        if self._now_s - self._fits_since_s >= self._holds_s[self._rung + 1]:
            self._go_to(self._rung + 1, is_on_trial=True)

    def _go_to(self, rung: int, is_on_trial: bool) -> None:
        self._rung, self._is_on_trial = rung, is_on_trial
        self._arrived_s, self._fits_since_s = self._now_s, None
