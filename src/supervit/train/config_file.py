"""The settings of a run in a file: what a run writes down as `train_config.json`, and what people write by hand (YAML)."""

import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from supervit.backbones import config_from_dict
from supervit.errors import InputError
from supervit.fields import from_plain, updated
from supervit.files import read_bounded, read_json, refusing, write_json
from supervit.plugins import check_named
from supervit.train.config import TrainConfig

CONFIG_FILE = "train_config.json"
_NOTES = ("recipe", "config", "versions", "command")
_MOST_YAML_BYTES = 2**20
_FLOAT = re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+$")  # which YAML 1.1 takes for a text


def write_config(directory: Path, config: TrainConfig, recipe: str | None) -> None:
    """Write down what a run does, as `CONFIG_FILE`: recipe, settings, versions and command line.

    Raises:
        InputError: it cannot be written.
    """
    settings = {key: value for key, value in config.to_dict().items() if key != "resume"}
    notes = (recipe, settings, versions(), list(sys.argv))
    write_json(directory / CONFIG_FILE, dict(zip(_NOTES, notes, strict=True)))


def versions() -> dict[str, str]:
    """What computes here: Python and the packages that results depend on."""
    import torch

    from supervit.evaluate import environment

    found: dict[str, str] = environment(torch.device("cpu"))["versions"]
    python = ".".join(map(str, sys.version_info[:3]))
    return {"python": python, **{name: str(version) for name, version in found.items()}}


def read_config(path: Path) -> tuple[str | None, dict[str, Any]]:
    """The recipe that a file names, if any, and its settings: plain values, nested as `TrainConfig` is, for `apply`.

    The file is a `train_config.json`; or YAML or JSON with the fields of `TrainConfig` that are to differ from the recipe's,
    and `recipe`. Paths in it are relative to the working directory.

    Raises:
        InputError: it cannot be read or is no such file.
    """
    fix = "give the train_config.json of a run, or YAML such as 'recipe: finetune' and 'epochs: 5'"
    with refusing(f"cannot read the settings in {str(path)!r}", fix):
        values = read_json(path) if path.suffix == ".json" else _read_yaml(path)
        if not isinstance(values, Mapping):
            raise InputError("it holds no object with names and values")
        recipe = values.get("recipe")
        if not isinstance(recipe, str | None):
            raise InputError("its recipe is no name")
        check_named(recipe)
        if "config" not in values:
            return recipe, _checked({name: value for name, value in values.items() if name != "recipe"})
        if not isinstance(values["config"], Mapping) or not set(values) <= set(_NOTES):
            raise InputError(f"beside its config there may be {', '.join(name for name in _NOTES if name != 'config')} alone")
        return recipe, _checked(dict(values["config"]))


def _checked(values: dict[str, Any]) -> dict[str, Any]:
    """The settings, whose plug-ins may be taken."""
    for part, names in {"model": ("family", "reducer"), "data": ("name",)}.items():
        inside = values.get(part)
        if isinstance(inside, Mapping):
            for name in names:
                check_named(inside.get(name))
    return values


def apply(config: TrainConfig, values: Mapping[str, Any]) -> TrainConfig:
    """The config with other settings, as from `read_config`.

    Raises:
        InputError: a setting that there is not (with the near names), or a value that it cannot have.
    """
    model = values.get("model")
    is_other_family = isinstance(model, Mapping) and model.get("family", config.model.family) != config.model.family
    return updated(config, _with_model(values) if is_other_family else values)


def from_values(values: Mapping[str, Any]) -> TrainConfig:
    """The config with these settings and no recipe's: a run's own, which are complete.

    Raises:
        InputError: as `apply`; or the model or the data are missing.
    """
    return from_plain(TrainConfig, _with_model(values))


def _with_model(values: Mapping[str, Any]) -> Mapping[str, Any]:
    """The settings with a model config of its own family, which may have fields of its own."""
    model = values.get("model")
    return {**values, "model": config_from_dict(dict(model))} if isinstance(model, Mapping) else values


def _read_yaml(path: Path) -> Any:
    try:
        import yaml
    except ImportError as error:
        raise InputError("YAML needs the package PyYAML: pip install pyyaml, or write JSON") from error

    class Loader(yaml.SafeLoader):
        def compose_node(self, parent: Any, index: Any) -> Any:
            if self.check_event(yaml.AliasEvent):  # a few lines of them make gigabytes
                raise yaml.YAMLError("aliases (*name) are not read; write the values out")
            return super().compose_node(parent, index)

    Loader.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+0123456789"))
    content = read_bounded(path, _MOST_YAML_BYTES)
    try:
        return yaml.load(content.decode(), Loader)
    except RecursionError as error:
        raise InputError("it is nested too deep to be read") from error
    except (yaml.YAMLError, ValueError) as error:
        raise InputError(f"it is not YAML: {' '.join(str(error).split())[:200]}") from error
