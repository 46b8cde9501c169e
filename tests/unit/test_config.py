import dataclasses
import re

import pytest

from supervit import SuperViT
from supervit.backbones import config_from_dict, scaled_grid_sizes, variant_config, variant_names
from supervit.complexity import Complexity
from supervit.config import IMAGENET_MEAN, SuperViTConfig
from supervit.errors import InputError
from tests.conftest import small_config


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
    assert variant_config("deit_small", img_size=(192, 256)).grid_sizes == ((7, 9), (9, 11), (10, 14), (12, 16))
    assert scaled_grid_sizes((8, 14), (14, 14)) == (8, 14)
    for size in (0, 16, 225, (224, 225)):
        with pytest.raises(InputError, match=f"img_size {re.escape(str(size))} must be a multiple of patch_size 16"):
            variant_config("deit_small", img_size=size)


def test_lvvit_needs_a_patch_that_its_stem_can_halve():
    with pytest.raises(InputError, match="even patch_size"):
        variant_config("lvvit_tiny", patch_size=5)


def test_configs_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        variant_config("deit_small").depth = 3


@pytest.mark.parametrize(
    "depth, blocks",
    [(1, ()), (2, (1,)), (3, (1, 2)), (4, (1, 2, 3)), (6, (1, 3, 4)), (8, (2, 4, 6)), (10, (3, 6, 9)), (24, (3, 6, 9))],
)  # fmt: skip
def test_shallow_networks_drop_in_proportion_where_nothing_else_is_said(depth, blocks):
    assert SuperViTConfig(depth=depth).drop_blocks == blocks
    assert variant_config("deit_small", depth=depth).drop_blocks == blocks
    assert SuperViTConfig(depth=depth).replace(depth=12).drop_blocks == (3, 6, 9)
    assert SuperViTConfig(drop_blocks=(1, 2)).replace(depth=6).drop_blocks == (1, 2)


def test_known_variants_drop_in_the_papers_blocks():
    assert {variant_config(name).drop_blocks for name in variant_names()} == {(3, 6, 9)}


@pytest.mark.parametrize("channels", [1, 2, 4])
def test_however_the_channel_count_is_set_the_normalisation_follows(channels):
    rgb = SuperViTConfig()
    half = (0.5,) * channels
    for config in (
        SuperViTConfig(in_chans=channels),
        SuperViTConfig(in_chans=channels, mean=rgb.mean, std=rgb.std),
        rgb.replace(in_chans=channels),
        config_from_dict(rgb.to_dict() | {"in_chans": channels}),
        dataclasses.replace(rgb, in_chans=channels),
    ):
        assert (config.mean, config.std) == (half, half)
        assert dataclasses.replace(config, in_chans=3) == rgb
    with pytest.raises(InputError, match="mean .* must have one value for each of"):
        SuperViTConfig(in_chans=channels, mean=(0.1, 0.2, 0.3), std=(0.1, 0.2, 0.3))


def test_weights_for_other_channels_keep_their_normalisation():
    rgb = SuperViTConfig(mean=(0.1, 0.2, 0.6), std=(0.2, 0.2, 0.5))
    assert rgb.with_channels(3) is rgb
    assert rgb.with_channels(1).mean == pytest.approx((0.3,))
    assert rgb.with_channels(4).std == (0.2, 0.2, 0.5, 0.2)


@pytest.mark.parametrize(
    "values, message",
    [
        ({"depth": 10**9}, "depth 1000000000 must be at most 1000"),
        ({"num_classes": 10**7}, "num_classes 10000000 must be at most"),
        ({"grid_sizes": (5000,)}, "more than 16384 pixels"),
        ({"mlp_ratio": 1e-9}, "mlp_ratio 1e-09 must be"),
        ({"mlp_ratio": 100.0}, "mlp_ratio 100.0 must be at most 64"),
        ({"embed_dim": 16384, "num_heads": 4}, r"38.* billion parameters .* are more than the 2 that"),
        ({"drop_blocks": (3, 3)}, "must not name a block twice"),
        ({"mean": (1e6, 0.0, 0.0)}, "is of images in"),
        ({"keep_rates": (1.0,) * 100}, "keep_rates has 100 values; 64 at most"),
        ({"norm_eps": 2.0}, "norm_eps 2.0 must be"),
        ({"residual_divisor": -1.0}, "residual_divisor -1.0 must be more than 0"),
    ],
)
def test_what_no_memory_holds_is_refused(values, message):
    with pytest.raises(InputError, match=message):
        SuperViTConfig(**values)
    with pytest.raises(InputError, match=message):
        variant_config("deit_small", **values)


def test_the_stem_of_lvvit_is_bounded_too():
    with pytest.raises(InputError, match="1 to 1024 stem_channels, not 16, 1000000"):
        variant_config("lvvit_tiny", stem_channels=10**6)


def test_points_that_see_other_shapes_are_not_evaluated_together():
    config = small_config()
    with pytest.raises(InputError, match="grids 6x8 and 7 see images of different shapes; ask for one at a time"):
        config.view([Complexity.of("6x8"), Complexity.of("7")])
    with pytest.raises(
        InputError, match="grid size 6x8 has not the shape of the largest, 7; a menu is for images of one shape"
    ):
        small_config(grid_sizes=((6, 8), 7))
    rectangle = config.view([Complexity.of("6x8"), Complexity.of("12x16@0.5")])
    assert (rectangle.grid_sizes, rectangle.image_size) == (((6, 8), (12, 16)), (48, 64))
    assert config.view([Complexity.of("4"), Complexity.of("9@0.5")]) is config


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"class_token": False}, "global_pool 'token' reads the class token, and class_token is False"),
        (
            {"class_token": False, "global_pool": "avg"},
            "reducer 'class_attention' looks at the class token, which there is not",
        ),
        ({"reg_tokens": -1}, "reg_tokens -1 must be 0 to"),
        ({"dense_head": True, "global_pool": "avg"}, "global_pool 'avg' does not go with a dense head; use 'token'"),
        (
            {"reducer": "evo_vit", "drop_blocks": (0, 4)},
            "'evo_vit' cannot choose before the first block has looked",
        ),
        ({"keep_rates": ((), 1.0)}, r"keep rate \(\) names no rate"),
    ],
)
def test_a_network_that_cannot_read_its_tokens_is_refused(fields, message):
    with pytest.raises(InputError, match=message):
        SuperViT(small_config(**fields))
