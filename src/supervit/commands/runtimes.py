"""`supervit runtimes`."""

import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import tyro

from supervit.commands._opening import Points, open_loader, parse_points, print_damaged
from supervit.config import SuperViTConfig
from supervit.data import SourceConfig, Split
from supervit.errors import InputError, reason_of
from supervit.files import make_directory, write_json

if TYPE_CHECKING:
    from torch import Tensor

    from supervit.comparison import Comparison


@dataclass(frozen=True)
class Runtimes:
    """Measure which runtime and precision is the best on this device: speed, accuracy and agreement on your images."""

    model: tyro.conf.Positional[str]
    """Model directory or weights file (whatever `supervit.load` takes)."""
    data: SourceConfig = field(default_factory=lambda: SourceConfig(batch_size=16))
    """The data; its batch size is also that of the measurement."""
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
    repeats: int = 10
    """Timed batches per operating point and runtime."""
    threads: int | None = None
    """CPU threads (default: as many as PyTorch takes)."""
    device: str = "auto"
    """Torch device; auto takes the GPU if there is one."""
    seed: int = 0
    """Seed of the images."""
    out: Path | None = None
    """Directory for runtimes.json and its picture."""

    def run(self) -> None:
        """Print a row for each runtime and operating point, and the best one."""
        from supervit.checkpoints import load
        from supervit.comparison import best_runtime, compare_runtimes
        from supervit.evaluate import environment
        from supervit.figures import draw_runtimes
        from supervit.pictures import check_plotting, picture_files
        from supervit.runtimes import available_runtimes, pick_device

        if self.images < 1 or self.calibration_images < 0 or self.max_loss < 0:
            raise InputError(
                f"images {self.images} must be at least 1, calibration_images {self.calibration_images} and max_loss "
                f"{self.max_loss:g} at least 0"
            )
        if self.out is not None:
            check_plotting()
            make_directory(self.out)
        device = pick_device(self.device)
        model = load(self.model)
        menu = list(model.config.space)
        points = parse_points(self.complexities, (menu[0], model.config.space.largest))
        images, labels, calibration = self._draw(model.config)
        for found in available_runtimes(device.type):
            if found.obstacle:
                print(f"not here: {found.name} {found.precision}, {found.obstacle}")
        failures: dict[str, str] = {}
        rows = compare_runtimes(
            model.to(device), images, labels, points,
            calibration=calibration, device=str(device), threads=self.threads,
            batch_size=min(self.data.batch_size, len(images)), repeats=self.repeats,
            on_failure=lambda found, error: failures.update({f"{found.name} {found.precision}": reason_of(error)}),
        )  # fmt: skip
        for runtime, reason in failures.items():
            print(f"failed: {runtime}, {reason}", file=sys.stderr)
        print(
            f"{len(images)} images; against eager float32, timed anew beside each runtime:\n\n{_table(rows, len(images))}",
            end="",
        )
        name, precision = best_runtime(rows, self.max_loss)
        print(f"\nthe fastest that loses at most {self.max_loss:g} points: {name} {precision}")
        if self.out is not None:
            records = [asdict(row) | {"complexity": str(row.complexity)} for row in rows]
            settings = ("split", "images", "calibration_images", "max_loss", "repeats", "seed")
            report = {"model": self.model, "data": str(self.data.root or self.data.name), "batch_size": self.data.batch_size}
            report |= {name: getattr(self, name) for name in settings} | environment(device)
            report |= {"best": {"runtime": name, "precision": precision}, "rows": records, "failures": failures}
            write_json(self.out / "runtimes.json", report)
            draw_runtimes(rows, picture_files(self.out, "runtimes"))
            print(f"wrote {self.out}")

    def _draw(self, config: SuperViTConfig) -> "tuple[Tensor, Tensor, Tensor | None]":
        """Images, their class indices, and other images to calibrate on, or None."""
        from supervit.data import draw_images

        loader = open_loader(self.data, self.split, config)
        wanted = self.images + self.calibration_images
        images, labels = draw_images(loader, wanted, self.seed)
        print_damaged(loader)
        if len(images) < wanted:
            raise InputError(
                f"{len(images)} images are there, fewer than images {self.images} and calibration_images "
                f"{self.calibration_images} together; ask for fewer"
            )
        calibration = images[self.images :] if self.calibration_images else None
        return images[: self.images], labels[: self.images], calibration


def _table(rows: "Sequence[Comparison]", images: int) -> str:
    from supervit.evaluate import standard_error
    from supervit.report import aligned_table, with_error

    cells = [["runtime", "precision", "complexity", "ms p50", "speedup", "top-1 %", "change", "agreement %"]]
    for row in rows:
        top1 = with_error(row.top1, standard_error(row.top1, images))
        measured = [f"{row.latency_ms:.2f}", f"{row.speedup:.2f}", top1, f"{row.top1_change:+.2f}"]
        cells.append([row.runtime, row.precision, str(row.complexity), *measured, f"{row.agreement:.2f}"])
    return aligned_table(cells)
