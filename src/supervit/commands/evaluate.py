"""`supervit evaluate`."""

from dataclasses import dataclass, field
from pathlib import Path

import tyro

from supervit.commands._opening import Overrides, Points, RunOptions, open_loader, parse_points, print_damaged
from supervit.commands._output import check_output, facts_of
from supervit.commands._report import print_report
from supervit.data import SourceConfig, Split
from supervit.errors import InputError
from supervit.files import make_directory


@dataclass(frozen=True)
class Evaluate:
    """Accuracy, cost and images/s of every operating point, in one pass over the data."""

    model: tyro.conf.Positional[str]
    """Model directory, weights file (whatever `supervit.load` takes), or what `supervit export` wrote."""
    data: SourceConfig = field(default_factory=lambda: SourceConfig(batch_size=64))
    """The data."""
    split: Split = "val"
    """Part of the data."""
    points: Points = ()
    """Operating points, such as 8@0.5 14 (default: the model's menu)."""
    repeats: int = 10
    """Timed batches per operating point for images/s (paper: 50); 0 leaves images/s out."""
    seconds: float = 60
    """Limit of that timing, beyond which fewer batches are timed; 0 for none."""
    out: Path | None = None
    """Directory for results.csv, results.json, results.md and the plot, and the same of each class: classes.csv, confusion."""
    overwrite: bool = False
    """Write over results of another model or other data in `out`."""
    run_by: RunOptions = field(default_factory=RunOptions)
    overrides: Overrides = field(default_factory=Overrides)

    def run(self) -> None:
        """Print the table, write the report."""
        from supervit.evaluate import evaluate, measure_throughput, runtime_environment, tabulate
        from supervit.per_class import ClassCounts, write_per_class
        from supervit.pictures import check_plotting
        from supervit.report import write_report

        if self.repeats < 0 or not self.seconds >= 0:
            raise InputError(f"repeats {self.repeats} and seconds {self.seconds} must be at least 0")
        if self.out is not None:
            check_plotting()
            make_directory(self.out)
        runtime = self.run_by.open(self.model, **self.overrides.given())
        config, points = runtime.model_config, parse_points(self.points, runtime.points)
        facts = facts_of(runtime, self.data, self.split)
        check_output(self.out, "results.json", facts, overwrite=self.overwrite)
        loader = open_loader(self.data, self.split, config.view(points))
        counts = ClassCounts()
        on_answers = None if self.out is None else counts.add
        accuracies = evaluate(runtime, loader.epoch(), points, on_answers=on_answers)
        print_damaged(loader)
        batch_size = self.data.batch_size
        context = {"model": self.model, **facts, "images": next(iter(accuracies.values())).images, "batch_size": batch_size}
        context |= {"repeats": self.repeats, **runtime_environment(runtime)}
        results = tabulate(config, points, accuracies)
        if self.out is not None:  # now, as the timing may be stopped
            dearest = max(results, key=lambda result: result.macs).complexity
            write_per_class(counts, loader.dataset.classes, dearest, self.out)
            write_report(results, self.out, context, plot=False)
        if self.repeats:
            throughputs = measure_throughput(runtime, points, batch_size, self.repeats, seconds=self.seconds)
            results = tabulate(config, points, accuracies, throughputs)
        print_report(results, self.out, context)
