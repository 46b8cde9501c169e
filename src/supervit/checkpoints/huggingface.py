"""ViT weights with the names of Hugging Face's transformers: queries, keys and values apart."""

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from supervit.checkpoints._shapes import elastic_tables, infer_config
from supervit.config import SuperViTConfig
from supervit.errors import InputError

_POSITIONS = "embeddings.position_embeddings"
_RENAMES = (
    (r"^embeddings\.cls_token$", "cls_token"),
    (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"^encoder\.layer\.(\d+)\.attention\.output\.dense\.", r"blocks.\1.attn.proj."),
    (r"^encoder\.layer\.(\d+)\.layernorm_before\.", r"blocks.\1.norm1."),
    (r"^encoder\.layer\.(\d+)\.layernorm_after\.", r"blocks.\1.norm2."),
    (r"^encoder\.layer\.(\d+)\.intermediate\.dense\.", r"blocks.\1.mlp.fc1."),
    (r"^encoder\.layer\.(\d+)\.output\.dense\.", r"blocks.\1.mlp.fc2."),
    (r"^layernorm\.", "norm."),
    (r"^classifier\.", "head."),
)
_QUERY = re.compile(r"encoder\.layer\.(\d+)\.attention\.attention\.query\.(weight|bias)")


def matches(state_dict: Mapping[str, Tensor]) -> bool:
    """Whether the names are those of ViTModel or ViTForImageClassification."""
    return any(key.removeprefix("vit.") == _POSITIONS for key in state_dict)


def convert(state_dict: Mapping[str, Tensor], overrides: Mapping[str, Any]) -> tuple[SuperViTConfig, dict[str, Tensor]]:
    """Config and weights under our names, elastic, with query, key and value packed as one."""
    rest = {key.removeprefix("vit."): value for key, value in state_dict.items()}
    weights = elastic_tables(rest.pop(_POSITIONS), overrides)
    for key in [key for key in rest if _QUERY.fullmatch(key)]:
        block, kind = _QUERY.fullmatch(key).groups()  # type: ignore[union-attr]
        parts = [key.replace("query", part) for part in ("query", "key", "value")]
        if missing := [part for part in parts if part not in rest]:
            raise InputError(f"the weights lack {', '.join(missing)}, which every ViT has beside {key}")
        weights[f"blocks.{block}.attn.qkv.{kind}"] = torch.cat([rest.pop(part) for part in parts])
    for key, value in rest.items():
        for pattern, name in _RENAMES:
            key = re.sub(pattern, name, key)
        weights[key] = value
    return infer_config(weights, "deit", overrides), weights
