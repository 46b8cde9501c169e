import dataclasses

import pytest

from supervit.backbones import config_from_dict, scaled_grid_sizes, variant_config
from supervit.config import IMAGENET_MEAN, SuperViTConfig
from supervit.errors import InputError


@pytest.mark.parametrize("name", ["deit_small", "lvvit_tiny"])
def test_config_survives_json(name):
    config = variant_config(name, num_classes=2, class_names=("cat", "dog"))
    values = {key: list(value) if isinstance(value, tuple) else value for key, value in config.to_dict().items()}
    assert config_from_dict(values) == config


def test_channels_other_than_rgb_get_their_own_normalisation():
    config = variant_config("deit_tiny")
    assert config.mean == IMAGENET_MEAN
    assert config.replace(in_chans=4).mean == (0.5,) * 4


def test_another_class_count_forgets_the_class_names():
    config = SuperViTConfig(num_classes=1, class_names=("cat",))
    assert config.replace(num_classes=3).class_names == ()
    assert config.replace(embed_dim=192).class_names == ("cat",)


@pytest.mark.parametrize(
    "values, message",
    [
        ({"depth": 0}, "depth 0 must be at least 1"),
        ({"num_classes": -1}, "num_classes -1"),
        ({"embed_dim": "24"}, "embed_dim '24' is not usable; it must be of type int"),
        ({"grid_sizes": 14}, "grid_sizes 14 is not usable; it must be of type tuple"),
        ({"depth": True}, "depth True is not usable"),
        ({"mlp_ratio": -1.0}, "mlp_ratio -1.0 must be more than 0"),
        ({"std": (0.0, 1.0, 1.0)}, "std .* must be more than 0"),
        ({"num_heads": 5}, "embed_dim 384 is not a multiple of num_heads 5"),
        ({"drop_path_rate": 1.0}, r"drop_path_rate 1.0 is not in \[0, 1\)"),
        ({"crop_pct": 0}, "crop_pct 0"),
        ({"drop_blocks": (3, 12)}, "drop block 12 is not one of the 12 blocks"),
        ({"resize": "antialiased"}, "unknown resize 'antialiased'; did you mean antialias"),
        ({"interpolation": "cubic"}, "unknown interpolation 'cubic'; did you mean bicubic"),
        ({"mean": (0.5,)}, "mean .* must have one value for each of 3 channels"),
        ({"class_names": ("a", "b")}, "2 class_names do not fit num_classes 1000"),
        ({"keep_rates": (0.5,)}, "must include 1.0"),
    ],
)
def test_values_that_do_not_fit_are_refused(values, message):
    with pytest.raises(InputError, match=message):
        SuperViTConfig(**values)


def test_unknown_fields_are_refused_with_the_near_names():
    with pytest.raises(InputError, match="unknown SuperViTConfig field 'num_class'; did you mean num_classes"):
        variant_config("deit_small", num_class=3)


def test_unknown_variant_is_refused_with_the_near_names():
    with pytest.raises(InputError, match="unknown model 'deit_smal'; did you mean deit_small"):
        variant_config("deit_smal")
    with pytest.raises(InputError, match="known: deit_base, deit_small, deit_tiny, lvvit"):
        variant_config("convolution")


def test_image_size_scales_the_menu():
    assert variant_config("deit_small", img_size=448).grid_sizes == (16, 20, 24, 28)
    assert variant_config("deit_small", img_size=32).grid_sizes == (2,)
    assert scaled_grid_sizes((8, 10, 12, 14), 7) == (4, 5, 6, 7)
    for size in (0, 16, 225):
        with pytest.raises(InputError, match=f"img_size {size} must be one side, a multiple of patch_size 16"):
            variant_config("deit_small", img_size=size)


def test_lvvit_needs_a_patch_that_its_stem_can_halve():
    with pytest.raises(InputError, match="even patch_size"):
        variant_config("lvvit_tiny", patch_size=5)


def test_configs_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        variant_config("deit_small").depth = 3
