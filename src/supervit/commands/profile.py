"""`supervit profile`."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import tyro

from supervit.commands._opening import Points, RunOptions, parse_points
from supervit.commands._output import check_output
from supervit.complexity import Complexity
from supervit.errors import InputError
from supervit.fields import checked
from supervit.files import make_directory, read_object, refusing

if TYPE_CHECKING:
    from supervit.cost_table import Cost
    from supervit.runtimes import Runtime


@dataclass(frozen=True)
class Profile:
    """What every operating point costs on this device: latency, images/s, memory and energy, as a cost table."""

    model: tyro.conf.Positional[str]
    """Model directory, weights file (whatever `supervit.load` takes), or what `supervit export` wrote."""
    points: Points = ()
    """Operating points, trained or not, such as 8@0.5 13@0.6 14 (default: the model's menu)."""
    batch_sizes: tuple[int, ...] = (1,)
    """Images per batch."""
    repeats: int = 30
    """Timed batches per operating point and batch size."""
    warmup: int = 3
    """Batches per operating point and batch size before the clock starts."""
    accuracies: Path | None = None
    """The results.json of `supervit evaluate --out` for the same model and precision: adds accuracies, Pareto set and plot."""
    out: Path | None = None
    """Directory for costs.json and the plot."""
    overwrite: bool = False
    """Write over results of another model or other data in `out`."""
    run_by: RunOptions = field(default_factory=RunOptions)

    def run(self) -> None:
        """Print the rows, the Pareto set if accuracies are known, write both."""
        from supervit.cost_table import Setup
        from supervit.figures import draw_costs
        from supervit.pictures import check_plotting, picture_files
        from supervit.profiling import profile

        if self.out is not None:
            make_directory(self.out)
            if self.accuracies is not None:
                check_plotting()
        measured = None if self.accuracies is None else Accuracies.load(self.accuracies)
        runtime = self.run_by.open(self.model)
        setup = vars(Setup.of(runtime))
        facts = {f"setup.{name}": setup[name] for name in ("model", "device", "runtime", "precision")}
        check_output(self.out, "costs.json", facts, overwrite=self.overwrite)
        top1 = {} if measured is None else measured.of(runtime)
        standard_errors = {} if measured is None else measured.standard_errors
        points = parse_points(self.points, runtime.points)
        if self.accuracies is not None and (missing := [str(point) for point in points if point not in top1]):
            raise InputError(f"{str(self.accuracies)!r} has no accuracy of {', '.join(missing)}; evaluate these too")
        table = profile(runtime, points, self.batch_sizes, self.repeats, self.warmup).with_accuracies(top1)
        print(f"{table.setup.device}, {table.setup.runtime}, {table.setup.precision}, {table.setup.threads} threads\n")
        print(_cost_table(table.rows), end="")
        sizes = sorted(set(self.batch_sizes))
        for size in sizes if top1 else ():
            print(f"\nPareto set at batch size {size}: {', '.join(str(row.complexity) for row in table.pareto(size))}")
        if self.out is not None:
            table.save(self.out / "costs.json")
            for size in sizes if top1 else ():
                draw_costs(table, size, picture_files(self.out, f"latency_batch_{size}"), standard_errors)
            print(f"\nwrote {self.out}")


@dataclass(frozen=True)
class Accuracies:
    """What a `results.json` says."""

    file: Path
    top1: dict[Complexity, float]
    """Percent."""
    standard_errors: dict[Complexity, float]
    """Of `top1`, in percentage points; of those points that the file tells them of."""
    evaluated: dict[str, Any]
    """Fingerprint of the model, runtime and precision; None where the file does not tell."""

    @classmethod
    def load(cls, file: Path) -> Self:
        """The content of a file.

        Raises:
            InputError: it is missing or damaged, or holds no accuracies.
        """
        with refusing(f"{str(file)!r} holds no accuracies", "write it by supervit evaluate --out"):
            content = read_object(file)
            try:
                rows = {Complexity.of(record["complexity"]): record for record in content["results"]}
                top1 = {point: checked(float, record["top1"], "top1") for point, record in rows.items()}
                errors = {point: record.get("top1_standard_error") for point, record in rows.items()}
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise InputError(repr(error)) from error
            known = {
                point: checked(float, error, "top1_standard_error") for point, error in errors.items() if error is not None
            }
        return cls(file, top1, known, {name: content.get(name) for name in ("fingerprint", "precision", "runtime")})

    def of(self, runtime: "Runtime") -> dict[Complexity, float]:
        """The accuracies, if they are those of this runtime; all runtimes have the same ones in float32.

        Raises:
            InputError: they are of another model or precision.
        """
        here = {"fingerprint": runtime.fingerprint(), "precision": runtime.precision, "runtime": runtime.name}
        for name, now in here.items():
            if name == "runtime" and runtime.precision == "float32":
                continue
            if self.evaluated[name] != now:
                raise InputError(
                    f"{str(self.file)!r} holds accuracies of {name} {self.evaluated[name]!r}, here it is {now!r}; evaluate "
                    "what you profile: supervit evaluate --out"
                )
        return self.top1


def _cost_table(rows: "Sequence[Cost]") -> str:
    from supervit.report import aligned_table

    cells = [["complexity", "batch", "ms p50", "ms p95", "images/s", "MiB", "J/image", "top-1 %"]]
    for row in rows:
        measured = [(row.peak_memory_mib, ".1f"), (row.energy_j, ".3g"), (row.top1, ".2f")]
        optional = ["" if value is None else format(value, form) for value, form in measured]
        times = [f"{row.latency_ms_p50:.2f}", f"{row.latency_ms_p95:.2f}", f"{row.throughput_ips:.1f}"]
        cells.append([str(row.complexity), str(row.batch_size), *times, *optional])
    return aligned_table(cells)
