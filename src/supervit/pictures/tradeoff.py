"""Accuracy over cost: a point for each operating point, and lines such as the Pareto set."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from supervit.complexity import Complexity
from supervit.pictures._canvas import make_logarithmic, picture
from supervit.pictures._labels import Label, place_labels

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


class Measured(NamedTuple):
    """An operating point in a picture."""

    complexity: Complexity
    cost: float
    """More than 0."""
    top1: float
    """Percent."""
    standard_error: float = 0.0
    """Of `top1`, in percentage points."""


@dataclass(frozen=True)
class Curve:
    """A line in a plot of accuracy against cost."""

    points: Sequence[tuple[float, float]]
    """Cost and top-1 in percent."""
    label: str = ""
    color: str = "0.75"
    marker: str = ""
    """At each of its points, such as "o"."""


def draw_tradeoff(
    measured: Sequence[Measured],
    curves: Sequence[Curve],
    cost: str,
    files: Sequence[Path],
    title: str = "",
) -> None:
    """Draw top-1 accuracy against a cost: a colour per grid size, a marker per cut, bars of the standard error.

    Args:
        measured: The points; those that are on a curve get the best places for their labels.
        curves: Lines, such as the Pareto set.
        cost: Name and unit of the cost.
        files: Where to write the picture; the suffix says how.
        title: Title of the plot.

    Raises:
        InputError: as `picture`.
    """
    wholes = sorted({point.complexity.uncut for point in measured})
    colors = {whole.grid: f"C{index % 10}" for index, whole in enumerate(wholes)}
    cuts = sorted({Complexity(2, point.complexity.keep_rate, point.complexity.exit_block) for point in measured})
    markers = {_cut_text(cut): "vso^Dp*Phd"[index % 10] for index, cut in enumerate(cuts)}
    with picture(files, 6.6, 4.6) as figure:
        axes = figure.add_subplot()
        for curve in curves:
            axes.plot(*zip(*curve.points, strict=True), color=curve.color, marker=curve.marker, linewidth=1.2, zorder=1)
        for point in measured:
            color, marker = colors[point.complexity.grid], markers[_cut_text(point.complexity)]
            if point.standard_error:
                axes.errorbar(
                    point.cost, point.top1, point.standard_error, color=color, alpha=0.5, linewidth=1, capsize=2, zorder=2
                )
            axes.scatter(point.cost, point.top1, color=color, marker=marker, s=34, zorder=3, edgecolors="white", linewidths=0.6)
        axes.set(xlabel=f"{cost} (log scale)", ylabel=_accuracy_title(measured), title=title)
        make_logarithmic(axes.xaxis, [point.cost for point in measured] + [x for curve in curves for x, _ in curve.points])
        axes.margins(y=0.12)
        _add_legend(figure, axes, curves, colors, markers)
        on_curve = {corner for curve in curves for corner in curve.points}
        best_first = sorted(measured, key=lambda point: (point.cost, point.top1) not in on_curve)
        labels = [
            Label(point.cost, point.top1, str(point.complexity), colors[point.complexity.grid], point.standard_error)
            for point in best_first
        ]
        bottom, top = axes.get_ylim()
        axes.set_ylim(max(bottom, -2), min(top, 102))
        place_labels(figure, axes, labels, [curve.points for curve in curves])


def _cut_text(point: Complexity) -> str:
    """What a point leaves out, such as "keep 0.7" or "keep 0.7, 9 blocks"."""
    rates = point.keep_rate if isinstance(point.keep_rate, tuple) else (point.keep_rate,)
    blocks = "" if point.exit_block is None else f", {point.exit_block} blocks"
    return f"keep {'-'.join(f'{rate:g}' for rate in rates)}{blocks}"


def _accuracy_title(measured: Sequence[Measured]) -> str:
    has_bars = any(point.standard_error for point in measured)
    return "top-1 accuracy (%)" + (", bars: ± standard error" if has_bars else "")


def _add_legend(
    figure: "Figure", axes: "Axes", curves: Sequence[Curve], colors: dict[tuple[int, int], str], markers: dict[str, str]
) -> None:
    """The legend beside the axes, where it covers nothing."""
    for grid, color in colors.items():
        axes.scatter([], [], color=color, marker="o", s=26, label="\u00d7".join(map(str, grid)) + " tokens")
    for text, marker in markers.items():
        axes.scatter([], [], color="0.4", marker=marker, s=26, label=text)
    for curve in curves:
        if curve.label:
            axes.plot([], [], color=curve.color, linewidth=1.2, label=curve.label)
    figure.legend(loc="outside right upper")
