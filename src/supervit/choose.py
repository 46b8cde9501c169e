"""Which operating point to run within a budget."""

import math
from collections.abc import Callable
from dataclasses import dataclass, fields

from supervit.cost_table import Cost, CostTable, known_top1
from supervit.errors import InputError


@dataclass(frozen=True)
class Budget:
    """What may be spent: one limit or several, all of which have to hold.

    Raises:
        InputError: no limit, or one that is not a number above 0.
    """

    latency_ms: float | None = None
    """Time of a batch that 95 % of the batches stay within."""
    throughput_ips: float | None = None
    """Images per second, at least."""
    macs: float | None = None
    """Multiply-accumulates per image, the paper's count."""
    energy_j: float | None = None
    """Joules per image."""
    memory_mib: float | None = None
    """Peak memory of a batch beyond weights and images."""

    def __post_init__(self) -> None:
        if not self.limits:
            raise InputError(f"a budget without a limit; set one of {', '.join(field.name for field in fields(self))}")
        for name, value in self.limits.items():
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
                raise InputError(f"budget {name}={value!r} must be a number above 0")

    @property
    def limits(self) -> dict[str, float]:
        """The limits that are set, by name."""
        return {field.name: value for field in fields(self) if (value := getattr(self, field.name)) is not None}

    def spent(self, row: Cost) -> dict[str, float]:
        """What a row takes of each limit, as a share: it fits where none is above 1.

        Raises:
            InputError: what is limited was not measured.
        """
        shares = {}
        for name, limit in self.limits.items():
            value = _MEASURED[name](row)
            if value is None:
                raise InputError(
                    f"the cost table has no {name} of {row.complexity}: this device does not tell; limit another cost"
                )
            shares[name] = limit / value if name == "throughput_ips" else value / limit
        return shares


_MEASURED: dict[str, Callable[[Cost], float | None]] = {
    "latency_ms": lambda row: row.latency_ms_p95,
    "throughput_ips": lambda row: row.throughput_ips,
    "macs": lambda row: row.macs,
    "energy_j": lambda row: row.energy_j,
    "memory_mib": lambda row: row.peak_memory_mib,
}


def choose(table: CostTable, budget: Budget, batch_size: int | None = None) -> Cost:
    """The most accurate row within the budget; of equally accurate ones, the one that takes the smallest share of it.

    Args:
        table: Costs and accuracies (`CostTable.with_accuracies`).
        budget: The limits.
        batch_size: Images per batch; default: any that the table has.

    Raises:
        InputError: nothing fits (the error names what comes closest, the cheapest under a single limit), an accuracy or a
            cost that is limited is not known, or the table lacks the batch size.
    """
    rows = list(table.rows) if batch_size is None else table.at(batch_size)
    share = {row: max(budget.spent(row).values()) for row in rows}
    fitting = [row for row in rows if share[row] <= 1]
    if not fitting:
        closest = min(rows, key=share.__getitem__)
        wanted = ", ".join(f"{name} {limit:g}" for name, limit in budget.limits.items())
        needed = ", ".join(f"{name} {_MEASURED[name](closest):.4g}" for name in budget.limits)
        raise InputError(
            f"nothing fits the budget ({wanted}); the cheapest is {closest.complexity} at batch size {closest.batch_size} "
            f"with {needed}"
        )
    return min(fitting, key=lambda row: (-known_top1(row), share[row], row.executed_macs, row.batch_size))
