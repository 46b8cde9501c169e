"""`supervit benchmark`."""

from dataclasses import dataclass, field
from pathlib import Path

import tyro

from supervit.commands._opening import Points, RunOptions, parse_points
from supervit.commands._output import check_output
from supervit.commands._report import print_report
from supervit.files import make_directory


@dataclass(frozen=True)
class Benchmark:
    """Images/s of every operating point on this device: batch-size * repeats / total time."""

    model: tyro.conf.Positional[str]
    """Name of a variant, such as deit_small, a model directory, a weights file, or what `supervit export` wrote."""
    points: Points = ()
    """Operating points, such as 8@0.5 14 (default: the model's menu)."""
    batch_size: int = 64
    """Images per batch (paper: 512)."""
    repeats: int = 10
    """Timed batches per operating point (paper: 50)."""
    warmup: int = 2
    """Batches per operating point before the clock starts."""
    seconds: float = 60
    """Limit of the whole timing, beyond which fewer batches are timed; 0 for none (the paper's protocol)."""
    out: Path | None = None
    """Directory for results.csv, results.json and results.md."""
    overwrite: bool = False
    """Write over results of another model or other data in `out`."""
    run_by: RunOptions = field(default_factory=RunOptions)

    def run(self) -> None:
        """Print the table, write the report."""
        from supervit.evaluate import measure_throughput, runtime_environment, tabulate
        from supervit.model import create_model

        if self.out is not None:
            make_directory(self.out)
        is_stored = Path(self.model).exists()
        runtime = self.run_by.open(self.model) if is_stored else self.run_by.run(create_model(self.model).eval())
        points = parse_points(self.points, runtime.points)
        facts = {"model": self.model, "data": None, "runtime": runtime.name, "precision": runtime.precision}
        check_output(self.out, "results.json", facts, overwrite=self.overwrite)
        counts = (self.batch_size, self.repeats, self.warmup)
        throughputs = measure_throughput(runtime, points, *counts, seconds=self.seconds)
        context = {"model": self.model, "batch_size": self.batch_size, "repeats": self.repeats, **runtime_environment(runtime)}
        print_report(tabulate(runtime.model_config, points, throughputs=throughputs), self.out, context)
