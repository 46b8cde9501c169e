"""What an operating point costs in tokens: pure Python, no tensors.

A `Complexity` is resolved once into a `Plan` of integers; plans asked for together grow into a tree of `Branch`es in which
every shared block stands once. The model runs the tree and the cost counters count it; nobody else computes a token count.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from supervit.complexity import Complexity, GridSize, drop_blocks_reached
from supervit.errors import InputError


@dataclass(frozen=True)
class Arrival:
    """What a reducer may count from: the tokens that arrive at a drop block, in integers."""

    keep_rate: float
    """Of this drop block."""
    share: float
    """Product of the keep rates so far, this one included."""
    tokens: int
    """That arrive, prefix included."""
    prefix: int
    """Tokens that stand for no patch and are never dropped: class token, registers."""
    patches: int
    """Of the whole image."""

    def of_tokens(self) -> int:
        """The released rule: the prefix and the `ceil(r T)` best of the others, T with the prefix.

        Source: released implementation; the paper's Table 1 was made with it.
        Differs: the paper's text keeps `eta N` patches, without the class token in the product.
        """
        return self.prefix + min(math.ceil(self.keep_rate * self.tokens), self.tokens - self.prefix)


class Reduction(Protocol):
    """What a plan wants to know of a reducer."""

    at_input: bool
    """Whether it acts on what enters a block, not between the block's halves."""
    reads_all_rows: bool
    """Whether it reads attention rows of tokens that do not survive."""
    keeps_aside: bool
    """Whether dropped tokens are put back before the next choice."""

    def tokens_kept(self, arrival: Arrival) -> int:
        """Tokens that leave a drop block, prefix included."""
        ...


class Selection:
    """The released rule of counting: what a plan goes by where no reducer is asked."""

    at_input = reads_all_rows = keeps_aside = False

    def tokens_kept(self, arrival: Arrival) -> int:
        """As `Arrival.of_tokens`."""
        return arrival.of_tokens()


@dataclass(frozen=True)
class BlockPlan:
    """Token counts of one block, prefix included."""

    tokens_in: int  # tokens that enter
    tokens_kept: int  # tokens that leave its reducer; all of them where nothing is reduced
    tokens_out: int  # rows that are computed: those that leave, or the prefix where nothing else is read
    reduces: bool = False


_RELEASED = Selection()


@dataclass(frozen=True)
class Plan:
    """A complexity resolved to integers for a network: one `BlockPlan` for each block that runs."""

    complexity: Complexity
    blocks: tuple[BlockPlan, ...]
    reduction: Reduction = _RELEASED

    @classmethod
    def resolve(
        cls,
        complexity: Complexity,
        depth: int,
        drop_blocks: Sequence[int],
        rows_read: int | None = None,
        *,
        prefix: int = 1,
        reduction: Reduction = _RELEASED,
    ) -> "Plan":
        """The token counts of every block.

        Args:
            complexity: The operating point.
            depth: Number of blocks.
            drop_blocks: 0-based indices of the blocks that drop tokens.
            rows_read: How many of the first tokens the head reads, where it is these alone: the last block computes no
                others. None: all.
            prefix: Tokens that stand for no patch.
            reduction: Counts what survives.

        Raises:
            InputError: an exit behind the last block, or keep rates for other than the drop blocks that are reached.
        """
        last = depth if complexity.exit_block is None else complexity.exit_block
        if last > depth or last == complexity.exit_block == depth:
            raise InputError(
                f"complexity '{complexity}' stops after {last} of {depth} blocks; use fewer, or leave '/{last}' out"
            )
        reached = drop_blocks_reached(drop_blocks, last)
        if not reached and complexity.keep_rate != 1 and complexity.exit_block is not None:
            plain = Complexity(complexity.grid_size, 1.0, complexity.exit_block)
            raise InputError(f"complexity '{complexity}' stops before a block drops tokens; write '{plain}'")
        rates, share = dict(zip(reached, complexity.keep_rates(len(reached)), strict=True)), 1.0
        everything = tokens = complexity.num_patches + prefix
        blocks = []
        for index in range(last):
            kept, reduces = tokens, False
            if index in rates and complexity.keep_rate != 1:
                share *= rates[index]
                arriving = everything if reduction.keeps_aside else tokens
                arrival = Arrival(rates[index], share, arriving, prefix, complexity.num_patches)
                kept = min(reduction.tokens_kept(arrival), arriving)
                reduces = kept < arriving or arriving > tokens
            is_partial = rows_read is not None and index == last - 1 and not (reduces and reduction.reads_all_rows)
            blocks.append(BlockPlan(tokens, kept, rows_read if is_partial and rows_read else kept, reduces))
            tokens = kept
        return cls(complexity, tuple(blocks), reduction)


@dataclass(frozen=True)
class Step:
    """One block run once for all paths of a branch; counts include the prefix.

    The row of a token in a block's output depends on its own query and on all keys, not on the other queries. So where a
    reducer selects, also the drop block runs once, for the path that keeps most, and the others take a part of its rows.
    """

    block: int
    tokens_in: int
    tokens_ranked: int  # the most that a path keeps; 0 where none reduces
    tokens_out: int  # rows of attention to compute: the most that a path needs; 0 where only the choice is made
    ffn_rows: int  # rows of FFN, of all paths together


@dataclass(frozen=True)
class Branch:
    """Consecutive steps that several paths share, then what follows them.

    At the end of its steps some paths may leave the network (`paths`), and the others go on in `children`: after a drop
    block, each with its own number of survivors.
    """

    grid_size: GridSize
    steps: tuple[Step, ...]
    paths: tuple[int, ...] = ()
    children: tuple[tuple[int | None, "Branch"], ...] = ()  # (tokens kept, None where none is dropped; what follows)

    @property
    def reduces(self) -> bool:
        """Whether the last step is that of a drop block, where the paths part."""
        return bool(self.steps) and self.steps[-1].tokens_ranked > 0

    def every_step(self) -> Iterator[Step]:
        """The steps of this branch and of all that follows."""
        yield from self.steps
        for _, child in self.children:
            yield from child.every_step()


def grow_tree(plans: Sequence[Plan]) -> list[Branch]:
    """The prefix tree of several plans of a network: one root per grid size, each shared block once; paths are indices."""
    grids = dict.fromkeys(plan.complexity.grid_size for plan in plans)
    return [_grow(plans, [i for i, p in enumerate(plans) if p.complexity.grid_size == g], 0) for g in grids]


def _grow(plans: Sequence[Plan], members: Sequence[int], first_block: int, has_chosen: bool = False) -> Branch:
    """The branch of some paths from a block on; `has_chosen`: what enters that block has been reduced already."""
    steps: list[Step] = []
    grid_size, reduction = plans[members[0]].complexity.grid_size, plans[members[0]].reduction
    index = first_block
    while not (done := tuple(member for member in members if len(plans[member].blocks) == index)):
        here = {member: plans[member].blocks[index] for member in members}
        first = here[members[0]]
        ranked = 0 if has_chosen else max((block.tokens_kept for block in here.values() if block.reduces), default=0)
        groups: dict[int | None, list[int]] = {}
        for member, block in here.items():
            groups.setdefault(block.tokens_kept if block.reduces else None, []).append(member)
        if ranked and reduction.at_input:
            steps.append(Step(index, first.tokens_in, ranked, 0, 0))
            children = tuple((kept, _grow(plans, group, index, True)) for kept, group in groups.items())
            return Branch(grid_size, tuple(steps), children=children)
        rows = ffn_rows = max(block.tokens_out for block in here.values())
        if ranked and reduction.reads_all_rows:
            rows, ffn_rows = first.tokens_in, sum(kept or first.tokens_in for kept in groups)
        steps.append(Step(index, first.tokens_kept if has_chosen else first.tokens_in, ranked, rows, ffn_rows))
        index, has_chosen = index + 1, False
        if ranked:
            children = tuple((kept, _grow(plans, group, index)) for kept, group in groups.items())
            return Branch(grid_size, tuple(steps), children=children)
    going = [member for member in members if member not in done]
    return Branch(grid_size, tuple(steps), done, ((None, _grow(plans, going, index, has_chosen)),) if going else ())
