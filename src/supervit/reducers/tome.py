"""ToMe: the most similar tokens become their mean."""

from typing import Any

import torch
from torch import Tensor, nn

from supervit import reducers
from supervit.plan import Arrival
from supervit.tokens import Tokens, take_rows


class Reducer(reducers.Reducer):
    """Bipartite soft matching, size-weighted means and attention.

    Source: Bolya et al., "Token Merging: Your ViT But Faster" (2023), which merges in all blocks: make them drop blocks.
    """

    probe, tracks_patches, is_elastic = None, True, False

    @classmethod
    def tokens_kept(cls, arrival: Arrival) -> int:
        """All but `round((1 - r) T)`, at most half of those that are no prefix."""
        merged = round((1 - arrival.keep_rate) * arrival.tokens)
        return arrival.tokens - min(merged, (arrival.tokens - arrival.prefix) // 2)

    @classmethod
    def rank_macs(cls, config: Any, tokens: int) -> int:
        """Of the similarities."""
        matched = tokens - max(config.num_prefix_tokens - 1, 0)
        return (matched - matched // 2) * (matched // 2) * config.embed_dim // config.num_heads

    @classmethod
    def reduce_macs(cls, config: Any, tokens: int, kept: int) -> int:
        """Of adding what is merged, and its sizes."""
        return (tokens - max(config.num_prefix_tokens - 1, 0)) // 2 * (tokens - kept) * (config.embed_dim + 1)

    def rank(self, seen: reducers.Evidence, most: int) -> tuple[Tensor, Tensor]:
        """Even places, the most similar first, and their odd places, counted from the last prefix token, which stays."""
        keys = nn.functional.normalize(seen.key.float().mean(dim=1), dim=-1)[:, max(seen.tokens.prefix - 1, 0) :]
        nearest, partner = (keys[:, ::2] @ keys[:, 1::2].transpose(1, 2)).max(dim=2)
        order = nearest[:, min(seen.tokens.prefix, 1) :].argsort(dim=1, descending=True) + min(seen.tokens.prefix, 1)
        return order, partner.gather(1, order)

    def reduce(self, tokens: Tokens, ranking: tuple[Tensor, Tensor], kept: int) -> Tokens:
        """The prefix, what stays of the even places, and the odd ones with what is merged into them; log sizes as bias."""
        order, into = ranking
        count, lead = tokens.values.shape[1] - kept, max(tokens.prefix - 1, 0)
        stay, merged = 2 * order[:, count:].sort(dim=1).values + lead, 2 * order[:, :count] + lead
        sizes = tokens.sizes().unsqueeze(2).to(tokens.values.dtype)
        weighted = torch.cat([tokens.values * sizes, sizes], dim=2)
        new, first = torch.arange(kept, device=order.device).expand(order.shape[0], -1), tokens.prefix + stay.shape[1]
        into, odd = into[:, :count] + first, 2 * new[:, : kept - first] + lead + 1
        is_into = into.unsqueeze(1) == new[:, first:].unsqueeze(2)
        sums = take_rows(weighted, odd) + is_into.to(weighted.dtype) @ take_rows(weighted, merged)
        old = torch.cat([new[:, : tokens.prefix], stay, odd, merged], dim=1)
        values = torch.cat([take_rows(tokens.values, old[:, :first]), sums[..., :-1] / sums[..., -1:]], dim=1)
        tokens = tokens.moved(values, torch.zeros_like(old).scatter(1, old, torch.cat([new, into], dim=1)))
        return tokens._replace(bias=tokens.sizes().log())
