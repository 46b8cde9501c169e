"""Operating points and what they cost in tokens: pure Python, no tensors.

A `Complexity` is one operating point, a `ComplexitySpace` the menu that a model is trained on. A complexity is resolved
once into a `Plan` of integers; plans asked for together grow into a tree of `Branch`es in which every shared block
stands once. The model runs the tree and the cost counters count it; nobody else computes a token count.
"""

import math
import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Self

from supervit.errors import InputError

_TEXT = re.compile(r"(\d+)(?:@(\d*\.?\d+(?:e-?\d+)?))?", re.ASCII)


@dataclass(frozen=True, order=True)
class Complexity:
    """One operating point: `"14@0.7"` is a 14x14 grid of patch tokens of which each drop block keeps 70 %.

    Args:
        grid_size: Patch tokens per image side, at least 2.
        keep_rate: Share of the tokens that each drop block keeps, in (0, 1]; 1 drops nothing.

    Raises:
        InputError: a value is out of range.
    """

    grid_size: int
    keep_rate: float = 1.0

    def __post_init__(self) -> None:
        if not isinstance(self.grid_size, int) or isinstance(self.grid_size, bool) or self.grid_size < 2:
            raise InputError(f"grid size {self.grid_size!r} is not usable; use an integer of at least 2, such as 14")
        if not isinstance(self.keep_rate, int | float) or not 0 < self.keep_rate <= 1:
            raise InputError(f"keep rate {self.keep_rate!r} is not in (0, 1]; use 1 to keep all tokens, or such as 0.7")
        object.__setattr__(self, "keep_rate", float(self.keep_rate))

    def __str__(self) -> str:
        return str(self.grid_size) if self.is_uncut else f"{self.grid_size}@{self.keep_rate!r}"

    @property
    def is_uncut(self) -> bool:
        """Whether no token is dropped."""
        return self.keep_rate == 1

    @property
    def uncut(self) -> "Complexity":
        """The operating point of the same grid that drops nothing: the teacher of this one."""
        return Complexity(self.grid_size)

    @classmethod
    def of(cls, value: "Complexity | str") -> Self:
        """The complexity that a text such as `"14@0.7"` or `"14"` names; a complexity is returned as it is.

        Raises:
            InputError: the text is not of the form GRID or GRID@RATE, or a value is out of range.
        """
        if isinstance(value, cls):
            return value
        match = _TEXT.fullmatch(value.strip()) if isinstance(value, str) else None
        if match is None:
            raise InputError(f"complexity {value!r} does not parse; write GRID or GRID@RATE, such as '14' or '14@0.7'")
        return cls(int(match[1]), float(match[2] or 1))


@dataclass(frozen=True)
class ComplexitySpace:
    """The menu of operating points: every grid size with every keep rate.

    Iterating gives them in the order of the paper's Table 3: grid sizes ascending, keep rates ascending within each.

    Args:
        grid_sizes: Grid sizes, each with a position table of its own; duplicates are refused, the order is ignored.
        keep_rates: Keep rates in (0, 1]; 1 must be among them, since the uncut points are the teachers.
    """

    grid_sizes: tuple[int, ...] = (8, 10, 12, 14)
    keep_rates: tuple[float, ...] = (0.5, 0.7, 1.0)

    def __post_init__(self) -> None:
        for name, values in (("grid_sizes", self.grid_sizes), ("keep_rates", self.keep_rates)):
            if not values or len(set(values)) != len(values):
                raise InputError(f"{name} {values!r} must be a non-empty tuple without duplicates")
        rates = sorted(Complexity(2, rate).keep_rate for rate in self.keep_rates)
        if rates[-1] != 1:
            raise InputError(f"keep_rates {self.keep_rates!r} must include 1.0, the uncut paths that the labels teach")
        object.__setattr__(self, "grid_sizes", tuple(sorted(Complexity(g).grid_size for g in self.grid_sizes)))
        object.__setattr__(self, "keep_rates", tuple(rates))

    def __iter__(self) -> Iterator[Complexity]:
        return (Complexity(g, r) for g in self.grid_sizes for r in self.keep_rates)

    def __len__(self) -> int:
        return len(self.grid_sizes) * len(self.keep_rates)

    @property
    def largest(self) -> Complexity:
        """The dearest operating point: the largest grid, uncut."""
        return Complexity(self.grid_sizes[-1])


def sample_paths(space: ComplexitySpace, seed: int, step: int) -> tuple[Complexity, ...]:
    """The four paths of one training step, `(G, 1), (G, r1), (g, 1), (g, r2)`: a pure function of seed and step.

    g is drawn from the grid sizes below the largest, r1 and r2 from the keep rates below 1. A space without smaller
    grids (or without keep rates below 1) has only the first (or the uncut) paths of the four.
    Source: paper section 3.3, "only four complexities are considered in each iteration".
    """
    draw = random.Random(f"supervit paths {seed} {step}")
    grids = [space.grid_sizes[-1]]
    if len(space.grid_sizes) > 1:
        grids.append(draw.choice(space.grid_sizes[:-1]))
    paths = []
    for grid in grids:
        paths.append(Complexity(grid))
        if len(space.keep_rates) > 1:
            paths.append(Complexity(grid, draw.choice(space.keep_rates[:-1])))
    return tuple(paths)


@dataclass(frozen=True)
class BlockPlan:
    """Token counts of one block, class token included."""

    tokens_in: int  # tokens that enter: keys and values
    tokens_kept: int  # tokens that survive the block's selection; all of them where nothing is dropped
    tokens_out: int  # rows that are computed: the survivors, or 1 where only the class token is still read

    @property
    def drops(self) -> bool:
        """Whether the block drops tokens."""
        return self.tokens_kept < self.tokens_in


@dataclass(frozen=True)
class Plan:
    """A complexity resolved to integers for a network of a given depth."""

    complexity: Complexity
    blocks: tuple[BlockPlan, ...]

    @classmethod
    def resolve(cls, complexity: Complexity, depth: int, drop_blocks: Sequence[int], class_token_only: bool = False) -> "Plan":
        """The token counts of every block.

        A drop block that T tokens enter (class token included) keeps the class token and the `ceil(r T)` best patches,
        at most T - 1 of them: T' = min(ceil(r T), T - 1) + 1.

        Args:
            complexity: The operating point.
            depth: Number of blocks.
            drop_blocks: 0-based indices of the blocks that drop tokens.
            class_token_only: Whether the head reads nothing but the class token, so the last block computes one row.

        Source: released implementation; the paper's Table 1 was made with it.
        Differs: the paper's text keeps `eta N` patches, without the class token in the product.
        """
        tokens, blocks = complexity.grid_size**2 + 1, []
        for index in range(depth):
            kept = tokens
            if index in drop_blocks and not complexity.is_uncut:
                kept = min(math.ceil(complexity.keep_rate * tokens), tokens - 1) + 1
            only_class = class_token_only and index == depth - 1
            blocks.append(BlockPlan(tokens, kept, 1 if only_class else kept))
            tokens = kept
        return cls(complexity, tuple(blocks))


@dataclass(frozen=True)
class Step:
    """One block run once for all paths of a branch; counts include the class token."""

    block: int
    tokens_in: int
    tokens_ranked: int  # tokens to rank: the most that a cut path keeps; 0 where no path drops
    tokens_out: int  # rows to compute: the most that a path needs


@dataclass(frozen=True)
class Branch:
    """Consecutive steps that several paths share, then what follows them.

    A branch ends with the network (`paths` lists who ends here) or with a drop block, after which each child goes on
    with its own number of survivors. The row of a token in a block's output depends on its own query and on all keys,
    not on the other queries: so also the drop block itself runs once, for the path that keeps most, and the others take
    a part of its rows.
    """

    grid_size: int
    steps: tuple[Step, ...]
    paths: tuple[int, ...] = ()
    children: tuple[tuple[int, "Branch"], ...] = ()  # (tokens kept, what follows)


def grow_tree(plans: Sequence[Plan]) -> list[Branch]:
    """The prefix tree of several plans: one root per grid size, each shared block once; paths are named by index."""
    grids = dict.fromkeys(plan.complexity.grid_size for plan in plans)
    return [_grow(plans, [i for i, p in enumerate(plans) if p.complexity.grid_size == g], 0) for g in grids]


def _grow(plans: Sequence[Plan], members: Sequence[int], first_block: int) -> Branch:
    steps: list[Step] = []
    grid_size = plans[members[0]].complexity.grid_size
    for index in range(first_block, len(plans[members[0]].blocks)):
        here = {member: plans[member].blocks[index] for member in members}
        ranked = max((block.tokens_kept for block in here.values() if block.drops), default=0)
        rows = max(block.tokens_out for block in here.values())
        steps.append(Step(index, here[members[0]].tokens_in, ranked, rows))
        if ranked:
            groups: dict[int, list[int]] = {}
            for member, block in here.items():
                groups.setdefault(block.tokens_kept, []).append(member)
            children = tuple((kept, _grow(plans, group, index + 1)) for kept, group in groups.items())
            return Branch(grid_size, tuple(steps), children=children)
    return Branch(grid_size, tuple(steps), paths=tuple(members))
