"""What every operating point costs on one device: measured once (`profiling.py`), read by all who choose."""

import dataclasses
import datetime
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from supervit import pareto
from supervit.complexity import Complexity
from supervit.errors import InputError
from supervit.evaluate import runtime_environment
from supervit.fields import check_types, from_plain
from supervit.files import make_directory, read_object, refusing, write_json
from supervit.runtimes import AnyModel, as_runtime

SCHEMA = 2  # of the JSON; 1 did not say how many processors could be used


@dataclass(frozen=True)
class Cost:
    """One operating point at one batch size: a row of a cost table.

    Raises:
        InputError: a value that cannot have been measured.
    """

    complexity: Complexity
    batch_size: int
    latency_ms_p50: float
    """Median time of one batch."""
    latency_ms_p95: float
    """95th percentile of the time of one batch."""
    throughput_ips: float
    """Images per second over all timed batches."""
    macs: int
    """Multiply-accumulates per image, the paper's count."""
    executed_macs: int
    """Multiply-accumulates per image that really run."""
    peak_memory_mib: float | None = None
    """Peak memory of one batch beyond weights and images; None where the system does not tell."""
    energy_j: float | None = None
    """Joules per image; None where the device does not tell."""
    top1: float | None = None
    """Accuracy in percent, once it is known."""

    def __post_init__(self) -> None:
        if not isinstance(self.complexity, Complexity):
            raise InputError(f"complexity {self.complexity!r} must be a Complexity, such as Complexity.of('14@0.7')")
        for name in ("batch_size", "macs", "executed_macs"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise InputError(f"{name} {value!r} of {self.complexity} must be an integer of at least 1")
        for name in ("latency_ms_p50", "latency_ms_p95", "throughput_ips"):
            if not _is_number(getattr(self, name)) or getattr(self, name) <= 0:
                raise InputError(f"{name} {getattr(self, name)!r} of {self.complexity} must be a number above 0")
        for name in ("peak_memory_mib", "energy_j", "top1"):
            value = getattr(self, name)
            if value is not None and (not _is_number(value) or value < 0):
                raise InputError(f"{name} {value!r} of {self.complexity} must be a number of at least 0, or null")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


@dataclass(frozen=True)
class Setup:
    """What a cost table was measured with; it holds for nothing else."""

    model: str
    """Fingerprint of the model: config and weights."""
    device: str
    """Name of the GPU or processor."""
    runtime: str
    """Name of what ran the model, such as eager."""
    precision: str
    """Number format, such as float32."""
    cpus: float
    """Processors that the process could use: those it was bound to, and its control group's quota."""
    threads: int
    """Threads on the CPU."""
    versions: Mapping[str, str]
    """Versions of the libraries."""
    date: str
    """When, in UTC (ISO 8601)."""

    def __post_init__(self) -> None:
        check_types(self)

    @classmethod
    def of(cls, model: AnyModel) -> Self:
        """The setup of a model, on the device where it runs, or of a runtime, here and now."""
        runtime = as_runtime(model)
        date = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        return cls(model=runtime.fingerprint(), date=date, **runtime_environment(runtime))


@dataclass(frozen=True)
class CostTable:
    """Costs of operating points and batch sizes in one setup.

    Raises:
        InputError: no rows, or an operating point twice at one batch size.
    """

    rows: tuple[Cost, ...]
    setup: Setup

    def __post_init__(self) -> None:
        keys = [(row.complexity, row.batch_size) for row in self.rows]
        if not keys or len(set(keys)) < len(keys):
            raise InputError(f"a cost table of {len(keys)} rows, {len(set(keys))} different; each must be there once")

    def check(self, setup: Setup) -> None:
        """Refuse to be used in another setup; versions and date may differ.

        Raises:
            InputError: measured with another model, device, number of processors, runtime, precision or number of threads.
        """
        for name in ("model", "device", "cpus", "runtime", "precision", "threads"):
            then, now = getattr(self.setup, name), getattr(setup, name)
            if then != now:
                raise InputError(
                    f"the cost table holds for {name} {then!r}, here it is {now!r}; measure again: supervit profile"
                )

    def at(self, batch_size: int | None = None) -> list[Cost]:
        """The rows of a batch size, which may be left out where the table has only one.

        Raises:
            InputError: no such batch size, or none named and several there.
        """
        sizes = sorted({row.batch_size for row in self.rows})
        if batch_size is None and len(sizes) == 1:
            (batch_size,) = sizes
        if batch_size not in sizes:
            raise InputError(f"batch size {batch_size} is not in the cost table; name one of {', '.join(map(str, sizes))}")
        return [row for row in self.rows if row.batch_size == batch_size]

    def pareto(self, batch_size: int | None = None) -> list[Cost]:
        """The rows of a batch size that none of equal or lower median latency matches in accuracy, fastest first.

        Raises:
            InputError: an accuracy is missing, or as `at`.
        """
        return pareto.pareto_set(self.at(batch_size), cost=lambda row: row.latency_ms_p50, worth=known_top1)

    def with_accuracies(self, top1: Mapping[Complexity, float]) -> Self:
        """The table with these accuracies in percent; operating points that have none here keep what they had."""
        rows = (dataclasses.replace(row, top1=top1.get(row.complexity, row.top1)) for row in self.rows)
        return dataclasses.replace(self, rows=tuple(rows))

    def save(self, file: Path) -> None:
        """Write the table as JSON, whole or not at all."""
        rows = [dataclasses.asdict(row) | {"complexity": str(row.complexity)} for row in self.rows]
        setup = dataclasses.asdict(self.setup)
        make_directory(file.parent)
        write_json(file, {"schema": SCHEMA, "setup": setup, "rows": rows})

    @classmethod
    def load(cls, file: str | Path) -> Self:
        """The table that `save` wrote.

        Raises:
            InputError: the file is missing or damaged, has another schema, or keys or values that do not belong there.
        """
        with refusing(f"{str(file)!r} is not a cost table", "write one: supervit profile"):
            content = read_object(Path(file))
            if content.get("schema") != SCHEMA:
                raise InputError(
                    f"it has schema {content.get('schema')!r}, not {SCHEMA}, that of this version of supervit: measure again"
                )
            if content.keys() != {"schema", "setup", "rows"} or not isinstance(content["rows"], list):
                raise InputError("it must hold schema, setup and a list of rows, and nothing else")
            return cls(tuple(from_plain(Cost, row) for row in content["rows"]), from_plain(Setup, content["setup"]))


def known_top1(row: Cost) -> float:
    """The accuracy of a row in percent.

    Raises:
        InputError: it is not known.
    """
    if row.top1 is None:
        raise InputError(f"the accuracy of {row.complexity} is not in the cost table; add it: CostTable.with_accuracies")
    return row.top1
