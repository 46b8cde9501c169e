"""What timm's users expect of a model."""

import pytest
import timm
import torch
from timm.data import resolve_model_data_config
from timm.optim import create_optimizer_v2

import supervit

NAME = "supervit_deit_tiny_patch16_224"


@pytest.fixture(scope="module")
def model():
    return timm.create_model(NAME, num_classes=10, drop_path_rate=0.1).eval()


def test_timm_lists_and_creates_our_models(model):
    assert NAME in timm.list_models("supervit_*")
    assert isinstance(model, supervit.SuperViT)
    assert (model.num_classes, model.num_features, model.embed_dim, model.head_hidden_size) == (10, 192, 192, 192)
    assert model.config.drop_path_rate == 0.1


def test_timm_options_reach_the_config():
    model = timm.create_model(NAME, num_classes=0, in_chans=1, img_size=(112, 112), global_pool="token")
    assert model.config.grid_sizes == (4, 5, 6, 7)
    assert model(torch.randn(2, 1, 112, 112), "4@0.5").shape == (2, 192)


def test_features_and_head_are_the_forward_pass(model):
    images = torch.randn(2, 3, 224, 224)
    with torch.no_grad():
        features = model.forward_features(images, "14@0.7")
        assert features.shape == (2, 71, 192)
        torch.testing.assert_close(model.forward_head(features), model(images, "14@0.7"), atol=1e-5, rtol=1e-5)
        assert torch.equal(model.forward_head(features, pre_logits=True), features[:, 0])


def test_classifier_can_be_replaced():
    model = timm.create_model("supervit_lvvit_tiny_patch16_224", num_classes=10, img_size=64)
    assert model.get_classifier() is model.head
    model.reset_classifier(4)
    assert model.get_classifier().out_features == model.aux_head.out_features == model.num_classes == 4
    assert model.default_cfg["num_classes"] == 4
    assert model(torch.randn(1, 3, 64, 64)).shape == (1, 4)
    model.reset_classifier(0, "token")
    assert model(torch.randn(1, 3, 64, 64)).shape == (1, 240)
    with pytest.raises(supervit.InputError, match="global_pool 'avg' is not available"):
        model.reset_classifier(4, "avg")


def test_data_config_comes_from_the_model():
    model = timm.create_model("supervit_lvvit_tiny_patch16_224")
    data = resolve_model_data_config(model)
    assert data["input_size"] == (3, 224, 224)
    assert data["crop_pct"] == 0.9
    assert model.default_cfg["first_conv"] == "patch_embed.conv1"
    assert model.default_cfg["classifier"] == ("head", "aux_head")
    assert data["interpolation"] == "bicubic"


def test_optimizers_of_timm_do_not_decay_positions(model):
    assert model.no_weight_decay() == {"cls_token", "pos_embeds.8", "pos_embeds.10", "pos_embeds.12", "pos_embeds.14"}
    groups = create_optimizer_v2(model, "adamw", lr=1e-3, weight_decay=0.05).param_groups
    decayed = {id(p) for group in groups if group["weight_decay"] for p in group["params"]}
    assert id(model.pos_embeds["14"]) not in decayed
    assert id(model.blocks[0].mlp.fc1.weight) in decayed


def test_pretrained_without_published_weights_raises():
    with pytest.raises(supervit.InputError, match="no weights are published for supervit_deit_tiny_patch16_224"):
        timm.create_model(NAME, pretrained=True)


def test_options_that_would_do_nothing_are_refused():
    with pytest.raises(supervit.InputError, match="drop_rate 0.1 is not available"):
        timm.create_model(NAME, drop_rate=0.1)
    with pytest.raises(supervit.InputError, match="unknown SuperViTConfig field 'patch_drop_rate'"):
        timm.create_model(NAME, patch_drop_rate=0.1)
    with pytest.raises(supervit.InputError, match="global_pool 'avg' is not available"):
        timm.create_model(NAME, global_pool="avg")
    with pytest.raises(supervit.InputError, match="pretrained_cfg is not used; give mean, std"):
        timm.create_model(NAME, pretrained_cfg_overlay={"crop_pct": 1.0})
