"""Operating points: a `Complexity` is one, a `ComplexitySpace` the menu that a model is trained on. Pure Python, no tensors."""

import math
import random
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import total_ordering
from typing import Self

from supervit.errors import InputError

GridSize = int | tuple[int, int]
"""Patches per side of a square image, or (rows, columns)."""
KeepRate = float | tuple[float, ...]
"""Share of tokens that each drop block keeps, or one for each drop block."""

_RATE = r"\d*\.?\d+(?:e-?\d+)?"
_BETWEEN_RATES = re.compile(r"(?<!e)-")
_TEXT = re.compile(rf"(\d+(?:x\d+)?)(?:@({_RATE}(?:-{_RATE})*))?(?:/(\d+))?", re.ASCII)
_FORM = "GRID, GRID@RATE or GRID@RATE/EXIT, such as '14', '14@0.7', '12x16@0.9-0.7-0.5', '14@0.7/9'"


def sides(grid_size: GridSize) -> tuple[int, int]:
    """Rows and columns of patches."""
    return (grid_size, grid_size) if isinstance(grid_size, int) else grid_size


def side_of(both: tuple[int, int]) -> GridSize:
    """One number for a square, or both."""
    return both[0] if both[0] == both[1] else both


def has_shape(grid_size: GridSize, height: int, width: int) -> bool:
    """Whether the sides of an image are to each other as those of a grid: of a square exactly, of others to within a patch."""
    rows, columns = sides(grid_size)
    return height == width if rows == columns else abs(height * columns - width * rows) < max(height, width)


def grid_text(grid_size: GridSize) -> str:
    """`"14"` or `"12x16"`, rows x columns."""
    return str(grid_size) if isinstance(grid_size, int) else "x".join(map(str, grid_size))


def grid_of(text: str) -> GridSize:
    """The grid size that `grid_text` writes; ValueError where the text is none."""
    both = tuple(map(int, text.split("x")))
    return both[0] if len(both) == 1 else both  # type: ignore[return-value]


def rate_of(text: str) -> KeepRate:
    """The keep rate that `rate_text` writes; ValueError where the text is none."""
    rates = tuple(map(float, _BETWEEN_RATES.split(text)))
    return rates[0] if len(rates) == 1 else rates


def rate_text(keep_rate: KeepRate) -> str:
    """`"0.7"` or `"0.9-0.7-0.5"`."""
    return "-".join(map(repr, keep_rate)) if isinstance(keep_rate, tuple) else repr(keep_rate)


def drop_blocks_reached(drop_blocks: Iterable[int], exit_block: int | None) -> list[int]:
    """The drop blocks that come before an exit, ascending; None: the end of the network."""
    return sorted(block for block in drop_blocks if exit_block is None or block < exit_block)


@total_ordering
@dataclass(frozen=True)
class Complexity:
    """One operating point.

    Each has one text:

        "14"               a 14x14 grid of patch tokens
        "14@0.7"           of which each drop block keeps 70 %
        "14@0.9-0.7-0.5"   or the first drop block 90 %, the next 70 %, the last 50 %
        "14@0.7/9"         and that stops after nine blocks
        "12x16@0.7"        12 rows and 16 columns

    They are ordered by the number of patches, then by keep rates, then by exit.

    Args:
        grid_size: Patch tokens per image side, at least 2; or (rows, columns).
        keep_rate: Share of the tokens that each drop block keeps, in (0, 1]; 1 drops nothing. Or one for each drop block
            that is reached, in their order.
        exit_block: Blocks that run before the final norm and the head; None: all. Must be fewer than the network has.

    Raises:
        InputError: a value is out of range.
    """

    grid_size: GridSize
    keep_rate: KeepRate = 1.0
    exit_block: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "grid_size", _checked_grid(self.grid_size))
        object.__setattr__(self, "keep_rate", _checked_rate(self.keep_rate))
        if self.exit_block is not None and not _is_integer(self.exit_block, 1):
            raise InputError(f"exit {self.exit_block!r} is not usable; use the number of blocks to run, at least 1, or None")

    def __str__(self) -> str:
        cut = "" if self.keep_rate == 1 else f"@{rate_text(self.keep_rate)}"
        return grid_text(self.grid_size) + cut + ("" if self.exit_block is None else f"/{self.exit_block}")

    def __lt__(self, other: "Complexity") -> bool:
        return self._order < other._order

    @property
    def file_name(self) -> str:
        """The text as part of a file's name, which takes no slash: `"14@0.7_exit9"`."""
        return str(self).replace("/", "_exit")

    @property
    def _order(self) -> tuple[int, int, tuple[float, ...], float]:
        exit_block = math.inf if self.exit_block is None else self.exit_block
        return self.num_patches, self.grid[0], self._rates, exit_block

    @property
    def _rates(self) -> tuple[float, ...]:
        return self.keep_rate if isinstance(self.keep_rate, tuple) else (self.keep_rate,)

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches."""
        return sides(self.grid_size)

    @property
    def num_patches(self) -> int:
        """Patches of the image."""
        rows, columns = self.grid
        return rows * columns

    @property
    def is_uncut(self) -> bool:
        """Whether nothing is left out: all tokens go through all blocks."""
        return self.keep_rate == 1 and self.exit_block is None

    @property
    def uncut(self) -> "Complexity":
        """The operating point of the same grid that leaves nothing out: the teacher of this one."""
        return Complexity(self.grid_size)

    def keep_rates(self, drop_blocks: int) -> tuple[float, ...]:
        """The keep rate of each drop block that is reached.

        Raises:
            InputError: this complexity has rates for another number of drop blocks.
        """
        if not isinstance(self.keep_rate, tuple):
            return (self.keep_rate,) * drop_blocks
        if len(self.keep_rate) != drop_blocks:
            raise InputError(
                f"complexity '{self}' has {len(self.keep_rate)} keep rates for {drop_blocks} drop blocks that are reached; "
                "give one for each, or one for all"
            )
        return self.keep_rate

    @classmethod
    def of(cls, value: "Complexity | str") -> Self:
        """The complexity that a text such as `"14@0.7"` or `"14"` names; a complexity is returned as it is.

        Raises:
            InputError: the text is not of the form GRID[xCOLUMNS][@RATE[-RATE...]][/EXIT], or a value is out of range.
        """
        if isinstance(value, cls):
            return value
        match = _TEXT.fullmatch(value.strip()) if isinstance(value, str) else None
        if match is None:
            raise InputError(f"complexity {value!r} does not parse; write {_FORM}")
        grid, rates, exit_block = match.groups()
        return cls(grid_of(grid), rate_of(rates) if rates else 1.0, int(exit_block) if exit_block else None)


def _is_integer(value: object, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _checked_grid(value: GridSize) -> GridSize:
    both = tuple(value) if isinstance(value, tuple | list) else (value, value)
    if len(both) != 2 or not all(_is_integer(side, 2) for side in both):
        raise InputError(f"grid size {value!r} is not usable; use an integer of at least 2, such as 14, or (rows, columns)")
    return side_of((both[0], both[1]))


def _checked_rate(value: KeepRate) -> KeepRate:
    rates = tuple(value) if isinstance(value, tuple | list) else (value,)
    for rate in rates:
        if not isinstance(rate, int | float) or not 0 < rate <= 1:
            raise InputError(f"keep rate {rate!r} is not in (0, 1]; use 1 to keep all tokens, or such as 0.7")
    if not rates:
        raise InputError("keep rate () names no rate; use 1 to keep all tokens, or such as 0.7")
    return float(rates[0]) if len({*rates}) == 1 else tuple(map(float, rates))


@dataclass(frozen=True)
class ComplexitySpace:
    """The menu of operating points: every grid size with every keep rate and every exit.

    Iterating gives them in the order of the paper's Table 3: grid sizes ascending, keep rates ascending within each.

    Args:
        grid_sizes: Grid sizes, each with a position table of its own; duplicates are refused, the order is ignored.
        keep_rates: Keep rates in (0, 1]; 1 must be among them, since the uncut points are the teachers.
        exit_blocks: Exits besides the end of the network.
        drop_blocks: Blocks that drop, which say how many rates of a list are reached before an exit.
    """

    grid_sizes: tuple[GridSize, ...] = (8, 10, 12, 14)
    keep_rates: tuple[KeepRate, ...] = (0.5, 0.7, 1.0)
    exit_blocks: tuple[int, ...] = ()
    drop_blocks: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        grids = [point.grid_size for point in sorted(Complexity(grid) for grid in self.grid_sizes)]
        rates = [point.keep_rate for point in sorted(Complexity(2, rate) for rate in self.keep_rates)]
        exits = sorted(point.exit_block or 0 for point in (Complexity(2, 1.0, exit_block) for exit_block in self.exit_blocks))
        for name, values in (("grid_sizes", grids), ("keep_rates", rates), ("exit_blocks", exits)):
            if len(set(values)) != len(values) or not (values or name == "exit_blocks"):
                raise InputError(f"{name} {getattr(self, name)!r} must be a non-empty tuple without duplicates")
            object.__setattr__(self, name, tuple(values))
        if rates[-1] != 1:
            raise InputError(f"keep_rates {self.keep_rates!r} must include 1.0, the uncut paths that the labels teach")

    def __iter__(self) -> Iterator[Complexity]:
        return (point for grid in self.grid_sizes for point in (*self.cuts(grid), Complexity(grid)))

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def cuts(self, grid_size: GridSize) -> tuple[Complexity, ...]:
        """The operating points of a grid size that leave something out, ascending."""
        every = {
            Complexity(grid_size, self._reached(rate, exit_block), exit_block)
            for rate in self.keep_rates
            for exit_block in (*self.exit_blocks, None)
        }
        return tuple(sorted(every - {Complexity(grid_size)}))

    def _reached(self, rate: KeepRate, exit_block: int | None) -> KeepRate:
        """The part of a keep rate that counts before an exit."""
        if exit_block is None:
            return rate
        reached = len(drop_blocks_reached(self.drop_blocks, exit_block))
        return (rate[:reached] if isinstance(rate, tuple) else rate) if reached else 1.0

    @property
    def largest(self) -> Complexity:
        """The dearest operating point: the largest grid, uncut."""
        return Complexity(self.grid_sizes[-1])


def sample_paths(space: ComplexitySpace, seed: int, step: int) -> tuple[Complexity, ...]:
    """The four paths of one training step, `(G, 1), (G, c1), (g, 1), (g, c2)`: a pure function of seed and step.

    g is drawn from the grid sizes below the largest, c1 and c2 from what the menu cuts: keep rates below 1 and exits. A space
    without smaller grids (or without cuts) has only the first (or the uncut) paths of the four.
    Source: paper section 3.3, "only four complexities are considered in each iteration".
    """
    draw = random.Random(f"supervit paths {seed} {step}")
    grids = [space.grid_sizes[-1]]
    if len(space.grid_sizes) > 1:
        grids.append(draw.choice(space.grid_sizes[:-1]))
    paths = []
    for grid in grids:
        paths.append(Complexity(grid))
        if cuts := space.cuts(grid):
            paths.append(draw.choice(cuts))
    return tuple(paths)
