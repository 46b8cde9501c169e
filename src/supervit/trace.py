"""Where the patches of an image went: what `trace=True` returns."""

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from supervit.complexity import GridSize, sides
from supervit.tokens import Tokens


@dataclass(frozen=True)
class Trace:
    """Where every patch of an image went: a view of `Tokens.patches` after each drop block.

    Patches are numbered row by row, 0 = top left, N - 1 = bottom right.
    """

    grid_size: GridSize
    prefix: int
    """Tokens before those of the patches."""
    places: dict[int, Tensor]
    """Which token holds each patch (B, N) after each drop block, by 0-based block index; -1: dropped."""
    last: Tensor
    """The same at the end."""

    @classmethod
    def start(cls, tokens: Tokens, grid_size: GridSize) -> "Trace":
        """The trace before the first block."""
        assert tokens.patches is not None
        return cls(grid_size, tokens.prefix, {}, tokens.patches)

    def after(self, block: int, tokens: Tokens) -> Self:
        """The trace after a drop block."""
        assert tokens.patches is not None
        return type(self)(self.grid_size, self.prefix, {**self.places, block: tokens.patches}, tokens.patches)

    @property
    def dropped(self) -> dict[int, Tensor]:
        """Patches (B, n) that each drop block removed, ascending, by block index."""
        before, found = torch.zeros_like(self.last), {}
        for block, after in self.places.items():
            found[block] = _where((before >= 0) & (after < 0))
            before = after
        return found

    @property
    def kept(self) -> Tensor:
        """Patches (B, m) that survived to the end, in the order of their tokens: best first at the last drop."""
        order = self.last.argsort(dim=1, stable=True)
        return order[:, int((self.last[:1] < 0).sum()) :]

    def drop_map(self) -> Tensor:
        """The block that removed each patch, -1 for survivors, as a picture (B, rows, columns)."""
        blocks = torch.full_like(self.last, -1)
        for block, after in reversed(self.places.items()):
            blocks = torch.where(after < 0, block, blocks)
        return blocks.unflatten(1, sides(self.grid_size))

    def token_map(self) -> Tensor:
        """Which token holds each patch at the end, -1 where it was dropped, as a picture (B, rows, columns)."""
        return self.last.unflatten(1, sides(self.grid_size))


def _where(mask: Tensor) -> Tensor:
    """Indices (B, n) of what is true in each row (B, N), as many in all."""
    return mask.nonzero()[:, 1].view(mask.shape[0], int(mask[:1].sum()))
