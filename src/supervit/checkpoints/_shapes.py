"""What the shapes of weights tell about a model."""

import math
from collections.abc import Mapping
from typing import Any

from timm.layers import resample_abs_pos_embed
from torch import Tensor

from supervit.backbones import load_family, scaled_grid_sizes
from supervit.config import SuperViTConfig
from supervit.errors import InputError


def infer_config(weights: Mapping[str, Tensor], family: str, overrides: Mapping[str, Any]) -> SuperViTConfig:
    """The config of weights under our names; `overrides` go first.

    Raises:
        InputError: weights that every model has are missing, or the number of heads cannot be told.
    """
    try:
        return _infer(weights, family, overrides)
    except KeyError as error:
        raise InputError(f"the weights lack {error.args[0]!r}, which every {family} model has") from error


def _infer(weights: Mapping[str, Tensor], family: str, overrides: Mapping[str, Any]) -> SuperViTConfig:
    module = load_family(family)
    patch_weight = weights["patch_embed.proj.weight"]
    embed_dim = patch_weight.shape[0]
    told: dict[str, Any] = {
        "family": family,
        "embed_dim": embed_dim,
        "depth": len({key.split(".")[1] for key in weights if key.startswith("blocks.")}),
        "mlp_ratio": weights["blocks.0.mlp.fc1.weight"].shape[0] / embed_dim,
        "qkv_bias": "blocks.0.attn.qkv.bias" in weights,
        "num_classes": weights["head.weight"].shape[0] if "head.weight" in weights else 0,
        "grid_sizes": tuple(int(key.split(".")[1]) for key in weights if key.startswith("pos_embeds.")),
    }
    if "patch_embed.conv1.weight" in weights:
        stem = weights["patch_embed.conv1.weight"]
        told |= {"stem_channels": stem.shape[0], "in_chans": stem.shape[1], "patch_size": 2 * patch_weight.shape[-1]}
    else:
        told |= {"in_chans": patch_weight.shape[1], "patch_size": patch_weight.shape[-1]}
    if "num_heads" not in overrides:
        told["num_heads"] = _default_num_heads(module.VARIANTS, embed_dim)
    config: SuperViTConfig = module.Config.from_dict({**told, **overrides})
    return config


def _default_num_heads(variants: Mapping[str, Mapping[str, Any]], embed_dim: int) -> int:
    for variant in variants.values():
        if variant["embed_dim"] == embed_dim:
            return int(variant["num_heads"])
    if embed_dim % 64:
        raise InputError(f"width {embed_dim} does not tell the number of attention heads; pass it, such as num_heads=3")
    return embed_dim // 64


def grid_of_table(table: Tensor) -> int:
    """The grid size of a position table (1, g^2 + 1, D), class token included.

    Raises:
        InputError: the table is of no square grid with one class token.
    """
    grid = math.isqrt(table.shape[1] - 1) if table.ndim == 3 else 0
    if grid < 2 or grid**2 + 1 != table.shape[1]:
        raise InputError(
            f"a position table of shape {tuple(table.shape)} does not fit; expected (1, g*g + 1, width), one class token"
        )
    return grid


def elastic_tables(table: Tensor, overrides: Mapping[str, Any]) -> dict[str, Tensor]:
    """One position table (1, g^2 + 1, D) interpolated to every grid size of the menu, under our names.

    The menu is `overrides["grid_sizes"]`, else the paper's in proportion to the table's own grid size, which is kept
    as it is. Interpolation is bicubic and antialiased.
    """
    native = grid_of_table(table)
    grids = overrides.get("grid_sizes") or scaled_grid_sizes(SuperViTConfig.grid_sizes, native)
    return {f"pos_embeds.{grid}": resample_abs_pos_embed(table.float(), [grid] * 2, [native] * 2).clone() for grid in grids}
