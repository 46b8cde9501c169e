"""`supervit runtimes`."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import tyro

from supervit.checkpoints import load
from supervit.commands._opening import Points, check_classes, parse_points
from supervit.comparison import Comparison, best_runtime, compare_runtimes
from supervit.data import SourceConfig, Split, draw_images, open_dataset
from supervit.errors import InputError
from supervit.evaluate import environment, pick_device
from supervit.report import aligned_table
from supervit.runtimes import available_runtimes
from supervit.storage import make_directory, write_text


@dataclass(frozen=True)
class Runtimes:
    """Measure which runtime and precision is the best on this device: speed, accuracy and agreement on your images."""

    model: tyro.conf.Positional[str]
    """Model directory or weights file (whatever `supervit.load` takes)."""
    data: SourceConfig = field(default_factory=SourceConfig)
    """The data."""
    split: Split = "val"
    """Part of the data."""
    images: int = 500
    """Random images that are classified, in memory."""
    calibration_images: int = 256
    """Other images, which int8 is calibrated on; 0 leaves int8 out."""
    complexities: Points = ()
    """Operating points, such as 8@0.5 14 (default: the cheapest and the dearest of the menu)."""
    max_loss: float = 0.2
    """Points of top-1 that the best one may lose against PyTorch in float32 at any of them."""
    batch_size: int = 16
    """Images per batch."""
    repeats: int = 10
    """Timed batches per operating point and runtime."""
    threads: int | None = None
    """CPU threads (default: as many as PyTorch takes)."""
    device: str = "auto"
    """Torch device; auto takes the GPU if there is one."""
    seed: int = 0
    """Seed of the images."""
    out: Path | None = None
    """Directory for runtimes.json."""

    def run(self) -> None:
        """Print a row for each runtime and operating point, and the best one."""
        if self.images < 1 or self.calibration_images < 0 or self.max_loss < 0:
            raise InputError(
                f"images {self.images} must be at least 1, calibration_images {self.calibration_images} and max_loss "
                f"{self.max_loss:g} at least 0"
            )
        device = pick_device(self.device)
        model = load(self.model)
        menu = list(model.config.space)
        points = parse_points(self.complexities, (menu[0], model.config.space.largest))
        dataset = open_dataset(self.data, self.split, model.config)
        check_classes(dataset.classes, model.config)
        images, labels = draw_images(dataset, self.images + self.calibration_images, self.seed)
        count = max(len(images) - self.calibration_images, 1)
        calibration = images[count:]
        for found in available_runtimes(device.type):
            if found.obstacle:
                print(f"not here: {found.name} {found.precision}, {found.obstacle}")
        rows = compare_runtimes(
            model.to(device), images[:count], labels[:count], points,
            calibration=calibration if len(calibration) else None, device=str(device), threads=self.threads,
            batch_size=min(self.batch_size, count), repeats=self.repeats,
        )  # fmt: skip
        print(f"{count} images; against eager float32:\n\n{_table(rows)}", end="")
        name, precision = best_runtime(rows, self.max_loss)
        print(f"\nthe fastest that loses at most {self.max_loss:g} points: {name} {precision}")
        if self.out is not None:
            make_directory(self.out)
            records = [asdict(row) | {"complexity": str(row.complexity)} for row in rows]
            report = {"model": self.model, "data": str(self.data.root or self.data.name), "images": count}
            report |= {"calibration_images": len(calibration), "batch_size": self.batch_size, **environment(device)}
            report |= {"best": {"runtime": name, "precision": precision}, "rows": records}
            write_text(self.out / "runtimes.json", json.dumps(report, indent=2) + "\n")
            print(f"wrote {self.out}")


def _table(rows: Sequence[Comparison]) -> str:
    cells = [["runtime", "precision", "complexity", "ms p50", "speedup", "top-1 %", "change", "agreement %"]]
    for row in rows:
        measured = [f"{row.latency_ms:.2f}", f"{row.speedup:.2f}", f"{row.top1:.2f}", f"{row.top1_change:+.2f}"]
        cells.append([row.runtime, row.precision, str(row.complexity), *measured, f"{row.agreement:.2f}"])
    return aligned_table(cells)
