"""Plots for decisions: accuracy over latency, what cascades gain (paper, Figure 2), and which runtime is the fastest."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from supervit.calibrate import Calibrated
from supervit.comparison import Comparison
from supervit.complexity import Complexity
from supervit.cost_table import CostTable, known_top1
from supervit.pictures import picture
from supervit.pictures.tradeoff import Curve, Measured, draw_tradeoff
from supervit.report import mac_unit


def draw_costs(
    table: CostTable, batch_size: int, files: Sequence[Path], standard_errors: Mapping[Complexity, float] | None = None
) -> None:
    """Draw accuracy against the median latency of a batch, the Pareto set connected.

    Args:
        table: With accuracies.
        batch_size: One of the table's.
        files: Where to write the picture.
        standard_errors: Of the accuracies, in percentage points, where they are known.

    Raises:
        InputError: an accuracy is missing, or as `picture`.
    """
    errors = standard_errors or {}
    measured = [
        Measured(row.complexity, row.latency_ms_p50, known_top1(row), errors.get(row.complexity, 0.0))
        for row in table.at(batch_size)
    ]
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
        InputError: as `picture`.
    """
    unit, divisor = mac_unit(max(each.held_out.mean_macs for each in singles))
    measured = [
        Measured(each.ladder.rungs[0], each.held_out.mean_macs / divisor, each.held_out.top1, each.held_out.standard_error)
        for each in singles
    ]
    curves = [(paper_curve, "the paper's pair", "0.6"), (curve, "best cascades", "black")]
    drawn = [
        Curve([(each.held_out.mean_macs / divisor, each.held_out.top1) for each in line], label, color)
        for line, label, color in curves
        if line
    ]
    draw_tradeoff(measured, drawn, f"mean executed {unit} per image", files, "Early exit over operating points")


def draw_menu(
    menu: Sequence[tuple[float, float]],
    own: Sequence[Measured],
    frontier: Sequence[Complexity],
    cost: str,
    files: Sequence[Path],
) -> None:
    """Draw accuracy against cost: the operating points of a model's own menu, and the line of a menu that was found.

    Args:
        menu: Cost and top-1 in percent of the points that were found, cheapest first.
        own: Those of the model's menu.
        frontier: The best of these.
        cost: Name and unit of the cost.
        files: Where to write the picture.

    Raises:
        InputError: as `picture`.
    """
    best = sorted((point.cost, point.top1) for point in own if point.complexity in frontier)
    curves = [Curve(best, "the model's own menu", "0.6"), Curve(menu, "found", "black", marker=".")]
    draw_tradeoff(own, [curve for curve in curves if curve.points], cost, files, "A menu that was searched for")


def draw_runtimes(rows: Sequence[Comparison], files: Sequence[Path]) -> None:
    """Draw the speedup of each runtime and precision at the cheapest and the dearest operating point, the fastest on top.

    Behind each bar stand the speedup and what the accuracy gains or loses against PyTorch in float32.

    Args:
        rows: Of all runtimes, from `compare_runtimes`.
        files: Where to write the picture.

    Raises:
        InputError: as `picture`.
    """
    points = sorted({row.complexity for row in rows})
    shown = list(dict.fromkeys([points[0], points[-1]]))
    found: dict[str, dict[Complexity, Comparison]] = {}
    for row in rows:
        if row.complexity in shown:
            found.setdefault(f"{row.runtime} {row.precision}", {})[row.complexity] = row
    names = sorted(found, key=lambda name: math.prod(row.speedup for row in found[name].values()))
    thickness = 0.8 / len(shown)
    with picture(files, 6.0, 0.9 + 0.14 * len(names) * (1 + len(shown))) as figure:
        axes = figure.add_subplot()
        for index, point in enumerate(shown):
            bars = [(place, found[name][point]) for place, name in enumerate(names) if point in found[name]]
            shift = (index - (len(shown) - 1) / 2) * thickness
            drawn = axes.barh(
                [place + shift for place, _ in bars], [row.speedup for _, row in bars],
                thickness * 0.92, color=("#7fb2e5", "#1f4e79")[index], label=str(point),
            )  # fmt: skip
            texts = [f"{row.speedup:.2f}\u00d7, {row.top1_change:+.2f} points" for _, row in bars]
            axes.bar_label(drawn, texts, padding=3, fontsize=6.5, bbox={"color": "white", "pad": 0.5})
        axes.axvline(1, color="0.5", linewidth=0.8, linestyle="--", zorder=0.5)
        axes.margins(y=0.02)
        axes.set_yticks(range(len(names)), names)
        axes.set_xlim(0, 1.3 * max(row.speedup for row in rows))  # room for the texts
        axes.set_xlabel("speedup against eager float32; behind the bars also the change of top-1")
        axes.grid(visible=False, axis="y")
        handles, labels = axes.get_legend_handles_labels()
        figure.legend(handles[::-1], labels[::-1], loc="outside right upper", title="operating point", title_fontsize=7)
