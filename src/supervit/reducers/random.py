"""The control: survivors drawn at random, from torch's global generator (reproducible with `torch.manual_seed`)."""

import torch
from torch import Tensor

from supervit import reducers


class Reducer(reducers.Reducer):
    """Random selection at the cost of the paper's."""

    def score(self, seen: reducers.Evidence) -> Tensor:
        """Uniform random scores (B, T - prefix)."""
        return torch.rand_like(seen.attention[:, 0, seen.tokens.prefix :])
