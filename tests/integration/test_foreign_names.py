"""Names of foreign weights: what stands before them, what no answer depends on, and what is not of a plain ViT."""

import pytest
import torch

import supervit
from supervit import InputError
from tests.fuzz.odd_weights import _PREFIXES as PREFIXES
from tests.integration.test_foreign_weights import HEADS, PREPARED, hugging_face_names, timm_vit


@pytest.mark.parametrize("names", [dict, hugging_face_names])
@pytest.mark.parametrize(
    "prefix",
    [*(prefix for prefix in PREFIXES if prefix.endswith(".")), "", "model.backbone."],
)
def test_whatever_stands_before_the_names_is_taken_off(tmp_path, names, prefix):
    reference = timm_vit()
    torch.save({prefix + key: value for key, value in names(reference.state_dict()).items()}, tmp_path / "weights.pth")
    images = torch.randn(2, 3, 28, 28)
    model = supervit.load(tmp_path / "weights.pth", **HEADS, **PREPARED)
    with torch.inference_mode():
        torch.testing.assert_close(model(images, "7"), reference(images), atol=1e-5, rtol=1e-5)


def test_a_classifier_outside_the_backbone_is_found(tmp_path):
    weights = timm_vit().state_dict()
    torch.save({key if "head" in key else f"backbone.{key}": value for key, value in weights.items()}, tmp_path / "weights.pth")
    model = supervit.load(tmp_path / "weights.pth", **HEADS, **PREPARED)
    assert torch.equal(model.head.weight, weights["head.weight"])


def test_several_networks_in_one_file_are_refused(tmp_path):
    weights = timm_vit().state_dict()
    both = {f"{who}.{key}": value for who in ("student", "teacher") for key, value in weights.items()}
    torch.save(both, tmp_path / "weights.pth")
    with pytest.raises(InputError, match=r"holds several networks \(student\.\*, teacher\.\*\)"):
        supervit.load(tmp_path / "weights.pth", **HEADS)
    torch.save(
        {**weights, "module.head.weight": weights["head.weight"], "module.x": weights["head.bias"]}, tmp_path / "weights.pth"
    )
    with pytest.raises(InputError, match="unexpected: module.head.weight, module.x"):
        supervit.load(tmp_path / "weights.pth", **HEADS)


@pytest.mark.parametrize("names", [dict, hugging_face_names])
@pytest.mark.parametrize(
    "unused",
    [
        "pooler.dense.weight",
        "vit.pooler.dense.bias",
        "mask_token",
        "embeddings.mask_token",
        "embeddings.position_ids",
        "total_ops",
    ],
)
def test_tensors_that_no_answer_depends_on_are_left_out(tmp_path, names, unused):
    value = torch.zeros(3, dtype=torch.long if unused.endswith("ids") else torch.float32)
    torch.save({**names(timm_vit().state_dict()), unused: value}, tmp_path / "weights.pth")
    assert supervit.load(tmp_path / "weights.pth", **HEADS, **PREPARED).config.depth == 6


@pytest.mark.parametrize(
    "name, reason",
    [
        ("dist_token", "it is distilled"),
        ("embeddings.distillation_token", "it is distilled"),
        ("head_dist.weight", "it is distilled"),
        ("reg_token", "it has register tokens"),
        ("embeddings.register_tokens", "it has register tokens"),
        ("fc_norm.weight", "it pools the patches' average"),
        ("attn_pool.latent", "it pools by attention, as SigLIP"),
        ("blocks.0.ls1.gamma", "it has layer scales"),
        ("norm_pre.weight", "it has a norm before the blocks"),
        ("blocks.0.attn.q_norm.weight", "it normalises queries and keys"),
    ],
)
def test_vits_of_another_kind_are_refused_with_the_reason(tmp_path, name, reason):
    for prefix in ("", "model."):
        weights = {prefix + key: value for key, value in {**timm_vit().state_dict(), name: torch.zeros(24)}.items()}
        torch.save(weights, tmp_path / "weights.pth")
        with pytest.raises(InputError, match=rf"{name} .*{reason}"):
            supervit.load(tmp_path / "weights.pth", **HEADS)


def test_a_vit_without_class_token_is_refused_with_the_reason(tmp_path):
    weights = timm_vit().state_dict()
    del weights["cls_token"]
    torch.save(weights, tmp_path / "weights.pth")
    with pytest.raises(InputError, match="the weights lack 'cls_token', by whose attention SuperViT ranks"):
        supervit.load(tmp_path / "weights.pth", **HEADS)
    torch.save({"vision_model.head.probe": torch.zeros(1, 1, 24), "vision_model.x": torch.zeros(1)}, tmp_path / "weights.pth")
    with pytest.raises(InputError, match="pools by attention, as SigLIP"):
        supervit.load(tmp_path / "weights.pth", **HEADS)


def test_a_network_of_six_blocks_drops_in_proportion(tmp_path):
    torch.save(timm_vit().state_dict(), tmp_path / "weights.pth")
    assert supervit.load(tmp_path / "weights.pth", **HEADS, **PREPARED).config.drop_blocks == (1, 3, 4)
    assert supervit.load(tmp_path / "weights.pth", **HEADS, **PREPARED, drop_blocks=(2,)).config.drop_blocks == (2,)
