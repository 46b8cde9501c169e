"""ToMe: the most similar tokens become their mean."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from supervit import reducers
from supervit.plan import Arrival
from supervit.tokens import Tokens, take_rows


class Reducer(reducers.Reducer):
    """Bipartite soft matching: tokens at even places look for the most similar at odd places; the best pairs merge.

    Source: Bolya et al., "Token Merging: Your ViT But Faster" (2023), which merges in all blocks: make them drop blocks.
    """

    probe = None
    tracks_patches, is_elastic = True, False

    @classmethod
    def tokens_kept(cls, arrival: Arrival) -> int:
        """All but `round((1 - r) T)`, at most half of those that are no prefix."""
        merged = round((1 - arrival.keep_rate) * arrival.tokens)
        return arrival.tokens - min(merged, (arrival.tokens - arrival.prefix) // 2)

    @classmethod
    def rank_macs(cls, config: Any, tokens: int) -> int:
        """Of the similarities."""
        return (tokens - tokens // 2) * (tokens // 2) * config.embed_dim // config.num_heads

    @classmethod
    def reduce_macs(cls, config: Any, tokens: int, kept: int) -> int:
        """Of adding what is merged, and its sizes, to what it is merged into."""
        return (tokens // 2) * (tokens - kept) * (config.embed_dim + 1)

    def rank(self, seen: reducers.Evidence, most: int) -> tuple[Tensor, Tensor]:
        """Even places, the most similar first, and their odd places, both (B, T - T // 2)."""
        assert seen.key is not None
        keys = F.normalize(seen.key.float().mean(dim=1), dim=-1)
        is_prefix = torch.arange(keys.shape[1], device=keys.device) < seen.tokens.prefix
        similarity = keys[:, ::2] @ keys[:, 1::2].transpose(1, 2)
        similarity = similarity.masked_fill(is_prefix[::2].unsqueeze(1) | is_prefix[1::2], -torch.inf)
        nearest, partner = similarity.max(dim=2)
        order = nearest.argsort(dim=1, descending=True)
        return order, partner.gather(1, order)

    def reduce(self, tokens: Tokens, ranking: tuple[Tensor, Tensor], kept: int) -> Tokens:
        """What stays of the even places, then the odd ones with what has been merged into them; log sizes as bias."""
        count = tokens.values.shape[1] - kept
        merged, into = (part[:, :count] for part in ranking)
        stay, sizes = ranking[0][:, count:].sort(dim=1).values, tokens.sizes().unsqueeze(2).to(tokens.values.dtype)
        weighted = torch.cat([tokens.values * sizes, sizes], dim=2)  # sums and sizes are added alike
        new = torch.arange(kept, device=into.device).expand(into.shape[0], -1)
        odd = new[:, : weighted.shape[1] // 2]
        is_into = (into.unsqueeze(1) == odd.unsqueeze(2)).to(weighted.dtype)
        sums = weighted[:, 1::2] + is_into @ take_rows(weighted, 2 * merged)
        values = torch.cat([take_rows(tokens.values, 2 * stay), sums[..., :-1] / sums[..., -1:]], dim=1)
        old = torch.cat([2 * stay, 2 * odd + 1, 2 * merged], dim=1)
        places = torch.zeros_like(old).scatter(1, old, torch.cat([new, into + stay.shape[1]], dim=1))
        moved = tokens.moved(values, places)
        return moved._replace(bias=moved.sizes().log())
