"""Texts beside points, where they cover neither points nor lines nor each other."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_DISTANCES = (5.0, 9.0, 14.0, 20.0, 28.0, 38.0)  # from a point to the edge of its label, in points
_DIRECTIONS = [math.pi * turn / 8 for turn in (2, 6, 10, 14, 0, 8, 4, 12, 1, 3, 5, 7, 9, 11, 13, 15)]  # diagonals first
_LEADER = 10.0  # distance from which a line leads from the point to its label
_ROOM = 2.0  # around a label, in points
_POINT = 4.0  # half the width of what is drawn for a point


class Label(NamedTuple):
    """A text that belongs to a point, in the units of the axes."""

    x: float
    y: float
    text: str
    color: Any = "0.2"
    error: float = 0.0
    """Half the length of the vertical bar through the point."""


@dataclass(frozen=True)
class _Box:
    left: float
    bottom: float
    right: float
    top: float

    def overlap(self, other: "_Box") -> float:
        """The common area."""
        width = min(self.right, other.right) - max(self.left, other.left)
        height = min(self.top, other.top) - max(self.bottom, other.bottom)
        return max(width, 0.0) * max(height, 0.0)

    def count(self, places: np.ndarray) -> int:
        """How many of the places (N, 2) it covers."""
        (left, bottom), (right, top) = (self.left, self.bottom), (self.right, self.top)
        x, y = places.T
        return int(((left < x) & (x < right) & (bottom < y) & (y < top)).sum())


def place_labels(
    figure: "Figure", axes: "Axes", labels: Sequence[Label], lines: Sequence[Sequence[tuple[float, float]]] = ()
) -> int:
    """Write each label beside its point where it covers nothing, the first ones at the best places; how many are written.

    A label that would lie on a point or another label at all places near by is left out. The limits of the axes must stand.

    Args:
        figure: From `picture`.
        axes: Where to.
        labels: The most important ones first.
        lines: Corners of lines that labels should not lie on if they can.
    """
    figure.draw_without_rendering()  # places the axes for good
    figure.set_layout_engine("none")
    pixels = figure.dpi / 72  # of a point
    renderer = figure.canvas.get_renderer()  # type: ignore[attr-defined]
    frame = _Box(*axes.get_window_extent(renderer).extents)
    taken = [_around(axes, label, _POINT * pixels) for label in labels]
    solid = [_around(axes, label._replace(error=0.0), _POINT * pixels) for label in labels]  # what no leader may cross
    line_places = np.concatenate([_along(axes, line) for line in lines] or [np.empty((0, 2))])
    written = 0
    for label in labels:
        text = axes.annotate(label.text, (label.x, label.y), fontsize=6.5, color=label.color, zorder=4)
        extent = text.get_window_extent(renderer)
        size = (extent.width + 2 * _ROOM * pixels, extent.height + _ROOM * pixels)
        text.remove()
        x, y = axes.transData.transform((label.x, label.y))
        best, distance, least = None, 0.0, math.inf
        for tried, away in _places(x, y, size, pixels):
            inside = tried.overlap(frame) >= size[0] * size[1] * 0.999
            covered = sum(tried.overlap(box) for box in taken)
            is_free = inside and covered == 0 and not (away >= _LEADER and _is_crossed((x, y), tried, solid))
            if is_free and tried.count(line_places) < least:
                best, distance, least = tried, away, tried.count(line_places)
            if least == 0:
                break
        if best is None:
            continue
        taken.append(best)
        solid.append(best)
        written += 1
        _write(axes, label, best, distance)
    return written


def _is_crossed(point: tuple[float, float], box: _Box, solid: Sequence[_Box]) -> bool:
    """Whether the leader from a point to the box of its label passes over another point or label."""
    middle = np.array([(box.left + box.right) / 2, (box.bottom + box.top) / 2])
    places = point + np.linspace(0, 1, 40)[:, None] * (middle - point)
    return any(each.count(places) and not each.count(places[:1]) for each in solid)


def _write(axes: "Axes", label: Label, box: _Box, distance: float) -> None:
    middle = ((box.left + box.right) / 2, (box.bottom + box.top) / 2)
    x, y = axes.transData.transform((label.x, label.y))
    points = 72 / axes.figure.dpi
    leader = {"arrowstyle": "-", "color": "0.7", "linewidth": 0.5, "shrinkA": 0, "shrinkB": 3} if distance >= _LEADER else None
    axes.annotate(
        label.text, (label.x, label.y), xytext=((middle[0] - x) * points, (middle[1] - y) * points),
        textcoords="offset points", ha="center", va="center", fontsize=6.5, color=label.color, arrowprops=leader, zorder=4,
    )  # fmt: skip


def _places(x: float, y: float, size: tuple[float, float], pixels: float) -> Iterator[tuple[_Box, float]]:
    """Boxes around a point, the nearest first, and their distance in points."""
    for distance in _DISTANCES:
        for direction in _DIRECTIONS:
            cosine, sine = math.cos(direction), math.sin(direction)
            # the box touches a circle around the point from outside, as a rounded one would
            middle_x = x + cosine * distance * pixels + math.copysign(min(abs(cosine) * 1.5, 1.0), cosine) * size[0] / 2
            middle_y = y + sine * distance * pixels + math.copysign(min(abs(sine) * 1.5, 1.0), sine) * size[1] / 2
            width, height = size[0] / 2, size[1] / 2
            yield _Box(middle_x - width, middle_y - height, middle_x + width, middle_y + height), distance


def _around(axes: "Axes", label: Label, half: float) -> _Box:
    """What is drawn for a point: its marker and the bar through it."""
    (x, bottom), (_, top) = axes.transData.transform([(label.x, label.y - label.error), (label.x, label.y + label.error)])
    _, y = axes.transData.transform((label.x, label.y))
    return _Box(x - half, min(bottom, y - half), x + half, max(top, y + half))


def _along(axes: "Axes", line: Sequence[tuple[float, float]]) -> np.ndarray:
    """Places (N, 2) along a line, in pixels."""
    corners = axes.transData.transform(np.asarray(line, dtype=float).reshape(-1, 2))
    if len(corners) < 2:
        return corners
    steps = np.linspace(0, 1, 40)[:, None]
    return np.concatenate([start + steps * (end - start) for start, end in pairwise(corners)])
