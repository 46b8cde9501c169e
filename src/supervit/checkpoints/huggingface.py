"""ViT weights with the names of Hugging Face's transformers: queries, keys and values apart."""

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from supervit.checkpoints._shapes import elastic
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
    return _POSITIONS in state_dict


def convert(state_dict: Mapping[str, Tensor], overrides: Mapping[str, Any]) -> tuple[SuperViTConfig, dict[str, Tensor]]:
    """Config and weights under our names, elastic, with query, key and value packed as one."""
    rest = dict(state_dict)
    table = rest.pop(_POSITIONS)
    weights = {}
    for key in [key for key in rest if _QUERY.fullmatch(key)]:
        block, kind = _QUERY.fullmatch(key).groups()  # type: ignore[union-attr]
        parts = [key.replace("query", part) for part in ("query", "key", "value")]
        if missing := [part for part in parts if part not in rest]:
            raise InputError(f"the weights lack {', '.join(missing)}, which every ViT has beside {key}")
        shapes = {tuple(rest[part].shape) for part in parts}
        if len(shapes) > 1 or not rest[key].ndim:
            raise InputError(
                f"{key}, its key and value have shapes {sorted(shapes)}; expected one shape with 1 or 2 dimensions"
            )
        weights[f"blocks.{block}.attn.qkv.{kind}"] = torch.cat([rest.pop(part) for part in parts])
    for key, value in rest.items():
        for pattern, name in _RENAMES:
            key = re.sub(pattern, name, key)
        weights[key] = value
    return elastic(weights, table, overrides)
