"""Weights from files: our own directories and the formats that others write.

A source file of this package knows one format, found by its name:

- `matches(state_dict)`: whether these names are of the format;
- `convert(state_dict, overrides)`: the config that the shapes tell, and the weights under our names.
"""

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import Tensor

from supervit.checkpoints import native
from supervit.checkpoints._beside import read_beside
from supervit.checkpoints._files import bare_names, check_floats, find_weights, read_weights
from supervit.checkpoints._shapes import check_kind
from supervit.config import SuperViTConfig
from supervit.errors import InputError, printable, warn_assumed
from supervit.files import refusing
from supervit.model import SuperViT
from supervit.plugins import load_plugin, plugin_names
from supervit.storage import CONFIG_FILE, WEIGHTS_FILE, is_artefact, of_run, override, read_config

_SIZES = ("embed_dim", "depth", "patch_size", "in_chans")  # which weights tell, and files beside them too
_OF_CHANNELS = ("in_chans", "mean", "std")  # applied to the config of weights as they are
_ASSUMED = ("mean", "std", "crop_pct", "interpolation", "num_heads")  # answers depend on them, weights do not tell


def load(source: str | Path, **overrides: Any) -> SuperViT:
    """A model with the weights of a file or directory, in evaluation mode.

    Args:
        source: A directory that `model.save` wrote, that of a training run (its `model/` is meant), or one with weights and
            `config.json` of timm or Hugging Face; or a `.safetensors`, `.pth`, `.pt`, `.bin` or `.tar` file or the index of a
            sharded one: the released SuperViT files of both families, DeiT/ViT weights with timm's or Hugging Face's names,
            whatever stands before them (`model.`, `module.`, ...). Weights with one position table become elastic: it is
            interpolated to every grid size of the menu. Of several weights in a file the averaged ones are taken
            (state_dict_ema, model_ema, model, state_dict).
        overrides: Fields of `SuperViTConfig` that should differ from what the files tell, or that they cannot tell, such as
            `num_heads=3`, `mean`, `std`, `crop_pct`. They go before the `config.json` and `preprocessor_config.json` beside
            the weights. What nothing says is assumed, with an `AssumptionWarning`: ImageNet's normalisation, and the
            heads of the known variant of that width, else 64 channels a head. `in_chans` makes weights for RGB ones for
            grey images or for others.

    Raises:
        InputError: no such file, a run that has not ended, a damaged or unsafe file, an unknown format, a ViT of another kind,
            weights that are not finite, or that do not fit (all missing, unexpected and misshapen names are listed).
    """
    path = of_run(Path(source))
    if is_artefact(path):
        raise InputError(
            f"{str(source)!r} was written by supervit export for another runtime and cannot be loaded as a model; "
            "give the model that it was exported from, or open it with supervit.runtimes.open_artefact"
        )
    if is_ours(path):
        return SuperViT.from_pretrained(path if path.is_dir() else path.parent, **overrides)
    if path.is_dir():
        path = find_weights(path)
    if not path.is_file():
        raise InputError(f"no such file or directory: {str(source)!r} (for a hub repository use SuperViT.from_pretrained)")
    return _load_foreign(path, overrides)


def is_ours(source: str | Path) -> bool:
    """Whether a directory, or its `model.safetensors`, was written by `model.save`: its `config.json` is ours."""
    path = of_run(Path(source))
    directory = path if path.is_dir() else path.parent
    if not (path.is_dir() or path.name == WEIGHTS_FILE):
        return False
    try:
        return bool(read_config(directory))
    except InputError:
        return False


def _load_foreign(path: Path, overrides: dict[str, Any]) -> SuperViT:
    stored = read_weights(path)
    weights = bare_names(stored.weights, str(path))
    check_floats(weights, str(path))
    plugin = _plugin_for(weights, path)
    if plugin is native and path.name == WEIGHTS_FILE and (path.parent / CONFIG_FILE).exists():
        read_config(path.parent)  # should be ours: says why it is not
    beside = read_beside(path.parent, overrides)
    sizes = {name: beside.pop(name) for name in _SIZES if name in beside}
    of_channels = {name: overrides.pop(name) for name in _OF_CHANNELS if name in overrides}
    with refusing(f"the weights of {str(path)!r} cannot be used", f"see what is passed or in {CONFIG_FILE} beside them"):
        config, weights = plugin.convert(weights, {**beside, **overrides})
    for name, value in sizes.items():
        if getattr(config, name) != value:
            raise InputError(
                f"{str(path.parent / CONFIG_FILE)!r} is not of these weights: it says {name} {value}, they have "
                f"{getattr(config, name)}; download both again, or move it away"
            )
    model = SuperViT.of_weights(*override(config, weights, of_channels, str(path)), str(path))
    _say(path, [*stored.said, *_assumed(model.config, {**beside, **overrides, **of_channels})])
    return model


def _plugin_for(weights: dict[str, Tensor], path: Path) -> ModuleType:
    """The format whose names the weights have."""
    known = plugin_names(sys.modules[__name__])
    for name in known:
        plugin = load_plugin(sys.modules[__name__], name)
        if plugin.matches(weights):
            return plugin
    check_kind(weights)
    names = printable(", ".join(sorted(weights)[:4]), 200)
    raise InputError(f"the weights of {str(path)!r} ({names}, ...) are of no known format; known: {', '.join(known)}")


def _assumed(config: SuperViTConfig, told: Mapping[str, Any]) -> list[str]:
    """What is to be said of values that nothing tells."""
    assumed = [f"{name}={getattr(config, name)!r}" for name in _ASSUMED if name not in told]
    return assumed and [
        f"nothing says how it was trained: assumed {', '.join(assumed)}; "
        "pass what differs, such as --mean 0.5 0.5 0.5 (in training --model.mean)"
    ]


def _say(path: Path, said: Sequence[str]) -> None:
    if said:
        warn_assumed(f"{str(path)!r}: {'; '.join(said)}")


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """The weights of any network in a file, without what stands before all of their names; nothing in the file is executed.

    Of several weights the averaged ones are taken, with an `AssumptionWarning`.

    Raises:
        InputError: the file is damaged, not safe to load, holds no weights or such as are not finite.
    """
    stored = read_weights(path)
    _say(path, stored.said)
    wrapper = os.path.commonprefix([*stored.weights]).rpartition(".")[0]  # noqa: RUF071, the dot ends a part
    return {name.removeprefix(f"{wrapper}."): value for name, value in stored.weights.items()}
