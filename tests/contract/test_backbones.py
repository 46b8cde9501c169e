"""What every backbone family must obey; runs over whatever files exist."""

import dataclasses
import sys

import pytest
import torch

import supervit.backbones
from supervit import InputError, Predictor, SuperViT
from supervit.backbones import load_family, variant_config, variant_names
from supervit.config import SuperViTConfig
from supervit.data import evaluation_transform
from supervit.macs import executed_macs
from supervit.plugins import plugin_names
from supervit.registry import timm_name
from tests.conftest import small_config

FAMILIES = plugin_names(supervit.backbones)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_has_what_the_model_assembles(family):
    module = load_family(family)
    assert module.__doc__
    assert issubclass(module.Config, SuperViTConfig)
    assert module.VARIANTS
    assert all(name.startswith(f"{family}_") for name in module.VARIANTS)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("grid, channels", [(4, 3), (7, 1)])
def test_patch_embedding_gives_one_token_per_patch(family, grid, channels):
    config = small_config(family, in_chans=channels)
    embed = load_family(family).patch_embed(config).eval()
    tokens = embed(torch.randn(2, channels, 4 * grid, 4 * grid))
    assert tokens.shape == (2, config.embed_dim, grid, grid)
    assert load_family(family).patch_embed_macs(config, grid) > 0


@pytest.mark.parametrize("family", FAMILIES)
def test_tokens_lie_where_their_patches_are(family):
    config = small_config(family)
    embed = load_family(family).patch_embed(config).eval()
    images = torch.zeros(1, 3, 28, 28)
    changed = images.clone()
    changed[..., 13, 25] = 5.0  # inside patch row 3, column 6
    effect = (embed(changed) - embed(images)).abs().sum(1)[0].flatten()
    assert effect.argmax() == 3 * 7 + 6


@pytest.mark.parametrize("name", variant_names())
def test_variants_exist_in_our_naming_and_in_timm(name):
    config = variant_config(name)
    assert config.image_size == 224
    assert timm_name(name) == f"supervit_{name}_patch16_224"
    with torch.device("meta"):
        assert SuperViT(config).num_features == config.embed_dim


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_trains(family, images):
    model = SuperViT(small_config(family)).train()
    sum(logits.square().mean() for logits in model.forward_paths(images, ["7", "7@0.5", "4", "4@0.7"])).backward()
    unused = {name for name, p in model.named_parameters() if p.grad is None}
    assert unused == {"pos_embeds.5", "pos_embeds.6"}


def test_a_family_refuses_the_config_of_another():
    with pytest.raises(
        InputError, match=r"family 'lvvit' does not take a supervit\.config\.SuperViTConfig; start from .* lvvit_tiny"
    ):
        SuperViT(SuperViTConfig(family="lvvit"))


# --- fields that nothing reads --------------------------------------------------------------------------------------------

_CHECKING = {"__post_init__", "_check_sizes", "_check_lengths", "_validate", "_parameters", "check_types"}
_COPYING = {"asdict", "_asdict_inner", "replace", "_replace", "__hash__", "__eq__"}


def fields_unread(config, monkeypatch) -> set[str]:
    """Fields of a config that nothing reads but what checks and copies it, when a model is built, run, counted and shown."""
    read, names = set(), {field.name for field in dataclasses.fields(config)}
    original = type(config).__getattribute__

    def reading(self, name):
        if name in names and sys._getframe(1).f_code.co_name not in _CHECKING | _COPYING:
            read.add(name)
        return original(self, name)

    with monkeypatch.context() as patched:
        patched.setattr(type(config), "__getattribute__", reading)
        model = SuperViT(config)
        side = config.image_size
        model.forward_paths(torch.zeros(2, config.in_chans, side, side), list(config.space))
        executed_macs(config, "7@0.5")
        evaluation_transform(config)
        (answer,) = Predictor(model)(torch.zeros(config.in_chans, side, side))
        assert answer.class_name in config.class_names
    return names - read


def config_of(family):
    """A config with everything that can be switched on."""
    return small_config(family, num_classes=5, class_names=tuple("abcde"), drop_path_rate=0.1, dense_head=True)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_field_of_a_config_is_read(family, monkeypatch):
    assert fields_unread(config_of(family), monkeypatch) == set()


def test_a_field_that_nothing_reads_is_found(monkeypatch):
    idle = dataclasses.make_dataclass("Config", [("idle", int, 3)], bases=(SuperViTConfig,), frozen=True)
    monkeypatch.setattr(load_family("deit"), "Config", idle)
    plain = config_of("deit")
    config = idle(**{field.name: getattr(plain, field.name) for field in dataclasses.fields(SuperViTConfig)})
    assert fields_unread(config, monkeypatch) == {"idle"}
