"""LV-ViT: a convolutional stem, halved residuals and a classifier on every patch token.

Source: Jiang et al., "All Tokens Matter: Token Labeling for Training Better Vision Transformers" (2021).
Differs: logits are head(class token) + `dense_weight` times the best patch's in training too, so that a model trained
without token labels is evaluated as it was trained.
"""

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from supervit.config import SuperViTConfig
from supervit.errors import InputError


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
        if self.patch_size % 2 or self.stem_channels < 1:
            raise InputError(f"LV-ViT needs an even patch_size and stem_channels, not {self.patch_size}, {self.stem_channels}")


VARIANTS: dict[str, dict[str, Any]] = {
    "lvvit_tiny": {"embed_dim": 240, "depth": 12, "num_heads": 4},
    "lvvit_small": {"embed_dim": 384, "depth": 16, "num_heads": 6},
    "lvvit_medium": {"embed_dim": 512, "depth": 20, "num_heads": 8},
}


class PatchEmbed(nn.Module):
    """Three convolutions at half resolution, then a linear projection of what each patch has become."""

    def __init__(self, config: Config):
        super().__init__()
        width, patch = config.stem_channels, config.patch_size // 2
        self.conv1 = nn.Conv2d(config.in_chans, width, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(width)
        self.proj = nn.Conv2d(width, config.embed_dim, patch, stride=patch)
        self.act = nn.ReLU(inplace=True)

    def forward(self, images: Tensor) -> Tensor:
        """Patch tokens (B, g^2, D), row by row, of images (B, C, p g, p g)."""
        x = self.act(self.bn1(self.conv1(images)))
        x = self.act(self.bn2(self.conv2(x)))
        x = self.act(self.bn3(self.conv3(x)))
        return self.proj(x).flatten(2).transpose(1, 2)


def patch_embed_macs(config: Config, grid_size: int) -> int:
    """Multiply-accumulates of stem and projection of one image."""
    half, width = config.patch_size // 2, config.stem_channels
    convolutions = (half * grid_size) ** 2 * width * (config.in_chans * 49 + 2 * width * 9)
    return convolutions + grid_size**2 * width * half**2 * config.embed_dim
