"""The uncut 14x14 path of timm's weights is timm's own model."""

import io
import tarfile

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from timm.data import create_transform, resolve_model_data_config

import supervit


def timm_model(**overrides):
    return timm.create_model("deit_tiny_patch16_224", **overrides).eval()


def test_timm_weights_give_timm_logits(tmp_path):
    reference = timm_model(num_classes=7)
    with torch.no_grad():
        for parameter in reference.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.02)  # biases and norms are not at their start
    save_file(reference.state_dict(), tmp_path / "model.safetensors")
    model = supervit.load(tmp_path / "model.safetensors")
    images = torch.randn(2, 3, 224, 224)
    with torch.no_grad():
        torch.testing.assert_close(model(images, "14"), reference(images), atol=1e-4, rtol=0)
        torch.testing.assert_close(model.forward_features(images), reference.forward_features(images), atol=1e-4, rtol=0)
        assert model(images, "9@0.6").shape == (2, 7)


def test_hugging_face_names_are_the_same_network(tmp_path):
    reference = timm_model(num_classes=7)
    save_file(huggingface_names(reference.state_dict()), tmp_path / "model.safetensors")
    images = torch.randn(2, 3, 224, 224)
    with torch.no_grad():
        logits = supervit.load(tmp_path / "model.safetensors")(images)
        torch.testing.assert_close(logits, reference(images), atol=1e-4, rtol=0)


def huggingface_names(weights):
    renamed = {"vit.embeddings.position_embeddings": weights["pos_embed"], "vit.embeddings.cls_token": weights["cls_token"]}
    fixed = {"patch_embed.proj": "vit.embeddings.patch_embeddings.projection", "norm": "vit.layernorm", "head": "classifier"}
    inner = {
        "norm1": "layernorm_before",
        "norm2": "layernorm_after",
        "attn.proj": "attention.output.dense",
        "mlp.fc1": "intermediate.dense",
        "mlp.fc2": "output.dense",
    }
    for key, value in weights.items():
        layer, _, kind = key.rpartition(".")
        if layer in fixed:
            renamed[f"{fixed[layer]}.{kind}"] = value
        elif key.startswith("blocks."):
            _, block, part = layer.split(".", 2)
            if part == "attn.qkv":
                for name, piece in zip(("query", "key", "value"), value.chunk(3), strict=True):
                    renamed[f"vit.encoder.layer.{block}.attention.attention.{name}.{kind}"] = piece.contiguous()
            else:
                renamed[f"vit.encoder.layer.{block}.{inner[part]}.{kind}"] = value
    return renamed


AUGREG = "weights/vit_tiny_patch16_224_augreg_in1k_timmnames_fp32.safetensors"
HALF = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5), "crop_pct": 0.9}


@pytest.mark.parametrize(
    "file, logits, tolerance",
    [
        (AUGREG, "augreg_in1k_logits", 1e-3),
        # The logits were made before these weights were rounded to half precision: timm differs by 0.006 likewise.
        ("weights/vit_tiny_patch16_224_tinyimagenet200_hfnames_fp16.safetensors", "tinyimagenet200_logits", 2e-2),
    ],
)
def test_real_weights_give_timm_logits_on_a_made_input(shared, file, logits, tolerance):
    index = torch.arange(2 * 3 * 224 * 224, dtype=torch.float64)
    images = (torch.sin(index * 0.001) + 0.5 * torch.cos(index * 0.00037)).reshape(2, 3, 224, 224).float()
    expected = torch.from_numpy(np.load(shared / "weights/golden_synthetic_input.npz")[logits])
    with torch.no_grad():
        torch.testing.assert_close(supervit.load(shared / file)(images, "14"), expected, atol=tolerance, rtol=0)


def test_real_weights_agree_with_timm_and_score_on_real_images(shared):
    """73.6 % on the 500 true-aspect validation images: 368 right, as timm's own model scores."""
    model = supervit.load(shared / AUGREG, **HALF)
    reference = timm_model()
    reference.load_state_dict(load_file(shared / AUGREG))
    transform = create_transform(**resolve_model_data_config(model))
    synsets = (shared / "data/labels/imagenet_synsets.txt").read_text().split()
    right, seen = 0, 0
    with tarfile.open(shared / "data/imagenet/ilsvrc2012_val_1000.tar") as archive, torch.inference_mode():
        members = [m for m in archive.getmembers() if m.isfile() and m.name.startswith("imagewoof320/")]
        for start in range(0, len(members), 50):
            batch = members[start : start + 50]
            files = [io.BytesIO(archive.extractfile(member).read()) for member in batch]
            images = torch.stack([transform(Image.open(file).convert("RGB")) for file in files])
            labels = torch.tensor([synsets.index(member.name.split("/")[1]) for member in batch])
            logits = model(images, "14")
            right, seen = right + int((logits.argmax(1) == labels).sum()), seen + len(batch)
            if start == 0:
                torch.testing.assert_close(logits, reference(images), atol=1e-4, rtol=0)
    assert (right, seen) == (368, 500)
