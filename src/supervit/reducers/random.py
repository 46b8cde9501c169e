"""The control: survivors drawn at random, from torch's global generator (reproducible with `torch.manual_seed`)."""

import torch
from torch import Tensor


def score(class_attention: Tensor, tokens: Tensor) -> Tensor:
    """Uniform random scores (B, T - 1)."""
    return torch.rand_like(class_attention[:, 0, 1:])
