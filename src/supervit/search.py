"""Which settings are worth their cost: a search over grids, keep rates of each drop block and exits, in few passes over images.

A pass tries new settings near the best known ones: all of them on a part of the images, the promising ones on the rest
(successive halving). The settings of a grid run in one prefix tree, so that many cost little more than a few.
"""

import math
import random
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor

from supervit import pareto
from supervit.complexity import Complexity, ComplexitySpace, GridSize, drop_blocks_reached, has_shape, side_of, sides
from supervit.config import SuperViTConfig
from supervit.errors import InputError
from supervit.options import SAFETY

Ask = Callable[[Sequence[Complexity], Tensor], Tensor]
"""Whether operating points (P) are right about the images of these indices: (P, N), without those that cannot be read."""
Cost = Callable[[Complexity], float]

_TRIAL_SHARE, _LEAST_TRIAL = 0.25, 200  # of the images that each new setting is tried on
_PROMOTED = 0.25  # of those that are tried, at most
_TRIES = 50  # draws for each setting that is wanted: most of those near by may be known


@dataclass(frozen=True)
class SearchSpace:
    """The values that the axes of an operating point may have, each ascending."""

    grid_sizes: tuple[GridSize, ...]
    keep_rates: tuple[float, ...]
    """Of each drop block."""
    exit_blocks: tuple[int | None, ...]
    """None is the end of the network."""
    drop_blocks: tuple[int, ...]

    @classmethod
    def of(
        cls, config: SuperViTConfig, keep_rates: Sequence[float], exit_blocks: Sequence[int], *, between: bool
    ) -> "SearchSpace":
        """The settings of a model.

        Args:
            config: Of the model.
            keep_rates: That a drop block may have.
            exit_blocks: Exits besides the end of the network.
            between: Whether grids between the trained ones are wanted too.

        Raises:
            InputError: a keep rate or an exit that cannot be.
        """
        points = [config.plan(Complexity(config.grid_sizes[0], 1.0, block)).complexity for block in sorted({*exit_blocks})]
        rates = [rate for rate in sorted({*keep_rates}) if Complexity(2, rate)]
        grids = grids_between(config.grid_sizes) if between else config.grid_sizes
        return cls(grids, tuple(rates), (*(point.exit_block for point in points), None), tuple(sorted(config.drop_blocks)))

    def menu(self, config: SuperViTConfig) -> list[Complexity]:
        """Each grid with each keep rate that the model was trained with and each exit: where a search starts."""
        exits = tuple(block for block in self.exit_blocks if block is not None)
        return list(ComplexitySpace(self.grid_sizes, config.keep_rates, exits, self.drop_blocks))

    def neighbours(self, point: Complexity) -> list[Complexity]:
        """The operating points that are one step away on one axis."""
        rates, exit_block, grid = self._every_rate(point), point.exit_block, point.grid_size
        found = [self._point(other, rates, exit_block) for other in _beside(self.grid_sizes, grid, _patches)]
        found += [self._point(grid, rates, other) for other in _beside(self.exit_blocks, exit_block, _blocks)]
        for place in range(self._reached(exit_block)):
            for rate in _beside(self.keep_rates, rates[place], float):
                found.append(self._point(grid, (*rates[:place], rate, *rates[place + 1 :]), exit_block))
        return found

    def _reached(self, exit_block: int | None) -> int:
        return len(drop_blocks_reached(self.drop_blocks, exit_block))

    def _every_rate(self, point: Complexity) -> tuple[float, ...]:
        """The keep rate of each drop block; those behind an exit go on as the last one before it."""
        rates = point.keep_rates(self._reached(point.exit_block)) or (1.0,)
        return rates + rates[-1:] * (len(self.drop_blocks) - len(rates))

    def _point(self, grid_size: GridSize, rates: tuple[float, ...], exit_block: int | None) -> Complexity:
        return Complexity(grid_size, rates[: self._reached(exit_block)] or 1.0, exit_block)


def grids_between(grid_sizes: Sequence[GridSize]) -> tuple[GridSize, ...]:
    """The grids, and those between that have a shape of theirs: one for each number of rows."""
    found = {sides(grid): grid for grid in grid_sizes}
    every = sorted(found)
    for (low, left), (high, right) in pairwise(every):
        if has_shape(side_of((high, right)), low, left):
            for rows in range(low + 1, high):
                both = rows, round(left + (right - left) * (rows - low) / (high - low))
                found.setdefault(both, side_of(both))
    return tuple(sorted(found.values(), key=_patches))


def _patches(grid_size: GridSize) -> float:
    return math.prod(sides(grid_size))


def _blocks(exit_block: int | None) -> float:
    return math.inf if exit_block is None else exit_block


def _beside(values: Sequence[Any], value: Any, place: Callable[[Any], float]) -> list[Any]:
    """The next lower and the next higher one of ascending values."""
    here = place(value)
    return [*[v for v in values if place(v) < here][-1:], *[v for v in values if place(v) > here][:1]]


@dataclass(frozen=True)
class Found:
    """What a search knows after a pass."""

    hits: Mapping[Complexity, Tensor]
    """Whether an operating point is right about each image (N) of the calibration half, of those that saw all of it."""
    tried: int
    """Operating points that saw a part of it or all."""

    def top1(self, point: Complexity) -> float:
        """Accuracy in percent on the calibration half: optimistic for what was chosen by it."""
        return percent(self.hits[point])

    def front(self, cost: Cost) -> list[Complexity]:
        """The operating points that none of equal or lower cost matches in accuracy, cheapest first."""
        return pareto.pareto_set(self.hits, cost=cost, worth=self.top1)


def search(
    ask: Ask,
    start: Sequence[Complexity],
    space: SearchSpace,
    cost: Cost,
    images: Tensor,
    *,
    candidates: int = 64,
    seed: int = 0,
    safety: float = SAFETY,
) -> Iterator[Found]:
    """What is known after each pass over the images, until nothing is left to try; the first pass is that of the start.

    Args:
        ask: Tells the hits.
        start: Operating points that see all images.
        space: Where to look.
        cost: Of an operating point, more than 0; asked for often.
        images: Indices of the calibration half.
        candidates: New operating points in a pass.
        seed: Of all draws.
        safety: Standard errors that a new operating point may seem worse than the best known ones and still see all images.

    Raises:
        InputError: nothing to start from, candidates under 1, or a negative safety.
    """
    if not start or not len(images) or candidates < 1 or safety < 0:
        raise InputError(
            f"{len(start)} points to start from, {len(images)} images and candidates {candidates} must be at least 1, "
            f"safety {safety:g} at least 0"
        )
    draw = random.Random(f"supervit search {seed}")
    order = images[torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))]
    count = max(int(_TRIAL_SHARE * len(images)), _LEAST_TRIAL)
    parts = [part.sort().values for part in (order[:count], order[count:]) if len(part)]
    start = list(dict.fromkeys(start))
    hits = dict(zip(start, torch.cat([ask(start, part) for part in parts], dim=1), strict=True))
    tried = {*start}
    yield Found(dict(hits), len(tried))
    while fresh := _propose(Found(hits, len(tried)).front(cost), tried, space, candidates, draw):
        tried.update(fresh)
        first = dict(zip(fresh, ask(fresh, parts[0]), strict=True))
        if promising := _promising(first, Found(hits, len(tried)), cost, safety):
            seen = [torch.stack([first[point] for point in promising])]
            hits |= zip(promising, torch.cat([*seen, *(ask(promising, part) for part in parts[1:])], dim=1), strict=True)
        yield Found(dict(hits), len(tried))


def _propose(
    parents: Sequence[Complexity], known: Collection[Complexity], space: SearchSpace, count: int, draw: random.Random
) -> list[Complexity]:
    """New operating points, each one or two steps away from one of the best known ones."""
    fresh: dict[Complexity, None] = {}
    for _ in range(_TRIES * count):
        point = draw.choice(parents)
        for _ in range(draw.choice((1, 2))):
            point = draw.choice(space.neighbours(point) or [point])
        if point not in known:
            fresh[point] = None
            if len(fresh) == count:
                break
    return sorted(fresh)


def _promising(first: Mapping[Complexity, Tensor], found: Found, cost: Cost, safety: float) -> list[Complexity]:
    """The operating points that by the first images may be above the line through the best known ones, at most a share."""
    front = found.front(cost)
    gains = {point: _gain(hits, _on_line(cost(point), front, found, cost)[: len(hits)]) for point, hits in first.items()}
    able = [point for point, gain in gains.items() if gain.mean + safety * gain.standard_error > 0]
    able.sort(key=lambda point: -gains[point].mean)
    return sorted(able[: math.ceil(_PROMOTED * len(first))])


def _on_line(at: float, front: Sequence[Complexity], found: Found, cost: Cost) -> Tensor:
    """The share of hits for each image (N) that the best known operating points would have at a cost between theirs."""
    below = [point for point in front if cost(point) <= at]
    above = [point for point in front if cost(point) > at]
    if not below or not above:
        return found.hits[(below or above)[-1 if below else 0]].double()
    low, high = below[-1], above[0]
    share = math.log(at / cost(low)) / math.log(cost(high) / cost(low))
    return (1 - share) * found.hits[low].double() + share * found.hits[high].double()


class Gain(NamedTuple):
    """By how much one is more often right than another, in shares of the same images."""

    mean: float
    standard_error: float


def _gain(hits: Tensor, others: Tensor) -> Gain:
    difference = hits.double() - others.double()
    return Gain(float(difference.mean()), float(difference.std(correction=0)) / math.sqrt(len(difference)))


def percent(hits: Tensor) -> float:
    """The share of hits among images (N), in percent."""
    return 100 * float(hits.double().mean())


def confirm(points: Sequence[Complexity], hits: Mapping[Complexity, Tensor], safety: float = SAFETY) -> list[Complexity]:
    """The operating points that are on a front, or near it, on images that had no part in their choice.

    Args:
        points: Cheapest first.
        hits: Whether they are right about each of those images (N).
        safety: Standard errors of the difference by which a cheaper one must be better for an operating point to go.
    """
    kept: list[Complexity] = []
    for point in points:
        gains = [_gain(hits[cheaper], hits[point]) for cheaper in kept]
        if all(gain.mean < 0 or gain.mean < safety * gain.standard_error for gain in gains):
            kept.append(point)
    return kept


def gain_over(
    front: Sequence[Complexity], own: Sequence[Complexity], hits: Mapping[Complexity, Tensor], cost: Cost
) -> Gain | None:
    """How much a front gains over other points at equal or lower cost, in percentage points, in the mean over these.

    Args:
        front: Cheapest first, the most accurate last by what it was chosen by.
        own: The points to compare with; those that nothing on the front is as cheap as do not count.
        hits: Of both on images (N) that had no part in the choice.
        cost: Of a point.
    """
    pairs = [(found[-1], point) for point in own if (found := [each for each in front if cost(each) <= cost(point)])]
    if not pairs:
        return None
    ours, theirs = (torch.stack([hits[point].double() for point in each]).mean(dim=0) for each in zip(*pairs, strict=True))
    gain = _gain(ours, theirs)
    return Gain(100 * gain.mean, 100 * gain.standard_error)


@dataclass(frozen=True)
class Row:
    """An operating point of a menu that was found, or of the model's own one."""

    point: Complexity
    cost: float
    calibration_top1: float
    """Accuracy in percent on the half that chose."""
    top1: float
    """Accuracy in percent on the half that confirms."""
    is_found: bool
    is_own: bool
    is_own_best: bool
    """Whether it is an own one that no own one of equal or lower cost matches on the half that chose."""


@dataclass(frozen=True)
class Menus:
    """A menu that was found beside the model's own one."""

    rows: tuple[Row, ...]
    """Of both, cheapest first."""
    left_out: tuple[Complexity, ...]
    """The best ones by the half that chose which the other half did not confirm."""
    gain: Gain | None
    """Of the front of the half that chose over the best of the own ones at equal or lower cost, in percentage points."""
    images: int
    """On the half that confirms."""

    @property
    def points(self) -> list[Complexity]:
        """The menu that was found."""
        return [row.point for row in self.rows if row.is_found]

    @classmethod
    def of(
        cls, found: Found, cost: Cost, own: Sequence[Complexity], hits: Mapping[Complexity, Tensor], safety: float = SAFETY
    ) -> "Menus":
        """The menu of a search: its front and the model's own menu, without the points that cheaper ones are confirmed to beat.

        Args:
            found: By the search.
            cost: Of an operating point.
            own: The model's menu, of points that the search started from.
            hits: Of the front and the model's menu on images (N) that had no part in the search.
            safety: As of `confirm`.
        """
        front = found.front(cost)
        points = confirm(sorted({*front, *own}, key=lambda point: (cost(point), point)), hits, safety)
        own_best = Found({point: found.hits[point] for point in own}, len(own)).front(cost)
        rows = tuple(
            Row(point, cost(point), found.top1(point), percent(hits[point]), point in points, point in own, point in own_best)
            for point in sorted({*points, *own}, key=lambda point: (cost(point), point))
        )
        left_out = tuple(point for point in front if point not in points)
        return cls(
            rows, left_out, gain_over([point for point in front if point in points], own_best, hits, cost), len(hits[front[0]])
        )
