"""Plots for decisions: accuracy over latency, and what cascades gain (paper, Figure 2)."""

from collections.abc import Sequence
from pathlib import Path

from supervit.calibrate import Calibrated
from supervit.cost_table import CostTable, known_top1
from supervit.report import Curve, draw_tradeoff, mac_unit


def draw_costs(table: CostTable, batch_size: int, files: Sequence[Path]) -> None:
    """Draw accuracy against the median latency of a batch, the Pareto set connected.

    Raises:
        InputError: an accuracy is missing, or matplotlib.
    """
    measured = [(row.complexity, row.latency_ms_p50, known_top1(row)) for row in table.at(batch_size)]
    frontier = [(row.latency_ms_p50, known_top1(row)) for row in table.pareto(batch_size)]
    cost = "ms per image" if batch_size == 1 else f"ms per batch of {batch_size}"
    draw_tradeoff(measured, [Curve(frontier)], cost, files, f"{table.setup.device}, {table.setup.runtime}")


def draw_cascade(
    curve: Sequence[Calibrated],
    singles: Sequence[Calibrated],
    paper_curve: Sequence[Calibrated],
    files: Sequence[Path],
) -> None:
    """Draw accuracy against mean executed MACs, all on held-out images: single points, best cascades, the paper's pair.

    Args:
        curve: The best cascades, from `calibrate`.
        singles: Ladders of one rung.
        paper_curve: Cascades of the paper's pair alone; may be empty.
        files: Where to write the picture.

    Raises:
        InputError: matplotlib is not installed.
    """
    unit, divisor = mac_unit(max(each.held_out.mean_macs for each in singles))
    measured = [(each.ladder.rungs[0], each.held_out.mean_macs / divisor, each.held_out.top1) for each in singles]
    curves = [(paper_curve, "the paper's pair", "0.6"), (curve, "best cascades", "black")]
    drawn = [
        Curve([(each.held_out.mean_macs / divisor, each.held_out.top1) for each in line], label, color)
        for line, label, color in curves
        if line
    ]
    draw_tradeoff(measured, drawn, f"mean executed {unit} per image", files, "Early exit over operating points")
