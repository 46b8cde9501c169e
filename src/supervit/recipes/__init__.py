"""Recipes: every public function of a file here is a recipe; it returns the config of a training run.

The name of the function is the name of the recipe; of one from outside, `my_package.my_module.my_recipe`. An ablation is
`dataclasses.replace` on another recipe's config.
"""

import inspect
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import ModuleType

from supervit.errors import unknown_name
from supervit.plugins import load_plugin, plugin_names
from supervit.train import TrainConfig

Recipe = Callable[[], TrainConfig]


@cache
def _recipes() -> dict[str, Recipe]:
    """All recipes by name, in the order of their files and lines."""
    package = sys.modules[__name__]
    modules = [load_plugin(package, name) for name in plugin_names(package)]
    return {name: function for module in modules for name, function in _recipes_in(module).items()}


def _recipes_in(module: ModuleType) -> dict[str, Recipe]:
    return {
        name: function
        for name, function in vars(module).items()
        if inspect.isfunction(function) and function.__module__ == module.__name__ and not name.startswith("_")
    }


def recipe_names() -> list[str]:
    """The names of all recipes."""
    return list(_recipes())


def _recipe(name: str) -> Recipe:
    if "." not in name:
        if name not in _recipes():
            raise unknown_name("recipe", name, recipe_names())
        return _recipes()[name]
    module, _, function = name.rpartition(".")
    recipes = _recipes_in(load_plugin(sys.modules[__name__], module))
    if function not in recipes:
        raise unknown_name("recipe", name, (f"{module}.{known}" for known in recipes))
    return recipes[function]


def load_recipe(name: str) -> TrainConfig:
    """The config of a recipe; its run goes to `runs/NAME`, NAME without the module.

    Raises:
        InputError: no such recipe; the message lists the near names.
    """
    return replace(_recipe(name)(), out=Path("runs", name.rpartition(".")[2]))


def describe_recipe(name: str) -> str:
    """The first line of a recipe's documentation."""
    return str(_recipe(name).__doc__).strip().partition("\n")[0]
