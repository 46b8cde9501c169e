"""Evo-ViT: the best patches take the slow way through the blocks, the others wait and come back at the next choice."""

from typing import Any

import torch
from torch import Tensor

from supervit import reducers
from supervit.errors import InputError
from supervit.plan import Arrival
from supervit.tokens import Tokens, take_rows


class Reducer(reducers.Reducer):
    """The choice goes by a running mean of the class token's attention in all blocks, and all patches are in it each time.

    Source: Xu et al., "Evo-ViT: Slow-Fast Token Evolution for Dynamic Vision Transformer" (2022), in the form of its code for
    DeiT: what waits is not updated, and the head reads the mean of all patches (`global_pool="avg", fc_norm=True`).
    """

    at_input = observes = keeps_aside = tracks_patches = True
    is_elastic = False
    trade_off = 0.5
    """Weight of the newest attention in the running mean, once patches wait."""

    def __init__(self, config: Any):
        super().__init__(config)
        if 0 in config.drop_blocks:
            raise InputError("reducer 'evo_vit' cannot choose before the first block has looked; leave 0 out of drop_blocks")

    @classmethod
    def tokens_kept(cls, arrival: Arrival) -> int:
        """The prefix and the same share of all patches at each choice, cut to whole ones."""
        return arrival.prefix + max(int(arrival.patches * arrival.keep_rate), 1)

    def observe(self, seen: reducers.Evidence) -> Tokens:
        """The tokens with the running mean of each patch in `scores`; patches that wait keep theirs."""
        tokens = seen.tokens
        assert tokens.patches is not None
        here = seen.attention.mean(dim=1).gather(1, tokens.patches.clamp_min(0))
        if tokens.scores is None or tokens.values.shape[1] - tokens.prefix == tokens.patches.shape[1]:
            return tokens._replace(scores=here)
        running = tokens.scores.lerp(here, self.trade_off)
        return tokens._replace(scores=torch.where(tokens.patches >= 0, running, tokens.scores))

    def rank(self, seen: reducers.Evidence, most: int) -> Tensor:
        """Patches of the image, best first (B, most - prefix)."""
        assert seen.tokens.scores is not None
        return seen.tokens.scores.topk(most - seen.tokens.prefix, dim=1).indices

    def reduce(self, tokens: Tokens, ranking: Tensor, kept: int) -> Tokens:
        """The prefix and the best patches of all, best first."""
        assert tokens.aside is not None  # as every patch is when the block begins
        best = ranking[:, : kept - tokens.prefix]
        values = torch.cat([tokens.values[:, : tokens.prefix], take_rows(tokens.aside, best)], dim=1)
        places = torch.arange(tokens.prefix, kept, device=best.device).expand_as(best)
        waiting = torch.full(tokens.aside.shape[:2], -1, device=best.device)
        return tokens._replace(values=values, patches=waiting.scatter(1, best, places))
