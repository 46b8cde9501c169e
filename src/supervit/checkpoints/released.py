"""The released SuperViT files of both families: one position table per grid size, in a list."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from supervit.checkpoints._shapes import grid_of_table, infer_config
from supervit.checkpoints.native import family_of
from supervit.config import SuperViTConfig

_TABLES = "pos_embed_list."


def matches(state_dict: Mapping[str, Tensor]) -> bool:
    """Whether the names are the released ones."""
    return any(key.startswith(_TABLES) for key in state_dict)


def convert(state_dict: Mapping[str, Tensor], overrides: Mapping[str, Any]) -> tuple[SuperViTConfig, dict[str, Tensor]]:
    """Config and weights under our names; only the position tables are called otherwise."""
    weights = {
        f"pos_embeds.{grid_of_table(value)}" if key.startswith(_TABLES) else key: value for key, value in state_dict.items()
    }
    return infer_config(weights, family_of(weights), overrides), weights
