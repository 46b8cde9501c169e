"""Weights from files: our own directories and the formats that others write.

A source file of this package knows one format, found by its name:

- `matches(state_dict)`: whether these names are of the format;
- `convert(state_dict, overrides)`: the config that the shapes tell, and the weights under our names.
"""

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from supervit.errors import InputError, reason_of
from supervit.model import SuperViT
from supervit.plugins import load_plugin, plugin_names
from supervit.storage import WEIGHTS_FILE, is_artefact, load_state_dict, read_config, read_safetensors

_CONTAINERS = ("state_dict_ema", "model", "state_dict")  # what a training file calls its weights, the preferred first


def load(source: str | Path, **overrides: Any) -> SuperViT:
    """A model with the weights of a file or directory, in evaluation mode.

    Args:
        source: A directory that `model.save` wrote; or a `.safetensors`, `.pth`, `.pt`, `.bin` or `.tar` file: the released
            SuperViT files of both families, DeiT/ViT weights with timm's or Hugging Face's names. Weights with one
            position table become elastic: it is interpolated to every grid size of the menu.
        overrides: Fields of `SuperViTConfig` that a file cannot tell, such as `num_heads=3`, `mean`, `std`, `crop_pct`, or
            that should differ, such as `grid_sizes`. Heads default to those of the known variant of that width, else
            to 64 channels a head.

    Raises:
        InputError: no such file, a damaged or unsafe file, an unknown format, or weights that do not fit (all missing,
            unexpected and misshapen names are listed).
    """
    path = Path(source)
    if is_artefact(path):
        raise InputError(
            f"{str(source)!r} was written by supervit export for another runtime and cannot be loaded as a model; "
            "give the model that it was exported from, or open it with supervit.runtimes.open_artefact"
        )
    if path.is_dir():
        return SuperViT.from_pretrained(path, **overrides)
    if not path.is_file():
        raise InputError(f"no such file or directory: {str(source)!r} (for a hub repository use SuperViT.from_pretrained)")
    if path.name == WEIGHTS_FILE and _has_our_config(path.parent):
        return SuperViT.from_pretrained(path.parent, **overrides)
    state_dict = read_state_dict(path)
    known = plugin_names(sys.modules[__name__])
    for name in known:
        plugin = load_plugin(sys.modules[__name__], name)
        if plugin.matches(state_dict):
            config, weights = plugin.convert(state_dict, overrides)
            model = SuperViT(config)
            load_state_dict(model, weights, str(source))
            return model.eval()
    names = ", ".join(sorted(state_dict)[:4])
    raise InputError(f"the weights of {str(source)!r} ({names}, ...) are of no known format; known: {', '.join(known)}")


def _has_our_config(directory: Path) -> bool:
    try:
        return bool(read_config(directory))
    except InputError:
        return False


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """The weights in a file, unwrapped from what training scripts put around them.

    Nothing in the file is executed: pickles are read with `weights_only=True`, and of all other classes only
    `argparse.Namespace` is admitted, which the released files carry their arguments in.

    Raises:
        InputError: the file is damaged, not safe to load, or holds no weights.
    """
    content = read_safetensors(path) if path.suffix == ".safetensors" else _read_pickle(path)
    for container in _CONTAINERS:
        if isinstance(content, Mapping) and isinstance(content.get(container), Mapping):
            content = content[container]
            break
    if not isinstance(content, Mapping) or not content or not all(isinstance(v, Tensor) for v in content.values()):
        raise InputError(
            f"{str(path)!r} holds no weights; expected tensors by name, directly or under {', '.join(_CONTAINERS)}"
        )
    return {str(key).removeprefix("module."): value for key, value in content.items()}


def _read_pickle(path: Path) -> Any:
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # an unpickler that is fed garbage raises nearly anything
        raise InputError(
            f"{str(path)!r} is damaged or not safe to load ({reason_of(error)}); re-save its weights as safetensors"
        ) from error
