"""DeiT and ViT weights with timm's names: ours, but for the one position table."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from supervit.checkpoints._shapes import elastic
from supervit.config import SuperViTConfig


def matches(state_dict: Mapping[str, Tensor]) -> bool:
    """Whether the names are timm's."""
    return "pos_embed" in state_dict and "patch_embed.proj.weight" in state_dict


def convert(state_dict: Mapping[str, Tensor], overrides: Mapping[str, Any]) -> tuple[SuperViTConfig, dict[str, Tensor]]:
    """Config and weights under our names, elastic."""
    weights = {key: value for key, value in state_dict.items() if key != "pos_embed"}
    return elastic(weights, state_dict["pos_embed"], overrides)
