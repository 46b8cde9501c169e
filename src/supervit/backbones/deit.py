"""DeiT without distillation token: the plain vision transformer.

Source: Touvron et al., "Training data-efficient image transformers & distillation through attention" (2021).
"""

import math
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

from supervit.complexity import GridSize, sides
from supervit.config import SuperViTConfig

if TYPE_CHECKING:
    from torch import nn

Config = SuperViTConfig

VARIANTS: dict[str, dict[str, Any]] = {
    "deit_tiny": {"embed_dim": 192, "num_heads": 3},
    "deit_small": {"embed_dim": 384, "num_heads": 6},
    "deit_base": {"embed_dim": 768, "num_heads": 12},
}


def patch_embed(config: SuperViTConfig) -> "nn.Sequential":
    """Each patch, linearly projected: from images (B, C, p g, p g) to their map (B, D, g, g)."""
    from torch import nn

    projection = nn.Conv2d(config.in_chans, config.embed_dim, config.patch_size, stride=config.patch_size)
    return nn.Sequential(OrderedDict(proj=projection))


def patch_embed_macs(config: SuperViTConfig, grid_size: GridSize) -> int:
    """Multiply-accumulates of the patch embedding of one image."""
    return math.prod(sides(grid_size)) * config.in_chans * config.patch_size**2 * config.embed_dim
