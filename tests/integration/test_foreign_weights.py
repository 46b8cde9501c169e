"""Weights of other libraries: what lies beside them is read, what nothing says is assumed aloud, names may be wrapped."""

import argparse
import json
import warnings
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file

import supervit
from supervit import InputError
from supervit.checkpoints import _beside
from supervit.cli import main
from supervit.errors import AssumptionWarning

HALF = (0.5, 0.5, 0.5)
HEADS = {"num_heads": 3}
PREPARED = {"mean": HALF, "std": HALF, "crop_pct": 0.9}  # with heads: all that would be assumed


def timm_vit(**options):
    return timm.models.VisionTransformer(
        img_size=28, patch_size=4, embed_dim=24, depth=6, num_heads=3, num_classes=5, **options
    ).eval()


def hugging_face_names(weights):
    """Weights of timm's ViT as transformers would name them."""
    renames = (
        ("cls_token", "embeddings.cls_token"),
        ("pos_embed", "embeddings.position_embeddings"),
        ("patch_embed.proj.", "embeddings.patch_embeddings.projection."),
        ("blocks.", "encoder.layer."),
        (".attn.proj.", ".attention.output.dense."),
        (".mlp.fc1.", ".intermediate.dense."),
        (".mlp.fc2.", ".output.dense."),
        (".norm1.", ".layernorm_before."),
        (".norm2.", ".layernorm_after."),
    )
    named = {}
    for key, value in weights.items():
        if key.startswith("head."):
            named[key.replace("head", "classifier")] = value
            continue
        for ours, theirs in renames:
            key = key.replace(ours, theirs)
        if ".attn.qkv." in key:
            for part, piece in zip(("query", "key", "value"), value.chunk(3), strict=True):
                named["vit." + key.replace("attn.qkv", f"attention.attention.{part}")] = piece
        else:
            named["vit." + (f"layernorm.{key.removeprefix('norm.')}" if key.startswith("norm.") else key)] = value
    return named


TIMM_CONFIG = {
    "architecture": "vit_tiny_patch16_224",
    "num_classes": 5,
    "num_features": 24,
    "global_pool": "token",
    "label_names": ["a", "b", "c", "d", "e"],
    "pretrained_cfg": {
        "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5], "crop_pct": 0.9, "interpolation": "bilinear",
        "input_size": [3, 28, 28],
    },
}  # fmt: skip
HF_CONFIG = {
    "model_type": "vit",
    "hidden_size": 24,
    "num_hidden_layers": 6,
    "num_attention_heads": 3,
    "patch_size": 4,
    "image_size": 28,
    "layer_norm_eps": 1e-12,
    "hidden_act": "gelu",
    "qkv_bias": True,
    "id2label": {"1": "b", "0": "a", "2": "c", "3": "d", "4": "e"},
}
HF_IMAGES = {
    "image_mean": list(HALF),
    "image_std": list(HALF),
    "size": 256,
    "crop_size": 224,
    "do_center_crop": True,
    "resample": 2,
}


@pytest.fixture
def timm_directory(tmp_path):
    reference = timm_vit()
    save_file(reference.state_dict(), tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(TIMM_CONFIG))
    return tmp_path, reference


@pytest.fixture
def hugging_face_directory(tmp_path):
    reference = timm_vit(norm_layer=partial(torch.nn.LayerNorm, eps=1e-12))
    save_file(
        {key: value.contiguous() for key, value in hugging_face_names(reference.state_dict()).items()},
        tmp_path / "model.safetensors",
    )
    (tmp_path / "config.json").write_text(json.dumps(HF_CONFIG))
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(HF_IMAGES))
    return tmp_path, reference


@pytest.mark.parametrize("as_file", [True, False])
@pytest.mark.parametrize(
    "kind, crop_pct, interpolation", [("timm_directory", 0.9, "bilinear"), ("hugging_face_directory", 0.875, "bilinear")]
)
def test_what_lies_beside_the_weights_is_read_without_a_warning(request, kind, crop_pct, interpolation, as_file):
    directory, reference = request.getfixturevalue(kind)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = supervit.load(directory / "model.safetensors" if as_file else directory)
    config = model.config
    assert (config.mean, config.std, config.crop_pct, config.interpolation) == (HALF, HALF, crop_pct, interpolation)
    assert (config.num_heads, config.norm_eps, config.class_names) == (3, reference.norm.eps, ("a", "b", "c", "d", "e"))
    images = torch.randn(2, 3, 28, 28)
    with torch.inference_mode():
        torch.testing.assert_close(model(images, "7"), reference(images), atol=1e-5, rtol=1e-5)


def test_what_the_user_passes_goes_before_what_lies_beside(timm_directory):
    directory, _ = timm_directory
    config = supervit.load(directory, mean=(0.1, 0.2, 0.3), num_heads=2, interpolation="nearest").config
    assert (config.mean, config.std, config.num_heads, config.interpolation) == ((0.1, 0.2, 0.3), HALF, 2, "nearest")


def test_old_configs_of_timm_without_a_nested_part_are_read(timm_directory):
    directory, _ = timm_directory
    flat = {key: value for key, value in TIMM_CONFIG.items() if key != "pretrained_cfg"} | TIMM_CONFIG["pretrained_cfg"]
    (directory / "config.json").write_text(json.dumps(flat))
    assert supervit.load(directory).config.crop_pct == 0.9


@pytest.mark.parametrize(
    "images, told",
    [
        ({"size": {"height": 28, "width": 28}, "resample": 3}, {"crop_pct": 1.0, "interpolation": "bicubic"}),
        ({"size": {"shortest_edge": 32}, "crop_size": {"height": 28}, "do_center_crop": True}, {"crop_pct": 0.875}),
        ({"crop_pct": 0.7, "size": 28, "resample": 0}, {"crop_pct": 0.7, "interpolation": "nearest"}),
        ({"do_normalize": False}, {"mean": (0.0,) * 3, "std": (1.0,) * 3}),
    ],
)  # fmt: skip
def test_all_ways_to_say_how_images_are_prepared_are_understood(hugging_face_directory, images, told):
    directory, _ = hugging_face_directory
    (directory / "preprocessor_config.json").write_text(json.dumps({"image_mean": HALF, "image_std": HALF, **images}))
    config = supervit.load(directory, **({} if "crop_pct" in told else {"crop_pct": 1.0})).config
    assert {name: getattr(config, name) for name in told} == told


@pytest.mark.parametrize(
    "kind, file, change, message",
    [
        ("timm_directory", "config.json", {"global_pool": "avg"}, "pooling 'avg' is not available; SuperViT pools the class"),
        ("timm_directory", "config.json", {"model_args": {"global_pool": "map"}}, "pooling 'map' is not available"),
        ("timm_directory", "config.json", {"architecture": "vit_base_patch16_siglip_224"}, "pooling 'map' is not available"),
        ("timm_directory", "config.json", {"architecture": "vit_base_patch32_clip_quickgelu_224"}, "activation 'QuickGELU'"),
        ("timm_directory", "config.json", {"num_features": 48}, "is not of these weights: it says embed_dim 48, they have 24"),
        ("timm_directory", "config.json", {"pretrained_cfg": {"interpolation": "lanczos"}}, "unknown interpolation 'lanczos'"),
        ("timm_directory", "config.json", {"pretrained_cfg": {"mean": ["x"]}}, r"mean \['x'\] is not usable"),
        ("timm_directory", "config.json", {"pretrained_cfg": {"crop_pct": 7}}, r"crop_pct 7 is not in"),
        ("hugging_face_directory", "config.json", {"hidden_act": "gelu_new"}, "activation 'gelu_new' is not available"),
        ("hugging_face_directory", "config.json", {"hidden_act": ["gelu"]}, "activation .* is not available"),
        ("hugging_face_directory", "config.json", {"num_hidden_layers": 12}, "it says depth 12, they have 6"),
        ("hugging_face_directory", "config.json", {"num_attention_heads": "x"}, "num_heads 'x' is not usable"),
        ("hugging_face_directory", "config.json", {"num_attention_heads": 0}, "num_heads 0 must be at least 1"),
        ("hugging_face_directory", "preprocessor_config.json", {"resample": 1}, "unknown interpolation \"Pillow's code 1\""),
        ("hugging_face_directory", "preprocessor_config.json", {"rescale_factor": 0.5}, "rescale_factor 0.5: pixels"),
        ("hugging_face_directory", "preprocessor_config.json", {"image_mean": {}}, "mean {} is not usable"),
    ],
)  # fmt: skip
def test_what_supervit_does_not_have_is_refused_by_name(request, kind, file, change, message):
    directory, _ = request.getfixturevalue(kind)
    values = json.loads((directory / file).read_text())
    (directory / file).write_text(json.dumps(values | change))
    with pytest.raises(InputError, match=message):
        supervit.load(directory)


@pytest.mark.parametrize("file", ["config.json", "preprocessor_config.json"])
@pytest.mark.parametrize("text", ["{", "[]", "[" * 100_000, '{"a": NaN}'])
def test_damaged_files_beside_the_weights_are_refused(hugging_face_directory, file, text):
    directory, _ = hugging_face_directory
    (directory / file).write_text(text)
    with pytest.raises(InputError, match=rf"cannot use '.*{file}' beside the weights"):
        supervit.load(directory / "model.safetensors")


def test_what_nothing_says_is_assumed_with_one_warning(tmp_path):
    save_file(timm_vit().state_dict(), tmp_path / "weights.safetensors")
    with pytest.warns(AssumptionWarning) as seen:
        supervit.load(tmp_path / "weights.safetensors", num_heads=3, std=HALF)
    assert len(seen) == 1
    assert seen[0].filename == __file__
    message = str(seen[0].message)
    assert "assumed mean=(0.485, 0.456, 0.406), crop_pct=0.875, interpolation='bicubic'; pass what differs" in message
    assert "num_heads" not in message


def test_convert_prints_what_was_assumed_on_one_line_and_reads_what_lies_beside(timm_directory, tmp_path, capsys):
    directory, _ = timm_directory
    main(["convert", str(directory), str(tmp_path / "told")])
    assert capsys.readouterr().err == ""
    assert supervit.load(tmp_path / "told").config.mean == HALF
    (directory / "config.json").unlink()
    main(["convert", str(directory / "model.safetensors"), str(tmp_path / "new"), "--num-heads", "3"])
    error = capsys.readouterr().err
    assert error.startswith("supervit: warning: ")
    assert error.count("\n") == 1
    assert "assumed mean=" in error


def test_evaluation_with_a_config_beside_is_that_with_explicit_flags(shared, tmp_path):
    weights = tmp_path / "model.safetensors"
    weights.symlink_to(shared / "weights/vit_tiny_patch16_224_augreg_in1k_timmnames_fp32.safetensors")
    told = {"mean": list(HALF), "std": list(HALF), "crop_pct": 0.9, "interpolation": "bicubic"}
    explicit = supervit.load(weights, num_heads=3, **told)
    (tmp_path / "config.json").write_text(json.dumps({"architecture": "vit_tiny_patch16_224", "pretrained_cfg": told}))
    for source in (tmp_path, weights):
        read = supervit.load(source)
        assert read.config == explicit.config
        assert read.fingerprint() == explicit.fingerprint()


# --- containers and shards ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("averaged", ["model_ema", "state_dict_ema"])
@pytest.mark.parametrize("other", ["model", "state_dict"])
def test_averaged_weights_of_deit_and_timm_are_taken_and_it_is_said(tmp_path, averaged, other):
    weights = timm_vit().state_dict()
    torch.save({other: {key: value * 0 for key, value in weights.items()}, averaged: weights}, tmp_path / "both.pth")
    with pytest.warns(AssumptionWarning, match=rf"took the weights of {averaged} \(there is {other} too\)"):
        model = supervit.load(tmp_path / "both.pth", **HEADS, **PREPARED)
    assert torch.equal(model.head.weight, weights["head.weight"])


@pytest.mark.parametrize("beside", [np.float64(71.5), np.int64(3), np.float32(1.0), np.arange(3.0)])
def test_numpy_values_beside_the_weights_do_no_harm(tmp_path, beside):
    weights = timm_vit().state_dict()
    torch.save({"model": weights, "best_acc": beside, "nested": [{"epoch": beside}]}, tmp_path / "weights.pth")
    assert torch.equal(supervit.load(tmp_path / "weights.pth", **HEADS, **PREPARED).head.weight, weights["head.weight"])


def write_shards(directory, weights, suffix):
    names = sorted(weights)
    parts = {f"model-0000{i + 1}-of-00002.{suffix}": names[i::2] for i in range(2)}
    for file, keys in parts.items():
        part = {key: weights[key].contiguous() for key in keys}
        (save_file if suffix == "safetensors" else torch.save)(part, directory / file)
    places = {key: file for file, keys in parts.items() for key in keys}
    index = directory / {"safetensors": "model.safetensors.index.json", "bin": "pytorch_model.bin.index.json"}[suffix]
    index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": places}))
    return index, places


@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
@pytest.mark.parametrize("names", [dict, hugging_face_names])
def test_sharded_weights_load_as_a_directory_and_by_their_index(tmp_path, suffix, names):
    reference = timm_vit()
    index, _ = write_shards(tmp_path, names(reference.state_dict()), suffix)
    for source in (tmp_path, index):
        assert torch.equal(supervit.load(source, **HEADS, **PREPARED).head.weight, reference.head.weight)


@pytest.mark.parametrize(
    "file", ["../out.safetensors", "/etc/passwd", "a/b.safetensors", "..", "", "x.safetensors\0", "..\\x.bin", "x.pkl", 3, None]
)
def test_shards_outside_of_the_directory_are_refused(tmp_path, file):
    directory = tmp_path / "model"
    directory.mkdir()
    index, places = write_shards(directory, timm_vit().state_dict(), "safetensors")
    save_file(timm_vit().state_dict(), tmp_path / "out.safetensors")
    index.write_text(json.dumps({"weight_map": places | {"norm.bias": file}}))
    with pytest.raises(InputError, match="is no index of weights"):
        supervit.load(directory)


def test_incomplete_shards_are_refused(tmp_path):
    index, places = write_shards(tmp_path, timm_vit().state_dict(), "safetensors")
    index.write_text(json.dumps({"weight_map": places | {"more": next(iter(places.values()))}}))
    with pytest.raises(InputError, match="lack more; download them again"):
        supervit.load(tmp_path)
    (tmp_path / next(iter(places.values()))).unlink()
    with pytest.raises(InputError, match="is missing; download it again"):
        supervit.load(tmp_path)
    for content in ("{}", '{"weight_map": []}', '{"weight_map": {}}', "["):
        index.write_text(content)
        with pytest.raises(InputError, match="is no index of weights"):
            supervit.load(tmp_path)


def test_weights_load_from_many_threads_at_once(tmp_path):
    weights = timm_vit().state_dict()
    torch.save({"model": weights, "args": argparse.Namespace(lr=1), "best": np.float64(1.0)}, tmp_path / "weights.pth")
    save_file(weights, tmp_path / "weights.safetensors")
    sources = [tmp_path / "weights.pth", tmp_path / "weights.safetensors"] * 12
    with ThreadPoolExecutor(8) as pool:
        models = list(pool.map(lambda source: supervit.load(source, **HEADS, **PREPARED), sources))
    assert {model.fingerprint() for model in models} == {models[0].fingerprint()}
    assert not any(parameter.is_meta for model in models for parameter in model.parameters())


def test_whatever_network_of_timm_is_named_beside_weights_only_its_kind_is_refused():
    for name in (
        "regnety_002",
        "pit_ti_224",
        "eva_large_patch14_336",
        "vit_small_patch16_18x2_224",
        "resnet18",
        "swin_tiny_patch4_window7_224",
    ):
        assert isinstance(_beside._timm_network(name), dict)


@pytest.mark.parametrize("values", [{"do_rescale": False}, {"rescale_factor": 1.0}])
def test_pixels_that_are_not_scaled_to_one_are_refused(tmp_path, values):
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(values))
    with pytest.raises(InputError, match="rescale_factor 1.*: pixels are scaled by 1/255 here"):
        _beside.read_beside(tmp_path, {})


def test_another_crop_than_the_centre_is_warned_of(tmp_path):
    config = {"architecture": "deit_tiny_patch16_224", "pretrained_cfg": {"crop_mode": "squash"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.warns(AssumptionWarning, match="crop_mode 'squash'; here the shorter side is resized"):
        _beside.read_beside(tmp_path, {})
