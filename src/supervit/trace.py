"""Where the patches of an image went: what `trace=True` returns."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Trace:
    """Where every patch of an image went. Patches are numbered row by row, 0 = top left, g^2 - 1 = bottom right."""

    grid_size: int
    dropped: dict[int, Tensor]
    """Patches (B, n) that each drop block removed, by 0-based block index."""
    kept: Tensor
    """Patches (B, m) that survived to the end, in the order of their tokens: best first at the last drop."""

    @classmethod
    def start(cls, images: Tensor, grid_size: int) -> "Trace":
        """The trace before the first block: every patch of the images (B, C, S, S) is kept."""
        patches = torch.arange(grid_size**2, device=images.device)
        return cls(grid_size, {}, patches.expand(images.shape[0], -1))

    def drop(self, block: int, survivors: Tensor) -> "Trace":
        """The trace after a drop block that kept the tokens `survivors` (B, m), indices into `kept`."""
        batch, length = self.kept.shape
        is_dropped = torch.ones_like(self.kept, dtype=torch.bool).scatter(1, survivors, False)
        dropped = self.kept[is_dropped].view(batch, length - survivors.shape[1])
        return Trace(self.grid_size, {**self.dropped, block: dropped}, self.kept.gather(1, survivors))

    def drop_map(self) -> Tensor:
        """The block that removed each patch, -1 for survivors, as a picture (B, g, g)."""
        blocks = torch.full((self.kept.shape[0], self.grid_size**2), -1, device=self.kept.device)
        for block, patches in self.dropped.items():
            blocks.scatter_(1, patches, block)
        return blocks.unflatten(1, (self.grid_size, self.grid_size))
