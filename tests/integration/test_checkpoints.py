"""Weights from files, and what damaged ones are answered with."""

import argparse
import json
import pickle
import subprocess

import pytest
import timm
import torch
from safetensors.torch import save_file

import supervit
from supervit import InputError, SuperViT
from tests.conftest import small_config, trained_like


def released_names(model):
    """The state dict as the released code would write it."""
    grids = sorted(model.config.grid_sizes)
    return {
        f"pos_embed_list.{grids.index(int(key.split('.')[1]))}" if key.startswith("pos_embeds.") else key: value
        for key, value in model.state_dict().items()
    }


def test_our_own_directory_round_trips(model, images, tmp_path):
    model.save(tmp_path / "new" / "model")
    for loaded in (supervit.load(tmp_path / "new/model"), SuperViT.from_pretrained(tmp_path / "new/model")):
        assert loaded.config == model.config
        assert not loaded.training
        assert torch.equal(loaded(images, "6@0.7"), model(images, "6@0.7"))
    assert not list((tmp_path / "new/model").glob(".*"))


def test_save_pretrained_of_the_hub_mixin_writes_the_same(model, images, tmp_path):
    model.save_pretrained(tmp_path)
    assert (tmp_path / "README.md").exists()
    assert torch.equal(SuperViT.from_pretrained(tmp_path)(images), model(images))


def test_hub_repository_is_downloaded(model, images, tmp_path, monkeypatch):
    model.save(tmp_path)
    asked = []

    def download(repository, file, **options):
        asked.append((repository, file, options["revision"]))
        return str(tmp_path / file)

    monkeypatch.setattr("supervit.hub.hf_hub_download", download)
    loaded = SuperViT.from_pretrained("someone/model", revision="v1", resize="antialias")
    assert asked == [("someone/model", "model.safetensors", "v1"), ("someone/model", "config.json", "v1")]
    assert loaded.config.resize == "antialias"


@pytest.mark.parametrize("container", ["model", "state_dict", "state_dict_ema", None])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_released_files_load_in_all_their_wrappings(model, images, tmp_path, container, prefix):
    weights = {prefix + key: value for key, value in released_names(model).items()}
    content = {container: weights, "args": argparse.Namespace(lr=1), "epoch": 3} if container else weights
    torch.save(content, tmp_path / "released.pth.tar")
    loaded = supervit.load(tmp_path / "released.pth.tar", num_heads=3)
    assert loaded.config.grid_sizes == (4, 5, 6, 7)
    assert torch.equal(loaded(images, "5@0.5"), model(images, "5@0.5"))


def test_averaged_weights_are_preferred(model, tmp_path):
    other = {key: torch.zeros_like(value) for key, value in released_names(model).items()}
    torch.save({"state_dict": other, "state_dict_ema": released_names(model)}, tmp_path / "both.pth")
    assert supervit.load(tmp_path / "both.pth", num_heads=3).head.weight.abs().sum() > 0


@pytest.mark.parametrize("name", ["deit_tiny", "deit_small", "lvvit_tiny"])
def test_heads_of_known_widths_are_known(name, tmp_path):
    model = supervit.create_model(name, img_size=32, depth=2, drop_blocks=(1,))
    save_file(released_names(model), tmp_path / "weights.safetensors")
    loaded = supervit.load(tmp_path / "weights.safetensors", drop_blocks=(1,))
    assert loaded.config == model.config


def test_unknown_widths_get_64_channels_a_head_or_a_question(tmp_path):
    for width, heads in ((128, 2), (48, None)):
        model = SuperViT(small_config(embed_dim=width, num_heads=2))
        save_file(released_names(model), tmp_path / "weights.safetensors")
        if heads:
            assert supervit.load(tmp_path / "weights.safetensors").config.num_heads == heads
        else:
            with pytest.raises(
                InputError, match="width 48 does not tell the number of attention heads; pass it, such as num_heads=3"
            ):
                supervit.load(tmp_path / "weights.safetensors")


def test_one_position_table_becomes_elastic(tmp_path):
    reference = timm.create_model("deit_tiny_patch16_224", img_size=112, num_classes=3)
    save_file(reference.state_dict(), tmp_path / "weights.safetensors")
    model = supervit.load(tmp_path / "weights.safetensors")
    assert model.config.grid_sizes == (4, 5, 6, 7)
    assert torch.equal(model.pos_embeds["7"], reference.pos_embed)
    chosen = supervit.load(tmp_path / "weights.safetensors", grid_sizes=(3, 7), keep_rates=(0.6, 1.0), mean=(0.1, 0.2, 0.3))
    assert [str(p) for p in chosen.config.space] == ["3@0.6", "3", "7@0.6", "7"]
    assert chosen.config.mean == (0.1, 0.2, 0.3)


def test_names_that_do_not_fit_are_listed_and_refused(model, tmp_path):
    weights = released_names(model)
    del weights["norm.bias"]
    weights["dist_token"] = torch.zeros(1, 1, 24)
    weights["head.bias"] = torch.zeros(9)
    torch.save(weights, tmp_path / "other.pth")
    with pytest.raises(InputError) as error:
        supervit.load(tmp_path / "other.pth", num_heads=3)
    message = str(error.value)
    assert "1 missing: norm.bias" in message
    assert "1 unexpected: dist_token" in message
    assert "1 of another shape: head.bias (9,) instead of (5,)" in message
    assert "\n" not in message


def test_long_lists_of_names_are_cut_short(model, tmp_path):
    weights = {key: value for key, value in released_names(model).items() if ".norm1." not in key}
    torch.save(weights, tmp_path / "other.pth")
    with pytest.raises(InputError, match=r"missing: blocks\.0\.norm1\.weight.* and \d+ more"):
        supervit.load(tmp_path / "other.pth", num_heads=3)


class Malicious:
    """A pickle of this touches a file when it is loaded carelessly."""

    def __init__(self, witness):
        self.witness = witness

    def __reduce__(self):
        return subprocess.check_output, (["touch", str(self.witness)],)


def test_pickles_that_would_run_code_are_refused(tmp_path):
    witness = tmp_path / "executed"
    torch.save({"model": Malicious(witness)}, tmp_path / "evil.pth")
    (tmp_path / "plain.pkl").write_bytes(pickle.dumps(Malicious(witness)))
    for name in ("evil.pth", "plain.pkl"):
        with pytest.raises(InputError, match=rf"{name}' is damaged or not safe to load .*; re-save its weights as safetensors"):
            supervit.load(tmp_path / name)
    assert not witness.exists()


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("damage", ["empty", "garbage", "truncated"])
def test_damaged_files_are_refused_in_one_line(model, tmp_path, suffix, damage):
    path = tmp_path / f"weights{suffix}"
    (torch.save if suffix == ".pth" else save_file)(released_names(model), path)
    whole = path.read_bytes()
    path.write_bytes({"empty": b"", "garbage": b"\x80\x02garbage" * 50, "truncated": whole[: len(whole) // 2]}[damage])
    with pytest.raises(InputError, match="damaged or not safe|cannot be read as safetensors") as error:
        supervit.load(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "content, message",
    [
        ({"model": {}}, "holds no weights"),
        ([1, 2], "holds no weights"),
        ({"a": 1}, "holds no weights"),
        ({"conv.weight": torch.zeros(1)}, "of no known format"),
        ({"pos_embed_list.0": torch.zeros(1, 17, 8)}, "the weights lack 'patch_embed.proj.weight'"),
        ({"pos_embed_list.0": torch.zeros(1, 18, 8)}, r"position table of shape \(1, 18, 8\) does not fit"),
        ({"pos_embed_list.0": torch.zeros(8)}, r"position table of shape \(8,\) does not fit"),
    ],
)
def test_files_without_usable_weights_are_refused(tmp_path, content, message):
    torch.save(content, tmp_path / "weights.pth")
    with pytest.raises(InputError, match=message):
        supervit.load(tmp_path / "weights.pth")


def test_hugging_face_weights_with_a_part_missing_are_refused(tmp_path):
    weights = {
        "vit.embeddings.position_embeddings": torch.zeros(1, 17, 8),
        "vit.encoder.layer.0.attention.attention.query.weight": torch.zeros(8, 8),
    }
    torch.save(weights, tmp_path / "weights.pth")
    with pytest.raises(InputError, match=r"the weights lack encoder\.layer\.0\.attention\.attention\.key\.weight"):
        supervit.load(tmp_path / "weights.pth")


def test_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match="no such file or directory: 'nowhere'"):
        supervit.load("nowhere")
    with pytest.raises(InputError, match=r"cannot read .*config\.json"):
        supervit.load(tmp_path)


@pytest.mark.parametrize(
    "text, message",
    [
        ("{", "is not JSON"),
        ("[]", "no JSON object"),
        ('{"hidden_size": 1}', "is not a SuperViT config"),
        ('{"family": "deit", "dept": 1}', "field 'dept'"),
    ],
)
def test_damaged_config_is_refused(model, tmp_path, text, message):
    model.save(tmp_path)
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(InputError, match=message):
        supervit.load(tmp_path)


def test_config_of_another_shape_is_refused(model, tmp_path):
    model.save(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text()) | {"num_classes": 9}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=r"of another shape: head.weight \(5, 24\) instead of \(9, 24\)"):
        supervit.load(tmp_path)


def test_saving_where_nothing_can_be_written_is_refused(model, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write to"):
        model.save(tmp_path / "file" / "model")


def test_loaded_weights_train(model, tmp_path):
    trained_like(model).save(tmp_path)
    loaded = supervit.load(tmp_path).train()
    loaded(torch.randn(2, 3, 28, 28), "6@0.5").sum().backward()
    assert loaded.cls_token.grad.isfinite().all()


def test_our_own_weights_load_as_a_file(model, images, tmp_path):
    model.save(tmp_path / "model")
    torch.save(model.state_dict(), tmp_path / "bare.pth")
    beside_its_config = supervit.load(tmp_path / "model/model.safetensors")
    assert beside_its_config.config == model.config
    for loaded in (beside_its_config, supervit.load(tmp_path / "bare.pth", num_heads=3)):
        assert torch.equal(loaded(images, "5@0.5"), model(images, "5@0.5"))


def test_what_is_no_repository_is_refused_in_one_line():
    for name in ("/no/such/directory", "a b"):
        with pytest.raises(InputError, match="is neither a directory nor a hub repository") as error:
            SuperViT.from_pretrained(name, local_files_only=True)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("hidden", [40, 41])
def test_any_hidden_width_survives(tmp_path, hidden):
    model = SuperViT(small_config(mlp_ratio=hidden / 24))
    torch.save(model.state_dict(), tmp_path / "weights.pth")
    assert supervit.load(tmp_path / "weights.pth", num_heads=3).config.hidden_dim == hidden


def test_what_was_exported_is_refused_as_a_model(tmp_path):
    (tmp_path / "export.json").write_text("{}")
    with pytest.raises(InputError, match="was written by supervit export for another runtime.* give the model"):
        supervit.load(tmp_path)
