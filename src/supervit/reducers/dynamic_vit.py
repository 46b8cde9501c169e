"""DynamicViT: a small network predicts which patches stay."""

from typing import Any

import torch
from torch import Tensor, nn

from supervit import reducers
from supervit.plan import Arrival
from supervit.tokens import Tokens


class Reducer(reducers.Reducer):
    """In training all patches stay, and those that would go are masked as keys, by Gumbel decisions with a gradient.

    Source: Rao et al., "DynamicViT" (2021), whose mask excepts the diagonal, which only dropped rows feel.
    """

    probe, at_input, is_learned, ratio_weight = None, True, True, 2.0

    def __init__(self, config: Any):
        super().__init__(config)
        dim, half, quarter = (config.embed_dim // part for part in (1, 2, 4))
        self.in_conv = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, dim), nn.GELU())
        layers = nn.Linear(dim, half), nn.GELU(), nn.Linear(half, quarter), nn.GELU(), nn.Linear(quarter, 2)
        self.out_conv = nn.Sequential(*layers)

    @classmethod
    def tokens_kept(cls, arrival: Arrival) -> int:
        """The prefix and a share of the patches of the image: r, r^2, r^3, cut to whole ones."""
        return arrival.prefix + max(int(arrival.patches * arrival.share + 1e-9), 1)

    @classmethod
    def rank_macs(cls, config: Any, tokens: int) -> int:
        """Of the predictor."""
        dim, half, quarter = (config.embed_dim // part for part in (1, 2, 4))
        return (tokens - config.num_prefix_tokens) * (dim * dim + dim * half + half * quarter + quarter * 2)

    def rank(self, seen: reducers.Evidence, most: int) -> Tensor:
        """Patch tokens, best first; in training the log-probabilities to stay and to go (B, N, 2)."""
        patches, policy = seen.tokens.values[:, seen.tokens.prefix :], seen.tokens.scores
        local, whole = self.in_conv(patches).chunk(2, dim=-1)
        weights = torch.ones_like(whole[..., :1]) if policy is None else policy.unsqueeze(2)
        whole = (whole * weights).sum(dim=1, keepdim=True) / weights.sum(dim=1, keepdim=True)
        found = self.out_conv(torch.cat([local, whole.expand_as(local)], dim=-1)).float().log_softmax(dim=-1)
        return found if self.training else found[..., 0].topk(most - seen.tokens.prefix, dim=1).indices

    def reduce(self, tokens: Tokens, ranking: Tensor, kept: int) -> Tokens:
        """The best patches; in training all, with the mask of this and earlier decisions as bias and the ratio loss."""
        if not self.training:
            return super().reduce(tokens, ranking, kept)
        mask = self.decide(ranking) * (1 if tokens.scores is None else tokens.scores)
        ratio_loss = (mask.mean(dim=1) - (kept - tokens.prefix) / mask.shape[1]).square().mean() * self.ratio_weight
        penalty = ratio_loss if tokens.penalty is None else ratio_loss + tokens.penalty
        return tokens._replace(scores=mask, bias=nn.functional.pad((mask + 1e-8).log(), (tokens.prefix, 0)), penalty=penalty)

    def decide(self, log_probabilities: Tensor) -> Tensor:
        """1 for patches that stay, 0 for those that go (B, N), drawn, with the gradient of the probabilities."""
        return nn.functional.gumbel_softmax(log_probabilities, hard=True)[..., 0]
