"""A reducer of somebody else's, with parameters, in a package of their own: the rest goes into the class token."""

import torch
from torch import Tensor, nn

from supervit import reducers
from supervit.tokens import take_rows


class Reducer(reducers.Reducer):
    """Patches along a learned direction stay, behind a gate; the class token gets the mean of what goes."""

    is_learned = True
    is_elastic = False

    def __init__(self, config):
        super().__init__(config)
        self.direction = nn.Linear(config.embed_dim, 1)

    @classmethod
    def rank_macs(cls, config, tokens):
        return (tokens - config.num_prefix_tokens) * config.embed_dim

    def score(self, seen: reducers.Evidence) -> Tensor:
        return self.direction(seen.normed[:, seen.tokens.prefix :]).squeeze(2)

    def rank(self, seen, most):
        return self.score(seen)

    def reduce(self, tokens, ranking, kept):
        gates = torch.nn.functional.pad(ranking.sigmoid(), (tokens.prefix, 0), value=1.0).unsqueeze(2)
        order = ranking.argsort(dim=1, descending=True)
        gone = order[:, kept - tokens.prefix :] + tokens.prefix
        taken = tokens._replace(values=tokens.values * gates).take(reducers.with_prefix(order, tokens.prefix, kept))
        first = taken.values[:, :1] + take_rows(tokens.values, gone).mean(dim=1, keepdim=True)
        return taken._replace(values=torch.cat([first, taken.values[:, 1:]], dim=1))
