"""`supervit train [RECIPE] --config FILE`: what flags say goes before what the file says, and that before the recipe."""

from collections.abc import Sequence
from pathlib import Path

from supervit.errors import InputError
from supervit.files import refusing
from supervit.recipes import load_recipe
from supervit.train import TrainConfig
from supervit.train.config_file import apply, from_values, read_config

_FLAG = "--config"


def names_settings(arguments: Sequence[str]) -> bool:
    """Whether a command line names a file of settings."""
    return any(map(_is_flag, arguments))


def open_settings(arguments: Sequence[str]) -> tuple[str | None, TrainConfig, list[str]]:
    """The name of the recipe, if any, the config with the settings of the file, and the arguments that go before them.

    Args:
        arguments: Those of `supervit train`; the recipe comes first, where the file does not name it or another is wanted.

    Raises:
        InputError: the file cannot be read, or has settings that there are not.
    """
    given, rest = [index for index, argument in enumerate(arguments) if _is_flag(argument)], list(arguments)
    if len(given) != 1:
        raise InputError(f"{_FLAG} is given {len(given)} times; give it once")
    _, equals, file = rest.pop(given[0]).partition("=")
    if not equals:
        if given[0] == len(rest):
            raise InputError(f"{_FLAG} names no file; give a train_config.json or YAML")
        file = rest.pop(given[0])
    recipe, values = read_config(Path(file))
    if rest and not rest[0].startswith("-"):
        recipe = rest.pop(0)
    with refusing(f"the settings in {file!r} cannot be used", "change them there"):
        config = apply(load_recipe(recipe), values) if recipe is not None else from_values(values)
    return recipe, config, rest


def _is_flag(argument: str) -> bool:
    return argument == _FLAG or argument.startswith(f"{_FLAG}=")
