"""Our own model directory: `model.safetensors` and `config.json`."""

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from supervit.config import SuperViTConfig
from supervit.errors import InputError, reason_of, warn_assumed
from supervit.files import check_name, make_directory, read_object, refusing, whole_file, write_json

CONFIG_FILE = "config.json"
EXPORT_FILE = "export.json"
WEIGHTS_FILE = "model.safetensors"
MODEL_DIRECTORY = "model"  # of a run
_FIRST_CONVOLUTIONS = ("patch_embed.conv1.weight", "patch_embed.proj.weight")
Filled = TypeVar("Filled", bound=nn.Module)

_OF_REDUCERS = re.compile(r"^blocks\.\d+\.reducer\.")
_MOST_NAMES = 8  # names listed in an error before the rest is counted


def is_artefact(path: Path) -> bool:
    """Whether a directory was written by `supervit export`."""
    return (path / EXPORT_FILE).is_file()


def of_run(path: Path) -> Path:
    """The model in the directory of a run, RUN/model, where the path is that of a run; else the path itself.

    Raises:
        InputError: the run has not ended; names its newest checkpoint. Or no path can have this name.
    """
    check_name(path)
    if not path.is_dir() or (path / CONFIG_FILE).exists():
        return path
    if (path / MODEL_DIRECTORY / CONFIG_FILE).is_file():
        return path / MODEL_DIRECTORY
    if unfinished := sorted((path / "checkpoints").glob("step-*")):
        raise InputError(
            f"the run in {str(path)!r} has not ended, so there is no model yet; go on with --resume, or take its newest "
            f"checkpoint, {str(unfinished[-1])!r}"
        )
    return path


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
        raise InputError(f"{str(path)!r} is not a SuperViT config; supervit.load takes directories of other ViTs")
    return values


def fingerprint(config: Mapping[str, Any], state_dict: Mapping[str, Tensor]) -> str:
    """16 hex digits that name a model: its config and all its weights, whatever the device."""
    digest = hashlib.sha256(json.dumps(dict(config), sort_keys=True).encode())
    for name, tensor in sorted(state_dict.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def load_state_dict(model: nn.Module, state_dict: Mapping[str, Tensor], source: str) -> None:
    """Load weights that must fit exactly. Arguments and errors as of `check_state_dict`; the model is then unchanged."""
    check_state_dict(model, state_dict, source)
    model.load_state_dict(state_dict)


def filled(build: Callable[[], Filled], state_dict: Mapping[str, Tensor], source: str, least: int) -> Filled:
    """A model that weights fill exactly, in evaluation mode; no memory is taken before it is known that they do.

    Args:
        build: Makes the model; it is called on the device `meta`.
        state_dict: Weights by name.
        source: Where they come from, for the error.
        least: Tensors that the model has at least: with fewer it is not even built.

    The parameters of learned reducers may be missing, all of them: they start fresh, which an `AssumptionWarning` says.

    Raises:
        InputError: as of `check_state_dict`.
    """
    if least > len(state_dict):
        raise InputError(
            f"the weights of {source!r} do not fit the model; {len(state_dict)} tensors are too few for its blocks and grid "
            f"sizes, {least}"
        )
    with torch.device("meta"):
        model = build()
    fresh = {key: tensor for key, tensor in model.state_dict().items() if _OF_REDUCERS.search(key)}
    if not fresh or any(key in state_dict for key in fresh):
        check_state_dict(model, state_dict, source)
        model.to_empty(device=torch.get_default_device())
        model.load_state_dict(state_dict)
        return model.eval()
    check_state_dict(model, {**state_dict, **fresh}, source)
    model = build()
    model.load_state_dict(state_dict, strict=False)
    warn_assumed(
        f"the weights of {source!r} have none of the reducers, {len(fresh)} tensors, which start fresh; train the model"
    )
    return model.eval()


def check_state_dict(model: nn.Module, state_dict: Mapping[str, Tensor], source: str) -> None:
    """Refuse weights that do not fit exactly; missing, unexpected and misshapen ones are listed.

    Args:
        model: The model to fill, which may be on the device `meta`.
        state_dict: Weights by name.
        source: Where they come from, for the error.

    Raises:
        InputError: names, shapes or kinds of numbers differ.
    """
    own = model.state_dict()
    both = [key for key in own if key in state_dict]
    problems = {
        "missing": [key for key in own if key not in state_dict],
        "unexpected": [key for key in state_dict if key not in own],
        "of another shape": [
            f"{key} {tuple(state_dict[key].shape)} instead of {tuple(own[key].shape)}"
            for key in both
            if state_dict[key].shape != own[key].shape
        ],
        "of another type": [
            f"{key} {state_dict[key].dtype} instead of {own[key].dtype}"
            for key in both
            if state_dict[key].is_floating_point() != own[key].is_floating_point()
        ],
    }
    found = [f"{len(names)} {kind}: {_listed(names)}" for kind, names in problems.items() if names]
    if found:
        raise InputError(f"the weights of {source!r} do not fit the model; " + "; ".join(found))


def override(
    config: SuperViTConfig, state_dict: Mapping[str, Tensor], overrides: Mapping[str, Any], source: str
) -> tuple[SuperViTConfig, Mapping[str, Tensor]]:
    """Config and weights with other values of some fields; with other channels (`in_chans`) weights for these.

    Args:
        config: Of the weights.
        state_dict: Weights with our names.
        overrides: Fields of the config that should differ.
        source: Where the weights come from, for the error.

    Raises:
        InputError: a field that there is not, a value that does not fit, or weights that are for other than 3 channels and
            cannot be made others.
    """
    if "in_chans" in overrides:
        config = config.with_channels(overrides["in_chans"])
        state_dict = _adapt_channels(state_dict, config.in_chans, source)
    return config.replace(**overrides), state_dict


def _adapt_channels(state_dict: Mapping[str, Tensor], in_chans: int, source: str) -> Mapping[str, Tensor]:
    """The weights as timm makes them for other channels: the first convolution summed over these (to grey) or repeated."""
    first = next((key for key in _FIRST_CONVOLUTIONS if key in state_dict), None)
    if first is None or state_dict[first].ndim != 4 or state_dict[first].shape[1] == in_chans:
        return state_dict
    if state_dict[first].shape[1] != 3:
        raise InputError(
            f"the weights of {source!r} are for {state_dict[first].shape[1]} channels and cannot be made ones for {in_chans}; "
            "only those for RGB can: leave in_chans out"
        )
    from timm.models import adapt_input_conv

    return {**state_dict, first: adapt_input_conv(in_chans, state_dict[first])}


def _listed(names: list[str]) -> str:
    rest = len(names) - _MOST_NAMES
    return ", ".join(names[:_MOST_NAMES]) + (f" and {rest} more" if rest > 0 else "")
