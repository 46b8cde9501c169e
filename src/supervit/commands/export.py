"""`supervit export`."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import tyro

from supervit.commands._opening import Points, open_loader, parse_points, print_damaged
from supervit.config import SuperViTConfig
from supervit.data import SourceConfig
from supervit.options import Precision

if TYPE_CHECKING:
    from torch import Tensor

    from supervit.export import ExportReport


@dataclass(frozen=True)
class Export:
    """Write the model for another runtime: one file for all operating points, or for one; verified before it is written."""

    out: Path
    """Directory to make; must not exist yet."""
    target: str = "onnx"
    """Format: the name of a file in `supervit/export`, such as onnx, openvino, torch_export or aot_inductor."""
    points: Points = ()
    """Operating points, such as 8@0.5 14 (default: the model's menu): one gives a static graph, several an elastic one."""
    precision: Precision = "float32"
    """Arithmetic; int8 is quantised after training and needs calibration images."""
    model: tyro.conf.Positional[str] = tyro.MISSING
    """Model directory or weights file (whatever `supervit.load` takes)."""
    data: SourceConfig = field(default_factory=lambda: SourceConfig(batch_size=64))
    """int8: the data whose validation images it is calibrated on."""
    calibration_images: int = 256
    """int8: how many of them."""

    def run(self) -> None:
        """Export, print how each point differs from PyTorch."""
        from supervit.checkpoints import load
        from supervit.export import check_export, export_model
        from supervit.report import aligned_table

        points = [str(point) for point in parse_points(self.points, ())]
        check_export(self.target, self.precision, points, self.out)
        model = load(self.model)
        images, labels = self._calibration(model.config)
        report = export_model(model, self.target, self.out, points, self.precision, images, labels)
        cells = [["complexity", "image side", "keep", "largest difference"]]
        for point in report.points:
            keep = " ".join(map(str, point.keep))
            cells.append([point.complexity, str(point.image_size), keep, f"{point.difference:.1e}"])
        print(aligned_table(cells), end="")
        print(f"\nwrote {self.out}: {report.form} {report.target}, {report.precision}, inputs {', '.join(report.inputs)}")
        if report.precision == "int8":
            _print_quantised(report)
        if "example.py" in report.files:
            print(f"how to run it without supervit: python {self.out / 'example.py'} IMAGE")

    def _calibration(self, config: SuperViTConfig) -> "tuple[Tensor | None, Tensor | None]":
        from supervit.data import draw_images

        if self.precision != "int8":
            return None, None
        loader = open_loader(self.data, "val", config)
        images, labels = draw_images(loader, self.calibration_images)
        print_damaged(loader)
        return images, labels


def _print_quantised(report: "ExportReport") -> None:
    """What int8 costs on the images that it was calibrated on."""
    from supervit.report import aligned_table

    found = report.quantised
    assert found is not None
    cells = [["complexity", "agreement %", "top-1 %", "float32 top-1 %"]]
    for point, agreement in found.agreement.items():
        known = [] if found.top1 is None or found.top1_float32 is None else [found.top1[point], found.top1_float32[point]]
        cells.append([point, *(f"{value:.1f}" for value in (agreement, *known))])
    print(f"\nint8 rounds, so no difference is refused; on the {found.images} images that it was calibrated on:\n")
    print(aligned_table([row[: len(cells[1])] for row in cells]), end="")
    print("on others: supervit evaluate ARTEFACT --data.root DATA")
