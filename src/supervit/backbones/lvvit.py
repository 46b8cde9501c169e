"""LV-ViT: a convolutional stem, halved residuals and a classifier on every patch token.

Source: Jiang et al., "All Tokens Matter: Token Labeling for Training Better Vision Transformers" (2021).
Differs: logits are head(class token) + `dense_weight` times the best patch's in training too, so that a model trained
without token labels is evaluated as it was trained.
"""

import math
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from supervit.complexity import GridSize, sides
from supervit.config import SuperViTConfig
from supervit.errors import InputError

if TYPE_CHECKING:
    from torch import nn


_MOST_STEM_CHANNELS = 1024


@dataclass(frozen=True)
class Config(SuperViTConfig):
    """LV-ViT's defaults and the width of its stem."""

    family: str = "lvvit"
    depth: int = 16
    mlp_ratio: float = 3.0
    qkv_bias: bool = False
    norm_eps: float = 1e-5
    residual_divisor: float = 2.0
    dense_head: bool = True
    crop_pct: float = 0.9
    stem_channels: int = 64
    """Channels of the convolutional stem."""

    def _validate(self) -> None:
        super()._validate()
        if self.patch_size % 2 or not 1 <= self.stem_channels <= _MOST_STEM_CHANNELS:
            raise InputError(
                f"LV-ViT needs an even patch_size and 1 to {_MOST_STEM_CHANNELS} stem_channels, not {self.patch_size}, "
                f"{self.stem_channels}"
            )


VARIANTS: dict[str, dict[str, Any]] = {
    "lvvit_tiny": {"embed_dim": 240, "depth": 12, "num_heads": 4},
    "lvvit_small": {"embed_dim": 384, "depth": 16, "num_heads": 6},
    "lvvit_medium": {"embed_dim": 512, "depth": 20, "num_heads": 8},
}


def patch_embed(config: Config) -> "nn.Sequential":
    """Three convolutions at half resolution, then a linear projection of what each patch (B, D, g, g) has become."""
    from torch import nn

    width, patch = config.stem_channels, config.patch_size // 2
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for index, (channels, size, stride) in enumerate([(config.in_chans, 7, 2), (width, 3, 1), (width, 3, 1)], start=1):
        layers[f"conv{index}"] = nn.Conv2d(channels, width, size, stride, padding=size // 2, bias=False)
        layers[f"bn{index}"] = nn.BatchNorm2d(width)
        layers[f"act{index}"] = nn.ReLU(inplace=True)
    layers["proj"] = nn.Conv2d(width, config.embed_dim, patch, stride=patch)
    return nn.Sequential(layers)


def patch_embed_macs(config: Config, grid_size: GridSize) -> int:
    """Multiply-accumulates of stem and projection of one image."""
    half, width = config.patch_size // 2, config.stem_channels
    patches = math.prod(sides(grid_size))
    convolutions = half**2 * patches * width * (config.in_chans * 49 + 2 * width * 9)
    return convolutions + patches * width * half**2 * config.embed_dim
