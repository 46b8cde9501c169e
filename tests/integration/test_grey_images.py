"""Grey images: every recipe takes `--model.in-chans 1`, and weights made for RGB become ones for grey."""

import pytest
import torch
from PIL import Image
from timm.models import adapt_input_conv

import supervit
from supervit import InputError, SuperViT
from supervit.cli import main, parse
from supervit.data import evaluation_transform, open_dataset, seed_everything
from supervit.recipes import load_recipe, recipe_names
from tests.conftest import small_config, trained_like
from tests.data_sets import write_folder

QUICK = [
    "--epochs", "1", "--data.batch-size", "4", "--data.workers", "0", "--throughput-repeats", "0", "--no-plot",
]  # fmt: skip
SMALL = [
    "--model.embed-dim", "16", "--model.num-heads", "2", "--model.depth", "2", "--model.patch-size", "4",
    "--model.grid-sizes", "2", "3",
]  # fmt: skip


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("recipe", recipe_names())
def test_every_recipe_takes_either_channel_count_by_its_flag(recipe, channels, tmp_path):
    extra = ["--data.root", str(write_folder(tmp_path)), "--data.name", "image_folder", "--data.limit", "8"]
    start = load_recipe(recipe)
    config = parse(type(start), ["--model.in-chans", str(channels), *extra], "supervit train", start)
    assert len(config.model.mean) == len(config.model.std) == config.model.in_chans == channels
    dataset = open_dataset(config.data, "train", config.model, config.data)
    for seed in range(5):
        seed_everything(seed)
        item = dataset.transform(Image.new("L" if channels == 1 else "RGB", (40, 30), "grey"))
        image = item[0] if isinstance(item, tuple) else item
        assert image.shape == (channels, config.model.image_size, config.model.image_size)
        assert image.isfinite().all()


def test_training_from_scratch_on_grey_images(tmp_path):
    data = write_folder(tmp_path / "data")
    main(
        [
            "train",
            "image_folder",
            "--data.root",
            str(data),
            "--out",
            str(tmp_path / "run"),
            "--model.in-chans",
            "1",
            *SMALL,
            *QUICK,
        ]
    )
    trained = supervit.load(tmp_path / "run/model").config
    assert (trained.in_chans, trained.mean, trained.std) == (1, (0.5,), (0.5,))


def write_rgb_weights(directory, kind):
    """Weights for RGB: a directory of ours, or a bare file of either family."""
    model = trained_like(SuperViT(small_config("lvvit" if kind == "lvvit" else "deit", num_classes=2, mean=(0.1, 0.2, 0.6))))
    if kind == "directory":
        model.save(directory)
        return model, directory
    directory.mkdir()
    torch.save(model.state_dict(), directory / "weights.pth")
    return model, directory / "weights.pth"


@pytest.mark.parametrize("kind", ["directory", "deit", "lvvit"])
@pytest.mark.parametrize("channels", [1, 4])
def test_rgb_weights_become_those_for_other_channels_as_in_timm(tmp_path, kind, channels):
    rgb, source = write_rgb_weights(tmp_path / "rgb", kind)
    given = (
        {} if kind == "directory" else {"num_heads": 3, "mean": (0.4,) * channels, "std": (0.5,) * channels, "crop_pct": 1.0}
    )
    model = supervit.load(source, in_chans=channels, **given)
    name = "patch_embed.conv1.weight" if kind == "lvvit" else "patch_embed.proj.weight"
    assert torch.equal(model.state_dict()[name], adapt_input_conv(channels, rgb.state_dict()[name]))
    averaged = (0.3,) if channels == 1 else (0.1, 0.2, 0.6, 0.1)
    assert model.config.mean == pytest.approx(given.get("mean", averaged))


def test_finetuning_rgb_weights_on_grey_images(tmp_path):
    rgb, source = write_rgb_weights(tmp_path / "rgb", "directory")
    data = write_folder(tmp_path / "data")
    run = ["train", "finetune", "--init", str(source), "--data.root", str(data), "--out", str(tmp_path / "run")]
    still = ["--lr", "1e-12", "--min-lr", "0", "--warmup-lr", "0"]
    main([*run, "--model.in-chans", "1", *QUICK, *still])
    trained = supervit.load(tmp_path / "run/model")
    assert trained.config.mean == pytest.approx((0.3,))
    expected = rgb.patch_embed.proj.weight.sum(dim=1, keepdim=True)
    torch.testing.assert_close(trained.patch_embed.proj.weight, expected, atol=1e-5, rtol=0)
    assert evaluation_transform(trained.config)(Image.new("L", (40, 40))).shape == (1, 28, 28)


def test_grey_weights_are_not_made_rgb_ones(tmp_path):
    SuperViT(small_config(in_chans=1)).save(tmp_path)
    with pytest.raises(InputError, match="are for 1 channels and cannot be made ones for 3; only those for RGB can"):
        supervit.load(tmp_path, in_chans=3)
