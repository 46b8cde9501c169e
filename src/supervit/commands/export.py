"""`supervit export`."""

from dataclasses import dataclass, field

import tyro
from torch import Tensor

from supervit.checkpoints import load
from supervit.config import SuperViTConfig
from supervit.data import SourceConfig, draw_images, open_dataset
from supervit.export import ExportConfig, export_model
from supervit.report import aligned_table


@dataclass(frozen=True)
class Export(ExportConfig):
    """Write the model for another runtime: one file for all operating points, or for one; verified before it is written."""

    model: tyro.conf.Positional[str] = tyro.MISSING
    """Model directory or weights file (whatever `supervit.load` takes)."""
    data: SourceConfig = field(default_factory=SourceConfig)
    """int8: the data whose validation images it is calibrated on."""
    calibration_images: int = 256
    """int8: how many of them."""

    def run(self) -> None:
        """Export, print how each point differs from PyTorch."""
        model = load(self.model)
        report = export_model(model, self.target, self.out, self.points, self.precision, self._calibration(model.config))
        cells = [["complexity", "image side", "keep", "largest difference"]]
        for point in report.points:
            keep = " ".join(map(str, point.keep))
            cells.append([point.complexity, str(point.image_size), keep, f"{point.difference:.1e}"])
        print(aligned_table(cells), end="")
        print(f"\nwrote {self.out}: {report.form} {report.target}, {report.precision}, inputs {', '.join(report.inputs)}")

    def _calibration(self, config: SuperViTConfig) -> Tensor | None:
        if self.precision != "int8":
            return None
        return draw_images(open_dataset(self.data, "val", config), self.calibration_images)[0]
