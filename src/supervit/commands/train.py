"""`supervit train`."""

import os
from dataclasses import dataclass
from typing import Annotated

import tyro

from supervit.recipes import describe_recipe, recipe_names
from supervit.train import TrainConfig


@dataclass(frozen=True)
class Train:
    """Train one SuperViT by a recipe, then measure all its operating points."""

    recipe: Annotated[TrainConfig, tyro.conf.arg(name="")]
    name: str | None = None
    """Name of the recipe, where there is one."""

    def run(self) -> None:
        """Train, print the table."""
        from supervit.report import markdown_table
        from supervit.train import run_training

        results = run_training(self.recipe, self.name)
        if os.environ.get("RANK", "0") != "0":  # one process of several talks
            return
        print(markdown_table(results), end="")
        print(f"\nmodel: {self.recipe.out / 'model'}   table: results.md, .csv, .json   plots: tradeoff, curves (.png, ...)")


def list_recipes() -> None:
    """Print the name of each recipe and what it is."""
    width = max(map(len, recipe_names()))
    for name in recipe_names():
        print(f"{name:{width}}  {describe_recipe(name)}")
