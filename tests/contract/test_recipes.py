"""What every recipe must obey; runs over whatever files exist."""

import json

import pytest

from supervit.recipes import describe_recipe, load_recipe, recipe_names
from supervit.train import TrainConfig


@pytest.mark.parametrize("name", recipe_names())
def test_a_recipe_is_a_config_with_a_description(name):
    config = load_recipe(name)
    assert isinstance(config, TrainConfig)
    assert config == load_recipe(name)
    assert describe_recipe(name).endswith(".")
    assert json.loads(json.dumps(config.to_dict())) == config.to_dict()
