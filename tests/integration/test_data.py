"""Data sets: what comes out, and what bad folders are answered with."""

import numpy as np
import pytest
import torch
from PIL import Image

import supervit.data
from supervit import InputError
from supervit.data import DataConfig, open_dataset
from supervit.plugins import plugin_names
from tests.conftest import small_config
from tests.data_sets import BUILDERS, encode, noise, write_file, write_folder

RGB = small_config()
GREY = small_config(in_chans=1)


@pytest.fixture
def folder(tmp_path):
    return write_folder(tmp_path)


def config(root=None, **options):
    return DataConfig("image_folder" if root else "digits", root, **options)


def test_every_source_is_known():
    assert plugin_names(supervit.data) == sorted(BUILDERS)
    with pytest.raises(InputError, match="unknown data 'digit'; did you mean digits"):
        open_dataset(DataConfig("digit"), "val", RGB)


@pytest.mark.parametrize("model, channels", [(RGB, 3), (GREY, 1)])
@pytest.mark.parametrize("split", ["train", "val"])
def test_images_have_the_size_and_channels_of_the_model(folder, model, channels, split):
    for source in (config(folder), config()):
        dataset = open_dataset(source, split, model)
        image, label = dataset[0]
        assert image.shape == (channels, 28, 28)
        assert image.dtype == torch.float32
        assert 0 <= label < len(dataset.classes)


def test_digits_are_the_real_ones_and_held_out():
    train, val = (open_dataset(config(), split, GREY) for split in ("train", "val"))
    assert (len(train), len(val)) == (1437, 360)
    assert train.classes == [str(digit) for digit in range(10)]
    images = {image.tobytes() for image in train.source.images}
    assert sum(image.tobytes() in images for image in val.source.images) == 0


def test_digits_need_no_folder(folder):
    with pytest.raises(InputError, match="leave root out"):
        open_dataset(DataConfig("digits", folder), "val", GREY)


def test_evaluation_images_are_normalised_centre_crops(tmp_path):
    half = np.full((40, 60, 3), 255, np.uint8)
    half[:, 40:] = 0  # black right third: outside the centre crop's left half
    (tmp_path / "val/a").mkdir(parents=True)
    Image.fromarray(half).save(tmp_path / "val/a/0.png")
    image, _ = open_dataset(config(tmp_path), "val", small_config(mean=(0.5,) * 3, std=(0.5,) * 3))[0]
    assert image[:, :, 0].min() == pytest.approx(1.0)
    assert image.min() >= -1


def test_16_bit_images_are_scaled_not_clipped(tmp_path):
    (tmp_path / "val/a").mkdir(parents=True)
    Image.fromarray(np.full((30, 30), 32896, dtype=np.uint16)).save(tmp_path / "val/a/0.png")
    image, _ = open_dataset(config(tmp_path), "val", small_config(in_chans=1, mean=(0.5,), std=(0.5,)))[0]
    assert image.mean().item() == pytest.approx(0.0, abs=0.01)


def test_class_indices_are_those_of_train(folder):
    dataset = open_dataset(config(folder), "val", RGB)
    assert dataset.classes == ["cat", "dog"]
    assert [dataset[index][1] for index in range(4)] == [0, 0, 1, 1]


def test_a_list_gives_the_indices_and_lets_folders_be_missing(folder, tmp_path):
    (tmp_path / "classes.txt").write_text("ant\ncat\nbee\ndog\n")
    dataset = open_dataset(config(folder, class_list=tmp_path / "classes.txt"), "val", RGB)
    assert dataset.classes == ["ant", "cat", "bee", "dog"]
    assert {label for _, label in (dataset[index] for index in range(4))} == {1, 3}


@pytest.mark.parametrize(
    "text, message", [("", "one class name per line"), ("cat\ncat\n", "each once"), ("cat\nant\n", "lacks: dog")]
)
def test_lists_that_do_not_fit_are_refused(folder, text, message):
    (folder / "classes.txt").write_text(text)
    with pytest.raises(InputError, match=message):
        open_dataset(config(folder, class_list=folder / "classes.txt"), "val", RGB)
    with pytest.raises(InputError, match="cannot read class_list"):
        open_dataset(config(folder, class_list=folder / "nowhere.txt"), "val", RGB)


def test_folders_that_cannot_be_used_are_refused(folder, tmp_path):
    with pytest.raises(InputError, match="needs the folder of the data"):
        open_dataset(DataConfig("image_folder"), "val", RGB)
    with pytest.raises(InputError, match="no folder"):
        open_dataset(config(tmp_path / "nowhere"), "train", RGB)
    (tmp_path / "empty/train").mkdir(parents=True)
    with pytest.raises(InputError, match="holds no class folders"):
        open_dataset(config(tmp_path / "empty"), "train", RGB)


def test_a_class_that_only_one_split_has_is_refused(folder):
    (folder / "train/eel").mkdir()
    write_file(folder / "train/eel/0.png", encode(noise(0)))
    with pytest.raises(InputError, match=r"val' lacks class folders that train/ has: eel"):
        open_dataset(config(folder), "val", RGB)
    write_file(folder / "val/eel/0.png", encode(noise(0)))
    write_file(folder / "val/fox/0.png", encode(noise(0)))
    with pytest.raises(InputError, match=r"val' has class folders that train/ lacks: fox"):
        open_dataset(config(folder), "val", RGB)


def test_class_folders_without_images_are_refused(folder):
    for path in (folder / "val/dog").iterdir():
        path.unlink()
    with pytest.raises(InputError, match="dog.*; add images or remove the folders"):
        open_dataset(config(folder), "val", RGB)
    (folder / "classes.txt").write_text("cat\ndog\n")
    for path in (folder / "val/cat").iterdir():
        path.unlink()
    with pytest.raises(InputError, match="holds no images"):
        open_dataset(config(folder, class_list=folder / "classes.txt"), "val", RGB)


def test_images_of_odd_channel_counts_are_refused(folder):
    with pytest.raises(InputError, match="in_chans=5; use 1"):
        open_dataset(config(folder), "val", small_config(in_chans=5))


@pytest.mark.parametrize("values", [{"batch_size": 0}, {"workers": -1}])
def test_loader_settings_are_checked(values):
    with pytest.raises(InputError, match="batch_size"):
        DataConfig("digits", **values)
