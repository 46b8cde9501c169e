"""Weights in files and directories: unwrapped from what training scripts put around them, and put together from shards."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from supervit.errors import InputError, printable
from supervit.files import read_object, refusing
from supervit.storage import CONFIG_FILE, WEIGHTS_FILE
from supervit.weights import check_tensors, read_pickle, read_safetensors

_CONTAINERS = ("state_dict_ema", "model_ema", "model", "state_dict")  # in training files, the best first
_ANCHORS = ("embeddings.cls_token", "cls_token", "embeddings.position_embeddings", "pos_embed")  # each there is once
_UNUSED = re.compile(r"(.*\.)?(pooler\.dense\.(weight|bias)|mask_token|position_ids|total_ops|total_params)")
_INDEX = ".index.json"
_IN_DIRECTORIES = (WEIGHTS_FILE, WEIGHTS_FILE + _INDEX, "pytorch_model.bin", "pytorch_model.bin" + _INDEX)
_MOST_SHARDS = 1000


@dataclass(frozen=True)
class Stored:
    """Weights of a file."""

    weights: dict[str, Tensor]
    said: tuple[str, ...] = ()
    """What is to be said: which of several weights in the file these are, where there are several."""


def find_weights(directory: Path) -> Path:
    """The file with the weights of a directory that timm or Hugging Face wrote, or the index of its shards.

    Raises:
        InputError: there is none.
    """
    for name in _IN_DIRECTORIES:
        if (directory / name).is_file():
            return directory / name
    raise InputError(
        f"cannot read {str(directory)!r} as a model: a directory needs {CONFIG_FILE} and one of {', '.join(_IN_DIRECTORIES)}"
    )


def read_weights(path: Path) -> Stored:
    """The weights in a file or in the shards that an index names.

    Raises:
        InputError: a file is damaged, not safe to load, holds no weights or such as are not usable.
    """
    if path.name.endswith(_INDEX):
        return Stored(_read_shards(path))
    if path.suffix == ".safetensors":
        return Stored(read_safetensors(path))
    content = read_pickle(path)
    found = [name for name in _CONTAINERS if isinstance(content, Mapping) and isinstance(content.get(name), Mapping)]
    weights = content[found[0]] if found else content
    if isinstance(weights, Mapping):  # an epoch, a date, arguments may lie between the tensors
        weights = {name: value for name, value in weights.items() if isinstance(name, str) and isinstance(value, Tensor)}
    if not isinstance(weights, Mapping) or not weights:  # of a bare tensor one may not ask
        raise InputError(
            f"{str(path)!r} holds no weights; expected tensors by name, directly or under {', '.join(_CONTAINERS)}"
        )
    check_tensors(weights, path)
    taken = (f"took the weights of {found[0]} (there is {', '.join(found[1:])} too)",) if len(found) > 1 else ()
    return Stored(dict(weights), taken)


def _read_shards(index: Path) -> dict[str, Tensor]:
    """The tensors that an index names, each from its file beside the index."""
    with refusing(f"{str(index)!r} is no index of weights", "download it again"):
        places = read_object(index).get("weight_map")
        if not isinstance(places, dict) or not places or not all(isinstance(file, str) for file in places.values()):
            raise InputError("it has no weight_map from names to files")
        files = sorted(set(places.values()))
        if len(files) > _MOST_SHARDS:
            raise InputError(f"{len(files)} files are more than {_MOST_SHARDS}")
        for file in files:
            if not re.fullmatch(r"[\w.-]+\.(safetensors|bin)", file):
                raise InputError(f"{printable(repr(file), 80)} is not the name of a weights file beside it")
    weights: dict[str, Tensor] = {}
    for file in files:
        if not (index.parent / file).is_file():
            raise InputError(f"{str(index.parent / file)!r}, which {index.name} names, is missing; download it again")
        weights |= read_weights(index.parent / file).weights
    if missing := [name for name in places if name not in weights]:
        raise InputError(f"the shards of {str(index)!r} lack {printable(missing[0], 100)}; download them again")
    return weights


def bare_names(weights: Mapping[str, Tensor], source: str) -> dict[str, Tensor]:
    """The weights of a ViT without what stands before its names, and without tensors that no answer depends on.

    What stands before the class token and the positions (`model.`, `vit.`, `module.backbone.`, ...) is taken off, from other
    names as much of it as they have: classifiers are often outside.

    Raises:
        InputError: there are several networks, or two tensors would have one name.
    """
    used = {name: value for name, value in weights.items() if not _UNUSED.fullmatch(name)}
    prefixes = sorted({prefix for name in used if (prefix := _before_anchor(name)) is not None})
    if len(prefixes) > 1:
        found = ", ".join(f"{prefix}*" for prefix in prefixes[:4])
        raise InputError(f"{source!r} holds several networks ({printable(found, 200)}); save the one that you mean by itself")
    parts = prefixes[0].split(".")[:-1] if prefixes else []
    bare: dict[str, Tensor] = {}
    for name, value in used.items():
        short = name
        for part in parts:
            short = short.removeprefix(f"{part}.")
        if short in bare:
            raise InputError(f"{source!r} holds two tensors that are {printable(short, 100)} of one network")
        bare[short] = value
    return bare


def _before_anchor(name: str) -> str | None:
    """What stands before the name of a class token or a position table; None for another tensor."""
    for anchor in _ANCHORS:
        if name == anchor or name.endswith(f".{anchor}"):
            return name[: len(name) - len(anchor)]
    return None


def check_floats(weights: Mapping[str, Any], source: str) -> None:
    """Refuse whole numbers, which no weights of a ViT are; batch norms count their batches in them."""
    for name, value in weights.items():
        if not value.is_floating_point() and not name.endswith("num_batches_tracked"):
            raise InputError(f"the weights of {source!r} cannot be used: {printable(name, 100)} is of type {value.dtype}")
