"""Our own names, in a bare file: what `torch.save(model.state_dict(), path)` writes."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from supervit.checkpoints._shapes import infer_config
from supervit.config import SuperViTConfig


def matches(state_dict: Mapping[str, Tensor]) -> bool:
    """Whether the names are ours."""
    return any(key.startswith("pos_embeds.") for key in state_dict)


def convert(state_dict: Mapping[str, Tensor], overrides: Mapping[str, Any]) -> tuple[SuperViTConfig, dict[str, Tensor]]:
    """The config that the shapes tell, and the weights as they are."""
    return infer_config(state_dict, family_of(state_dict), overrides), dict(state_dict)


def family_of(state_dict: Mapping[str, Tensor]) -> str:
    """The family that weights under our names belong to: LV-ViT has a convolutional stem."""
    return "lvvit" if "patch_embed.conv1.weight" in state_dict else "deit"
