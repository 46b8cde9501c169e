"""Recipes: one file is one recipe, with one function `recipe()` that returns its `TrainConfig`.

An ablation is `dataclasses.replace` on another recipe's config.
"""

import sys

from supervit.plugins import load_plugin, plugin_names
from supervit.train import TrainConfig


def recipe_names() -> list[str]:
    """The names of all recipes."""
    return plugin_names(sys.modules[__name__])


def load_recipe(name: str) -> TrainConfig:
    """The config of a recipe.

    Raises:
        InputError: no such recipe; the message lists the near names.
    """
    config: TrainConfig = load_plugin(sys.modules[__name__], name).recipe()
    return config


def describe_recipe(name: str) -> str:
    """The first line of a recipe's documentation."""
    return str(load_plugin(sys.modules[__name__], name).__doc__).strip().partition("\n")[0]
