"""What timm and Hugging Face write beside weights: how images are prepared, heads, class names, pooling."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_type_hints

import timm
import torch

from supervit.config import SuperViTConfig
from supervit.errors import InputError, printable, warn_assumed
from supervit.fields import checked
from supervit.files import read_object, refusing
from supervit.storage import CONFIG_FILE

_PREPROCESSOR_FILE = "preprocessor_config.json"
_HINTS = get_type_hints(SuperViTConfig)
_TRANSFORMERS = {
    "embed_dim": "hidden_size",
    "depth": "num_hidden_layers",
    "patch_size": "patch_size",
    "in_chans": "num_channels",
    "num_heads": "num_attention_heads",
    "norm_eps": "layer_norm_eps",
}
_RESAMPLES = {0: "nearest", 2: "bilinear", 3: "bicubic"}  # Pillow's codes, as far as we have them
_POOLINGS = ("token", "", None)
_EXACT_GELU = ("gelu", "gelu_python")
_NAMED_BY_NOBODY = "LABEL_"  # what transformers calls classes without names


def read_beside(directory: Path, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of `SuperViTConfig` that files in a directory tell about the weights there; none where there are no such.

    Args:
        directory: Folder of the weights: timm's `config.json`, or Hugging Face's with `preprocessor_config.json`.
        overrides: Fields that the user gives; they are not looked up, so what is said of them need not be usable.

    Raises:
        InputError: a file is damaged, or says of the network or of the images what SuperViT does not have.
    """
    told: dict[str, Any] = {}
    for name, read in ((CONFIG_FILE, _of_config), (_PREPROCESSOR_FILE, _of_preprocessor)):
        path = directory / name
        if not path.is_file():
            continue
        with refusing(f"cannot use {str(path)!r} beside the weights", "mend it, move it away, or pass the field yourself"):
            found = {key: value for key, value in read(read_object(path)).items() if key not in overrides}
            told |= {key: checked(_HINTS[key], value, key) for key, value in found.items()}
    return told


def _of_config(values: Mapping[str, Any]) -> dict[str, Any]:
    if isinstance(values.get("architecture"), str):
        return _of_timm(values)
    return _of_transformers(values) if "hidden_size" in values else {}


# --- timm -----------------------------------------------------------------------------------------------------------


def _of_timm(values: Mapping[str, Any]) -> dict[str, Any]:
    settings = {**values, **_mapping(values.get("pretrained_cfg"))}
    arguments = _mapping(values.get("model_args"))
    network = _timm_network(settings["architecture"])
    for pooling in (values.get("global_pool"), arguments.get("global_pool", network.get("global_pool"))):
        _check_pooling(pooling)
    _check_activation(arguments.get("act_layer", network.get("act_layer", "gelu")))
    told = {name: settings[name] for name in ("mean", "std", "crop_pct", "interpolation") if settings.get(name) is not None}
    if settings.get("crop_mode", "center") not in (None, "center"):
        _warn_other_crop(f"{CONFIG_FILE} says crop_mode {settings['crop_mode']!r}")
    told |= {name: value for name, value in {**network, **arguments}.items() if name in ("num_heads", "norm_eps")}
    if "num_features" in values:
        told["embed_dim"] = values["num_features"]
    names = settings.get("label_names")
    if isinstance(names, list | tuple) and names:
        told["class_names"] = tuple(map(str, names))
    return told


def _timm_network(architecture: str) -> dict[str, Any]:
    """What the code of a model of timm tells and its weights do not; empty where it is no vision transformer of timm."""
    name = architecture.partition(".")[0]
    if not timm.is_model(name):
        return {}
    try:
        with torch.device("meta"):
            network = timm.create_model(name, depth=1)
    except Exception:  # a network of another kind, each with its own answer to a depth
        return {}
    if not isinstance(network, timm.models.VisionTransformer):
        return {}
    block = network.blocks[0]
    found = {
        "num_heads": getattr(getattr(block, "attn", None), "num_heads", None),
        "norm_eps": getattr(network.norm, "eps", None),
    }
    found = {name: value for name, value in found.items() if value is not None}
    activation = type(getattr(getattr(block, "mlp", None), "act", None)).__name__
    named = {} if activation == "NoneType" else {"act_layer": "gelu" if activation == "GELU" else activation}
    return {**found, **named, "global_pool": network.global_pool}


# --- transformers ---------------------------------------------------------------------------------------------------


def _of_transformers(values: Mapping[str, Any]) -> dict[str, Any]:
    _check_activation(values.get("hidden_act", "gelu"))
    told = {ours: values[theirs] for ours, theirs in _TRANSFORMERS.items() if theirs in values}
    labels = _mapping(values.get("id2label"))
    numbers = {str(number): str(name) for number, name in labels.items()}
    names = [numbers.get(str(number)) for number in range(len(numbers))]
    if None not in names and not all(str(name).startswith(_NAMED_BY_NOBODY) for name in names):
        told["class_names"] = tuple(names)
    return told


def _of_preprocessor(values: Mapping[str, Any]) -> dict[str, Any]:
    told: dict[str, Any] = {}
    if values.get("do_normalize", True):
        told = {ours: values[theirs] for ours, theirs in (("mean", "image_mean"), ("std", "image_std")) if theirs in values}
    else:
        told = {"mean": (0.0,) * 3, "std": (1.0,) * 3}
    scale = values.get("rescale_factor", 1 / 255) if values.get("do_rescale", True) else 1
    if not (isinstance(scale, int | float) and math.isclose(scale, 1 / 255, rel_tol=1e-3)) or values.get("offset"):
        raise InputError(f"rescale_factor {printable(repr(scale), 40)}: pixels are scaled by 1/255 here")
    if "resample" in values:
        code = values["resample"]
        known = _RESAMPLES.get(code) if isinstance(code, int) else None
        told["interpolation"] = known or f"Pillow's code {printable(repr(code), 40)}"
    return told | _crop(values)


def _crop(values: Mapping[str, Any]) -> dict[str, Any]:
    """Image size / size of the resized side: what is cut off; without a crop nothing is, of square images."""
    if isinstance(values.get("crop_pct"), int | float):
        return {"crop_pct": values["crop_pct"]}
    size = _side(values.get("size"))
    if size is None:
        return {}
    if not values.get("do_center_crop"):
        _warn_other_crop(f"{_PREPROCESSOR_FILE} resizes both sides of a picture")
        return {"crop_pct": 1.0}
    crop = _side(values.get("crop_size"))
    return {} if crop is None else {"crop_pct": crop / size}


def _warn_other_crop(what: str) -> None:
    warn_assumed(f"{what}; here the shorter side is resized and the centre cut out: the same for square pictures alone")


def _side(value: Any) -> float | None:
    """The shorter side that a size means: a number, or an object with the sides or the shortest of them."""
    sides = (
        [value[name] for name in ("shortest_edge", "height", "width") if name in value]
        if isinstance(value, Mapping)
        else [value]
    )
    numbers = [side for side in sides if isinstance(side, int | float) and 0 < side < 2**31]
    return min(numbers) if numbers and len(numbers) == len(sides) else None


# --- both -----------------------------------------------------------------------------------------------------------


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _check_pooling(pooling: Any) -> None:
    if pooling not in _POOLINGS:
        raise InputError(f"its pooling {printable(repr(pooling), 40)} is not available; SuperViT pools the class token")


def _check_activation(name: Any) -> None:
    if name not in _EXACT_GELU:
        raise InputError(f"its activation {printable(repr(name), 40)} is not available; SuperViT has the exact GELU, 'gelu'")
