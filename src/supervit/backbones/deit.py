"""DeiT without distillation token: the plain vision transformer.

Source: Touvron et al., "Training data-efficient image transformers & distillation through attention" (2021).
"""

from typing import Any

from torch import Tensor, nn

from supervit.config import SuperViTConfig

Config = SuperViTConfig

VARIANTS: dict[str, dict[str, Any]] = {
    "deit_tiny": {"embed_dim": 192, "num_heads": 3},
    "deit_small": {"embed_dim": 384, "num_heads": 6},
    "deit_base": {"embed_dim": 768, "num_heads": 12},
}


class PatchEmbed(nn.Module):
    """Each patch, linearly projected."""

    def __init__(self, config: SuperViTConfig):
        super().__init__()
        self.proj = nn.Conv2d(config.in_chans, config.embed_dim, config.patch_size, stride=config.patch_size)

    def forward(self, images: Tensor) -> Tensor:
        """Patch tokens (B, g^2, D), row by row, of images (B, C, p g, p g)."""
        return self.proj(images).flatten(2).transpose(1, 2)


def patch_embed_macs(config: SuperViTConfig, grid_size: int) -> int:
    """Multiply-accumulates of the patch embedding of one image."""
    return grid_size**2 * config.in_chans * config.patch_size**2 * config.embed_dim
