"""`supervit macs`."""

from dataclasses import dataclass

import tyro

from supervit.backbones import variant_config
from supervit.commands._opening import Points, parse_points


@dataclass(frozen=True)
class Macs:
    """The cost of every operating point in multiply-accumulates, without data or weights."""

    model: tyro.conf.Positional[str]
    """Name of a variant, such as deit_small."""
    points: Points = ()
    """Operating points, such as 8@0.5 14 (default: the model's menu)."""

    def run(self) -> None:
        """Print the table."""
        from supervit.evaluate import tabulate
        from supervit.macs import executed_macs
        from supervit.report import markdown_table

        config = variant_config(self.model)
        points = parse_points(self.points, list(config.space))
        print(markdown_table(tabulate(config, points)), end="")
        together = executed_macs(config, points)
        share = together / sum(executed_macs(config, point) for point in points)
        print(f"\nall {len(points)} through forward_paths: {together / 1e9:.3f} GMACs executed, {share:.0%} of single passes")
