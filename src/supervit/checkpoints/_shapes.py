"""What the shapes of weights tell about a model."""

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

from timm.layers import resample_abs_pos_embed
from torch import Tensor

from supervit.backbones import load_family, scaled_grid_sizes
from supervit.complexity import grid_of, grid_text, sides
from supervit.config import SuperViTConfig
from supervit.errors import InputError, printable

_NUMBER = r"(0|[1-9]\d{0,4})"
_NUMBERED = {
    "blocks.": re.compile(rf"blocks\.{_NUMBER}\..+"),
    "pos_embeds.": re.compile(rf"pos_embeds\.{_NUMBER}(x{_NUMBER})?"),
}
_RANKS = {
    "patch_embed.proj.weight": 4,
    "patch_embed.conv1.weight": 4,
    "blocks.0.mlp.fc1.weight": 2,
    "head.weight": 2,
}
_REASONS = {  # parts of names that only networks of another kind have
    r"dist(illation)?_token|head_dist|distillation_classifier": "it is distilled: its second token and classifier are not ours",
    r"reg(ister)?_tokens?$": "it has register tokens",
    r"(^|\.)fc_norm\.": "it pools the patches' average (fc_norm), not the class token",
    r"attn_pool\.|head\.probe$": "it pools by attention, as SigLIP does, not the class token",
    r"(^|\.)(ls[12]\.gamma|gamma_[12]|layer_scale[12]?\.)": "it has layer scales",
    r"relative_position_bias": "it has relative positions",
    r"(^|\.)(q|k)_norm\.": "it normalises queries and keys",
    r"(^|\.)(norm_pre|pre_layrnorm)\.": "it has a norm before the blocks, as CLIP's",
    r"mlp\.(w12|fc1_g|w1)\.": "it has a gated FFN",
}


def check_kind(names: Iterable[str]) -> None:
    """Refuse, by the names of its weights, a ViT that SuperViT cannot be.

    Raises:
        InputError: it has parts that SuperViT has not; the tensor and the reason are named.
    """
    for name in names:
        for part, reason in _REASONS.items():
            if re.search(part, name):
                raise InputError(f"{printable(name, 100)} is not of a plain ViT: {reason}; use a plain ViT or DeiT")


def infer_config(weights: Mapping[str, Tensor], family: str, overrides: Mapping[str, Any]) -> SuperViTConfig:
    """The config of weights under our names; `overrides` go first.

    Raises:
        InputError: weights that every model has are missing or of shapes that none has, or the number of heads cannot be
            told.
    """
    for name in weights:
        for prefix, form in _NUMBERED.items():
            if name.startswith(prefix) and not form.fullmatch(name):
                raise InputError(f"{printable(name, 100)} is no name of a {family} model's weights; expected {prefix}NUMBER")
    for name, rank in _RANKS.items():
        if name in weights and (weights[name].ndim != rank or 0 in weights[name].shape):
            raise InputError(
                f"{name} {tuple(weights[name].shape)} is not usable; it must have {rank} dimensions, none of them 0"
            )
    try:
        return _infer(weights, family, overrides)
    except KeyError as error:
        raise InputError(f"the weights lack {error.args[0]!r}, which every {family} model has") from error


def _infer(weights: Mapping[str, Tensor], family: str, overrides: Mapping[str, Any]) -> SuperViTConfig:
    module = load_family(family)
    patch_weight = weights["patch_embed.proj.weight"]
    embed_dim, channels, height, patch = patch_weight.shape
    if height != patch:
        raise InputError(f"patch_embed.proj.weight {tuple(patch_weight.shape)} has patches that are not square")
    told: dict[str, Any] = {
        "family": family,
        "embed_dim": embed_dim,
        "depth": len({key.split(".")[1] for key in weights if key.startswith("blocks.")}),
        "mlp_ratio": weights["blocks.0.mlp.fc1.weight"].shape[0] / embed_dim,
        "qkv_bias": "blocks.0.attn.qkv.bias" in weights,
        "num_classes": weights["head.weight"].shape[0] if "head.weight" in weights else 0,
        "class_token": "cls_token" in weights,
        "reg_tokens": weights["reg_token"].shape[1] if "reg_token" in weights else 0,
        "fc_norm": "fc_norm.weight" in weights,
        "grid_sizes": tuple(grid_of(key.split(".")[1]) for key in weights if key.startswith("pos_embeds.")),
    }
    if "patch_embed.conv1.weight" in weights:
        stem = weights["patch_embed.conv1.weight"]
        told |= {"stem_channels": stem.shape[0], "in_chans": stem.shape[1], "patch_size": 2 * patch}
    else:
        told |= {"in_chans": channels, "patch_size": patch}
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
    grid = math.isqrt(max(table.shape[1] - 1, 0)) if table.ndim == 3 and table.shape[0] == 1 else 0
    if grid < 2 or grid**2 + 1 != table.shape[1]:
        raise InputError(
            f"a position table of shape {tuple(table.shape)} does not fit; expected (1, g*g + 1, width), one class token"
        )
    return grid


def elastic(
    weights: Mapping[str, Tensor], table: Tensor, overrides: Mapping[str, Any]
) -> tuple[SuperViTConfig, dict[str, Tensor]]:
    """Config and weights of a plain ViT under our names, its position table interpolated to every grid size of the menu.

    The menu is `overrides["grid_sizes"]`, else the paper's in proportion to the table's own grid size, which is kept
    as it is. Interpolation is bicubic and antialiased.

    Args:
        weights: Weights under our names, without positions.
        table: Position table (1, g^2 + 1, D).
        overrides: Fields of the config, which go before what the shapes tell.

    Raises:
        InputError: as of `check_kind`, `infer_config` and `grid_of_table`.
    """
    check_kind(weights)
    if "cls_token" not in weights:
        raise InputError("the weights lack 'cls_token', by whose attention SuperViT ranks the patches; use a plain ViT or DeiT")
    native = grid_of_table(table)
    menu = overrides.get("grid_sizes") or scaled_grid_sizes(SuperViTConfig.grid_sizes, native)
    config = infer_config(weights, "deit", {**overrides, "grid_sizes": menu})
    if table.shape[2] != config.embed_dim:
        raise InputError(f"a position table of shape {tuple(table.shape)} does not fit the width {config.embed_dim}")
    tables = {
        f"pos_embeds.{grid_text(grid)}": resample_abs_pos_embed(table.float(), list(sides(grid)), [native] * 2).clone()
        for grid in config.grid_sizes
    }
    return config, {**weights, **tables}
