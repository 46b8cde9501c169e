"""`supervit runtimes`."""

import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tyro

from supervit.commands._opening import Points, open_loader, parse_points, print_damaged
from supervit.commands._output import check_output
from supervit.config import SuperViTConfig
from supervit.data import SourceConfig, Split
from supervit.errors import InputError, reason_of
from supervit.files import make_directory, write_json

if TYPE_CHECKING:
    from torch import Tensor

    from supervit.comparison import Comparison
    from supervit.runtimes import Availability


_IMAGES, _CALIBRATION_IMAGES = 500, 256


@dataclass(frozen=True)
class Runtimes:
    """Measure which runtime and precision is the best on this device: speed, accuracy and agreement on your images."""

    model: tyro.conf.Positional[str]
    """Model directory or weights file (whatever `supervit.load` takes)."""
    data: SourceConfig = field(default_factory=lambda: SourceConfig(batch_size=16))
    """The data; its batch size is also that of the measurement."""
    split: Split = "val"
    """Part of the data."""
    images: int | None = None
    """Random images that are classified, in memory (default: 500, or two thirds of the data where these are too few)."""
    calibration_images: int | None = None
    """Other images, which int8 is calibrated on; 0 leaves int8 out (default: 256, or the rest of the data)."""
    points: Points = ()
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
    overwrite: bool = False
    """Write over results of another model or other data in `out`."""

    def run(self) -> None:
        """Print a row for each runtime and operating point, and the best one."""
        from supervit.checkpoints import load
        from supervit.comparison import best_runtime, compare_runtimes
        from supervit.evaluate import environment
        from supervit.figures import draw_runtimes
        from supervit.pictures import check_plotting, picture_files
        from supervit.runtimes import available_runtimes, pick_device

        images, calibration = self.images or 0, self.calibration_images or 0
        if self.images == 0 or images < 0 or calibration < 0 or not self.max_loss >= 0:
            raise InputError(
                f"images {self.images} must be at least 1, calibration_images {self.calibration_images} and max_loss "
                f"{self.max_loss:g} at least 0"
            )
        if self.out is not None:
            check_plotting()
            make_directory(self.out)
        device = pick_device(self.device)
        model = load(self.model)
        facts = {"fingerprint": model.fingerprint(), "data": self.data.place, "split": self.split}
        check_output(self.out, "runtimes.json", facts, overwrite=self.overwrite)
        menu = list(model.config.space)
        points = parse_points(self.points, (menu[0], model.config.space.largest))
        drawn = self._draw(model.config)
        for found in available_runtimes(device.type):
            if found.obstacle:
                print(f"not here: {found.name} {found.precision}, {found.obstacle}")
        measured = _Measured(facts | self._settings(drawn) | environment(device), self.out)
        rows = compare_runtimes(
            model.to(device), drawn.images, drawn.labels, points,
            calibration=drawn.calibration, device=str(device), threads=self.threads,
            batch_size=min(self.data.batch_size, len(drawn.images)), repeats=self.repeats,
            on_done=measured.note,
        )  # fmt: skip
        for runtime, reason in measured.failures.items():
            print(f"failed: {runtime}, {reason}", file=sys.stderr)
        count = len(drawn.images)
        print(f"{count} images; against eager float32, timed anew beside each runtime:\n\n{_table(rows, count)}", end="")
        name, precision = best_runtime(rows, self.max_loss)
        print(f"\nthe fastest that loses at most {self.max_loss:g} points: {name} {precision}")
        if self.out is not None:
            measured.save(best={"runtime": name, "precision": precision})
            draw_runtimes(rows, picture_files(self.out, "runtimes"))
            print(f"wrote {self.out}")

    def _draw(self, config: SuperViTConfig) -> "_Drawn":
        """Images to classify, and others to calibrate on; where the data have too few for the defaults, what they have."""
        from supervit.data import draw_images

        loader = open_loader(self.data, self.split, config)
        asked = ((self.images, _IMAGES), (self.calibration_images, _CALIBRATION_IMAGES))
        wanted = [default if given is None else given for given, default in asked]
        images, labels = draw_images(loader, sum(wanted), self.seed)
        print_damaged(loader)
        count, calibration = self._share(len(images))
        if [count, calibration] != wanted:
            print(f"{len(images)} images are there: {count} are classified, {calibration} calibrate int8, not {wanted}")
        return _Drawn(images[:count], labels[:count], images[count : count + calibration] if calibration else None)

    def _share(self, there: int) -> tuple[int, int]:
        """How many images to classify and to calibrate on."""
        count, calibration = self.images, self.calibration_images
        if count is None:
            count = min(_IMAGES, max(there * 2 // 3, 1) if calibration is None else there - calibration)
        if calibration is None:
            calibration = min(_CALIBRATION_IMAGES, max(there - count, 0))
        if count < 1 or count + calibration > there:
            raise InputError(
                f"{there} images are there, fewer than images {count} and calibration_images {calibration} together; "
                "ask for fewer"
            )
        return count, calibration

    def _settings(self, drawn: "_Drawn") -> dict[str, Any]:
        used = {"images": len(drawn.images), "calibration_images": 0 if drawn.calibration is None else len(drawn.calibration)}
        settings = {name: getattr(self, name) for name in ("model", "max_loss", "repeats", "seed")}
        return settings | used | {"batch_size": self.data.batch_size}


@dataclass(frozen=True)
class _Drawn:
    """Images (N, C, S, S), their class indices (N), and other images to calibrate on."""

    images: "Tensor"
    labels: "Tensor"
    calibration: "Tensor | None"


@dataclass(frozen=True)
class _Measured:
    """What is known so far, in runtimes.json from the first runtime on: the others may take long, or be stopped."""

    context: dict[str, Any]
    out: Path | None
    rows: "list[Comparison]" = field(default_factory=list)
    failures: dict[str, str] = field(default_factory=dict)

    def note(self, found: "Availability", outcome: "list[Comparison] | Exception") -> None:
        """Add a runtime's rows, or why it failed."""
        if isinstance(outcome, Exception):
            self.failures[f"{found.name} {found.precision}"] = reason_of(outcome)
        else:
            self.rows.extend(outcome)
        self.save(best=None)

    def save(self, best: dict[str, str] | None) -> None:
        """Write all of it."""
        if self.out is None:
            return
        records = [asdict(row) | {"complexity": str(row.complexity)} for row in self.rows]
        write_json(self.out / "runtimes.json", self.context | {"best": best, "rows": records, "failures": self.failures})


def _table(rows: "Sequence[Comparison]", images: int) -> str:
    from supervit.evaluate import standard_error
    from supervit.report import aligned_table, with_error

    cells = [["runtime", "precision", "complexity", "ms p50", "speedup", "top-1 %", "change", "agreement %"]]
    for row in rows:
        top1 = with_error(row.top1, standard_error(row.top1, images))
        measured = [f"{row.latency_ms:.2f}", f"{row.speedup:.2f}", top1, f"{row.top1_change:+.2f}"]
        cells.append([row.runtime, row.precision, str(row.complexity), *measured, f"{row.agreement:.2f}"])
    return aligned_table(cells)
