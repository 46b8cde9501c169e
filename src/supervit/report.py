"""Tables and plots of operating points."""

import csv
import importlib.util
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from supervit import pareto
from supervit.complexity import Complexity
from supervit.errors import InputError
from supervit.evaluate import Result
from supervit.files import make_directory, write_json, write_text


@dataclass(frozen=True)
class _Column:
    title: str
    value: Callable[[Result], Any]
    text: str  # format of the value for people


def mac_unit(most_macs: float) -> tuple[str, float]:
    """The unit that shows MACs of up to this many well, and its size."""
    return ("GMACs", 1e9) if most_macs >= 1e8 else ("MMACs", 1e6)


def _columns(results: Sequence[Result]) -> list[_Column]:
    """The columns that have values."""
    unit, divisor = mac_unit(max(result.macs for result in results))
    columns = [
        _Column("complexity", lambda r: str(r.complexity), "{}"),
        _Column("top-1 %", lambda r: r.top1, "{:.2f}"),
        _Column("top-5 %", lambda r: r.top5, "{:.2f}"),
        _Column(unit, lambda r: r.macs / divisor, "{:.3f}"),
        _Column(f"executed {unit}", lambda r: r.executed_macs / divisor, "{:.3f}"),
        _Column("images/s", lambda r: r.throughput_ips, "{:.1f}"),
    ]
    return [column for column in columns if any(column.value(result) is not None for result in results)]


def markdown_table(results: Sequence[Result]) -> str:
    """The columns that have values, as `aligned_table`."""
    columns = _columns(results)
    cells = [[column.title for column in columns]]
    for result in results:
        values = [column.value(result) for column in columns]
        cells.append(["" if v is None else c.text.format(v) for c, v in zip(columns, values, strict=True)])
    return aligned_table(cells)


def aligned_table(cells: Sequence[Sequence[str]]) -> str:
    """A table of text, its titles in the first row: Markdown that reads well in a terminal too."""
    widths = [max(len(row[i]) for row in cells) for i in range(len(cells[0]))]
    lines = ["| " + " | ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in cells]
    lines.insert(1, "|" + "|".join("-" * (width + 1) + ":" for width in widths) + "|")
    return "\n".join(lines) + "\n"


def _records(results: Sequence[Result]) -> list[dict[str, Any]]:
    return [
        {
            "complexity": str(r.complexity),
            "grid_size": r.complexity.grid_size,
            "keep_rate": r.complexity.keep_rate,
            "top1": r.top1,
            "top5": r.top5,
            "macs": r.macs,
            "executed_macs": r.executed_macs,
            "throughput_ips": r.throughput_ips,
        }
        for r in results
    ]


def csv_table(results: Sequence[Result]) -> str:
    """The table as CSV, exact values; nothing where nothing was measured."""
    records = _records(results)
    out = io.StringIO()
    writer = csv.DictWriter(out, list(records[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return out.getvalue()


def write_report(
    results: Sequence[Result], directory: Path, context: dict[str, Any], title: str = "", plot: bool = True
) -> None:
    """Write `results.csv`, `results.json`, `results.md`; with accuracies also the plot, `tradeoff.png` and `tradeoff.svg`.

    Args:
        results: The table's rows.
        directory: Made if need be.
        context: What the numbers were measured with (model, data, machine, versions); goes into the JSON.
        title: Title of the plot.
        plot: Whether to draw it.

    Raises:
        InputError: the directory cannot be written, or there is no matplotlib for the plot.
    """
    make_directory(directory)
    write_text(directory / "results.csv", csv_table(results))
    write_json(directory / "results.json", {**context, "results": _records(results)})
    write_text(directory / "results.md", markdown_table(results))
    if plot and any(result.top1 is not None for result in results):
        plot_tradeoff(results, [directory / "tradeoff.png", directory / "tradeoff.svg"], title)


def pareto_set(results: Sequence[Result]) -> list[Result]:
    """The measured results that none beats at equal or lower MACs, cheapest first."""
    measured = [result for result in results if result.top1 is not None]
    return pareto.pareto_set(measured, cost=lambda r: r.macs, worth=lambda r: r.top1 or 0.0)


def check_plotting() -> None:
    """Refuse to start what would end in a plot that cannot be drawn."""
    if importlib.util.find_spec("matplotlib") is None:
        raise InputError("the plot needs matplotlib; pip install 'supervit[plot]'")


def plot_tradeoff(results: Sequence[Result], files: Sequence[Path], title: str = "") -> None:
    """Draw top-1 accuracy against MACs, the Pareto set connected.

    Raises:
        InputError: matplotlib is not installed.
    """
    unit, divisor = mac_unit(max(result.macs for result in results))
    measured = [(result.complexity, result.macs / divisor, result.top1) for result in results if result.top1 is not None]
    frontier = [(result.macs / divisor, result.top1 or 0.0) for result in pareto_set(results)]
    draw_tradeoff(measured, [Curve(frontier)], f"{unit} per image", files, title)


@dataclass(frozen=True)
class Curve:
    """A line in a plot of accuracy against cost."""

    points: Sequence[tuple[float, float]]
    """Cost and top-1 in percent."""
    label: str = ""
    color: str = "0.75"


def draw_tradeoff(
    measured: Sequence[tuple[Complexity, float, float]],
    curves: Sequence[Curve],
    cost: str,
    files: Sequence[Path],
    title: str = "",
) -> None:
    """Draw top-1 accuracy against a cost: a colour per grid size, a marker per keep rate, and some curves.

    Args:
        measured: Operating point, cost and top-1 in percent.
        curves: Lines, such as the Pareto set.
        cost: Name and unit of the cost.
        files: Where to write the picture; the suffix says how.
        title: Title of the plot.

    Raises:
        InputError: matplotlib is not installed.
    """
    check_plotting()
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, LogLocator

    colors = {grid: f"C{i}" for i, grid in enumerate(sorted({point.grid_size for point, _, _ in measured}))}
    markers = {rate: "vso^Dp*"[i % 7] for i, rate in enumerate(sorted({point.keep_rate for point, _, _ in measured}))}
    figure = Figure(figsize=(5.2, 3.6), dpi=200, layout="constrained")
    axes = figure.add_subplot()
    for curve in curves:
        axes.plot(*zip(*curve.points, strict=True), color=curve.color, label=curve.label or None, linewidth=1.2, zorder=1)
    for point, x, top1 in measured:
        color, marker = colors[point.grid_size], markers[point.keep_rate]
        axes.scatter(x, top1, color=color, marker=marker, s=34, zorder=2, edgecolors="white", linewidths=0.6)
    for grid, color in colors.items():
        axes.scatter([], [], color=color, marker="o", s=30, label=f"{grid}\u00d7{grid} tokens")
    for rate, marker in markers.items():
        axes.scatter([], [], color="0.4", marker=marker, s=30, label=f"keep {rate:g}")
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_locator(LogLocator(base=2, subs=(1.0, 1.5)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.set(xlabel=f"{cost} (log scale)", ylabel="top-1 accuracy (%)")
    axes.grid(color="0.92")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=7, ncols=2, frameon=False, loc="lower right")
    if title:
        axes.set_title(title, fontsize=9)
    for file in files:
        figure.savefig(file)
