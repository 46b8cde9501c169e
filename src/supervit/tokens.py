"""What flows through the blocks: tokens, and where the patches of the image are in them."""

from typing import Any, NamedTuple, Self

import torch
from torch import Tensor


def take_rows(rows: Tensor, index: Tensor) -> Tensor:
    """Rows `index` (B, S) of (B, T, D), as (B, S, D).

    Whole rows of all images as one list: on a CPU several times faster than `gather`, which moves single elements.
    """
    batch, length, dim = rows.shape
    places = index + length * torch.arange(batch, device=index.device).unsqueeze(1)
    return rows.flatten(0, 1).index_select(0, places.flatten()).view(batch, index.shape[1], dim)


class Tokens(NamedTuple):
    """The tokens of a path on their way through the network: the prefix first (class token, registers), then the others.

    All but the values is there on request alone.
    """

    values: Tensor
    """(B, T, D)."""
    prefix: int = 1
    """How many of the first tokens stand for no patch; these are never dropped."""
    patches: Tensor | None = None
    """(B, N): which token holds each patch of the image, counted from 0 = the first of the prefix; -1: dropped."""
    bias: Tensor | None = None
    """(B, T): added to the logits of each token as a key: log size (ToMe), log mask (DynamicViT)."""
    aside: Tensor | None = None
    """(B, N, D): what each dropped patch was when the block that dropped it began; of other patches, any earlier value."""
    scores: Tensor | None = None
    """(B, N): what a reducer remembers of each patch."""
    penalty: Tensor | None = None
    """A scalar that a learned reducer adds to the loss."""

    def tracked(self, aside: bool = False) -> Self:
        """These tokens, as yet one for each patch, with their places and, if wanted, what will be set aside."""
        batch, length, _ = self.values.shape
        patches = torch.arange(self.prefix, length, device=self.values.device).expand(batch, -1)
        return self._replace(patches=patches, aside=self.values[:, self.prefix :] if aside else None)

    def of_images(self, which: slice | Tensor) -> Self:
        """The tokens of some images of the batch."""
        parts: Any = (part[which] if isinstance(part, Tensor) and part.ndim else part for part in self)
        return type(self)(*parts)

    def joined(self, other: Self) -> Self:
        """The tokens of these images and those of others, of the same operating point."""
        both = zip(self, other, strict=True)
        parts: Any = (torch.cat([a, b]) if isinstance(a, Tensor) and a.ndim else a for a, b in both)  # type: ignore[list-item]
        return type(self)(*parts)

    def take(self, index: Tensor, values: Tensor | None = None) -> Self:
        """The tokens `index` (B, S), which holds the prefix; `values` (B, S, D) where these have been taken already."""
        values = take_rows(self.values, index) if values is None else values
        bias = None if self.bias is None else self.bias.gather(1, index)
        if self.patches is None:
            return self._replace(values=values, bias=bias)
        nowhere = torch.full(self.values.shape[:2], -1, device=index.device)
        places = torch.arange(index.shape[1], device=index.device).expand_as(index)
        return self.moved(values, nowhere.scatter(1, index, places), bias)

    def moved(self, values: Tensor, places: Tensor, bias: Tensor | None = None) -> Self:
        """Other tokens (B, S, D) made of these, the i-th of which has gone into the token `places[:, i]`; -1: nowhere."""
        if self.patches is None:
            return self._replace(values=values, bias=bias)
        patches = places.gather(1, self.patches.clamp_min(0)).where(self.patches >= 0, -1)
        return self._replace(values=values, bias=bias, patches=patches)

    def sizes(self) -> Tensor:
        """Patches that each token holds (B, T), float32; 1 for those of the prefix."""
        assert self.patches is not None
        batch, length, _ = self.values.shape
        ones = torch.ones(batch, self.prefix, device=self.values.device)
        held = torch.zeros(batch, length + 1, device=self.values.device)  # the last: of those that none holds
        places = torch.where(self.patches >= 0, self.patches, length)
        held = held.scatter_add(1, places, torch.ones_like(places, dtype=held.dtype))
        return torch.cat([ones, held[:, self.prefix : length]], dim=1)

    def restored(self) -> Tensor:
        """A value for every patch of the image (B, N, D): of the token that holds it, or what it was when it was dropped."""
        assert self.patches is not None
        held = take_rows(self.values, self.patches.clamp_min(0))
        return held if self.aside is None else torch.where((self.patches >= 0).unsqueeze(2), held, self.aside)
