"""Our own model directory: `model.safetensors` and `config.json`."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from supervit.errors import InputError, reason_of
from supervit.files import make_directory, read_object, refusing, whole_file, write_json

CONFIG_FILE = "config.json"
EXPORT_FILE = "export.json"
WEIGHTS_FILE = "model.safetensors"
_MOST_NAMES = 8  # names listed in an error before the rest is counted


def is_artefact(path: Path) -> bool:
    """Whether a directory was written by `supervit export`."""
    return (path / EXPORT_FILE).is_file()


def write_model(directory: Path, config: Mapping[str, Any], state_dict: Mapping[str, Tensor]) -> None:
    """Write weights and config, each whole or not at all.

    Raises:
        InputError: the directory cannot be written.
    """
    make_directory(directory)
    try:
        with whole_file(directory / WEIGHTS_FILE) as temporary:
            safetensors.torch.save_file({key: tensor.contiguous() for key, tensor in state_dict.items()}, temporary)
    except safetensors.SafetensorError as error:  # its own word for a full disk
        raise InputError(
            f"cannot write {str(directory / WEIGHTS_FILE)!r} ({reason_of(error)}); make room or name another"
        ) from error
    write_json(directory / CONFIG_FILE, dict(config))


def read_config(directory: Path) -> dict[str, Any]:
    """The content of a directory's `config.json`.

    Raises:
        InputError: the file is missing or is not a JSON object.
    """
    path = directory / CONFIG_FILE
    fix = f"a model directory has {CONFIG_FILE} and {WEIGHTS_FILE}: convert or download the model again"
    with refusing(f"cannot read {str(path)!r}", fix):
        values = read_object(path)
    if "family" not in values:
        raise InputError(f"{str(path)!r} is not a SuperViT config; to load another ViT, name its weights file instead")
    return values


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file.

    Raises:
        InputError: the file is missing or is not safetensors.
    """
    try:
        return safetensors.torch.load_file(path)
    except (OSError, safetensors.SafetensorError) as error:
        raise InputError(f"{str(path)!r} cannot be read as safetensors ({error}); download or convert it again") from error


def fingerprint(config: Mapping[str, Any], state_dict: Mapping[str, Tensor]) -> str:
    """16 hex digits that name a model: its config and all its weights, whatever the device."""
    digest = hashlib.sha256(json.dumps(dict(config), sort_keys=True).encode())
    for name, tensor in sorted(state_dict.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def load_state_dict(model: nn.Module, state_dict: Mapping[str, Tensor], source: str) -> None:
    """Load weights that must fit exactly; missing, unexpected and misshapen ones are listed and refused.

    Args:
        model: The model to fill.
        state_dict: Weights by name.
        source: Where they come from, for the error.

    Raises:
        InputError: names or shapes differ; the model is unchanged.
    """
    own = model.state_dict()
    problems = {
        "missing": [key for key in own if key not in state_dict],
        "unexpected": [key for key in state_dict if key not in own],
        "of another shape": [
            f"{key} {tuple(state_dict[key].shape)} instead of {tuple(own[key].shape)}"
            for key in own
            if key in state_dict and state_dict[key].shape != own[key].shape
        ],
    }
    found = [f"{len(names)} {kind}: {_listed(names)}" for kind, names in problems.items() if names]
    if found:
        raise InputError(f"the weights of {source!r} do not fit the model; " + "; ".join(found))
    model.load_state_dict(state_dict)


def _listed(names: list[str]) -> str:
    rest = len(names) - _MOST_NAMES
    return ", ".join(names[:_MOST_NAMES]) + (f" and {rest} more" if rest > 0 else "")
