"""EViT: the best patches stay, the others are fused into one token."""

import math
from typing import Any

import torch
from torch import Tensor

from supervit import reducers
from supervit.plan import Arrival
from supervit.tokens import Tokens, take_rows


class Reducer(reducers.Reducer):
    """The rest becomes one more token: its sum, weighted by the class token's attention.

    Source: Liang et al., "Not All Patches are What You Need: Expediting Vision Transformers via Token Reorganizations" (2022).
    As in its code, the weights are not normalised, and the share is of all but the prefix, earlier fused tokens included.
    """

    is_elastic = False

    @classmethod
    def tokens_kept(cls, arrival: Arrival) -> int:
        """The prefix, `ceil(r N)` of the N others, and the fused one; all where none would be left to fuse."""
        others = arrival.tokens - arrival.prefix
        kept = math.ceil(arrival.keep_rate * others)
        return arrival.tokens if kept >= others else arrival.prefix + kept + 1

    @classmethod
    def reduce_macs(cls, config: Any, tokens: int, kept: int) -> int:
        """Of the weighted sum."""
        return (tokens - kept + 1) * config.embed_dim

    def rank(self, seen: reducers.Evidence, most: int) -> tuple[Tensor, Tensor]:
        """Attention of the class token to the patch tokens, mean over heads, and these, both (B, T - prefix), best first."""
        scores, order = seen.attention[:, :, seen.tokens.prefix :].mean(dim=1).sort(dim=1, descending=True)
        return scores, order

    def reduce(self, tokens: Tokens, ranking: tuple[Tensor, Tensor], kept: int) -> Tokens:
        """The best, best first, then the fused token."""
        scores, order = ranking
        best = kept - 1 - tokens.prefix
        weights, rest = scores[:, best:].unsqueeze(1).to(tokens.values.dtype), order[:, best:] + tokens.prefix
        index = reducers.with_prefix(order, tokens.prefix, kept - 1)
        values = torch.cat([take_rows(tokens.values, index), weights @ take_rows(tokens.values, rest)], dim=1)
        places = torch.full(tokens.values.shape[:2], kept - 1, device=index.device)
        places = places.scatter(1, index, torch.arange(kept - 1, device=index.device).expand_as(index))
        return tokens.moved(values, places)
