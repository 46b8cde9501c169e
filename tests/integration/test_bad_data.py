"""A folder of strange and of broken files: the strange ones are read, the broken ones skipped, counted and named."""

import os
import resource
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from supervit import InputError
from supervit.data import DataConfig, EpochLoader, open_dataset
from tests.conftest import small_config
from tests.data_sets import encode, noise, write_file

pytestmark = pytest.mark.filterwarnings("ignore:Palette images with Transparency")
RGB = small_config()
AUGMENTATION = DataConfig("image_folder", auto_augment="rand-m9-mstd0.5-inc1", random_erasing=0.5)


def claim_size(width: int, height: int) -> bytes:
    """A PNG whose header promises that many pixels."""
    header = b"IHDR" + struct.pack(">2I5B", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header)) + encode(noise(0))[33:]


def write_strange(folder) -> set[str]:
    """Names of readable images that are not 8-bit RGB or not of ordinary size."""
    ramp = np.linspace(0, 65535, 1200).astype(np.uint16).reshape(30, 40)
    palette = noise(1, mode="P")
    frames = [Image.new("RGB", (40, 30), colour) for colour in ("red", "blue")]
    images = {
        "cmyk.jpg": (noise(0, mode="CMYK"), {}),
        "16bit.png": (Image.fromarray(ramp), {}),
        "16bit.tif": (Image.fromarray(ramp), {}),
        "grey.png": (noise(2, mode="L"), {}),
        "bilevel.png": (noise(3, mode="1"), {}),
        "alpha.png": (noise(4, mode="RGBA"), {}),
        "palette.png": (palette, {}),
        "palette_one_transparent.png": (palette, {"transparency": 3}),
        "palette_transparent.png": (palette, {"transparency": bytes(range(256))}),
        "animated.gif": (frames[0], {"save_all": True, "append_images": frames[1:]}),
        "animated.webp": (frames[0], {"save_all": True, "append_images": frames[1:], "lossless": True}),
        "1x1.png": (noise(5, (1, 1)), {}),
        "20000x1.png": (noise(6, (20000, 1)), {}),
        "1x20000.png": (noise(6, (1, 20000)), {}),
        "20000x64.jpg": (noise(7, (20000, 64)), {}),
        "PHOTO.JPG": (noise(8), {}),
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, (image, options) in images.items():
        image.save(folder / name, **options)
    return set(images)


def write_broken(folder) -> set[str]:
    """Names of files that cannot be read as images."""
    jpeg = encode(noise(0, (200, 200)), "jpeg")
    contents = {
        "truncated.jpg": jpeg[: len(jpeg) // 2],
        "truncated.png": encode(noise(0))[:100],
        "empty.jpg": b"",
        "text.jpg": b"<html>404 not found</html>",
        "bomb.png": claim_size(60_000, 60_000),
        "float.tif": encode(Image.fromarray(np.zeros((30, 30), np.float32)), "tiff"),
    }
    for name, content in contents.items():
        write_file(folder / name, content)
    (folder / "dangling.jpg").symlink_to(folder / "nowhere.jpg")
    names = {*contents, "dangling.jpg"}
    if os.geteuid() != 0:  # root reads what nobody may
        write_file(folder / "forbidden.jpg", jpeg).chmod(0)
        names.add("forbidden.jpg")
    return names


@pytest.fixture
def names(tmp_path):
    """(Readable, broken) files of both splits, which are the same."""
    strange, broken = write_strange(tmp_path / "val/a"), write_broken(tmp_path / "val/a")
    write_file(tmp_path / "val/a/notes.txt", b"not an image and not called one")
    (tmp_path / "train").symlink_to(tmp_path / "val")
    return strange, broken


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("split", ["train", "val"])
def test_strange_images_are_read_and_broken_ones_skipped_counted_and_named(tmp_path, names, split, workers):
    strange, broken = names
    dataset = open_dataset(DataConfig("image_folder", tmp_path), split, RGB, AUGMENTATION if split == "train" else None)
    assert len(dataset) == len(strange) + len(broken)
    seed = 0 if split == "train" else None
    loader = EpochLoader(dataset, len(dataset), workers, seed, max_damaged=0.5)
    ((images, _),) = loader.epoch()
    assert images.shape == (len(dataset) if split == "train" else len(strange), 3, 28, 28)
    assert images.isfinite().all()
    assert set(loader.damaged) == {f"a/{name}" for name in broken}
    assert all(loader.damaged.values())


@pytest.mark.parametrize("workers", [0, 2])
def test_more_damage_than_allowed_stops_in_one_line_that_names_files(tmp_path, names, workers):
    _, broken = names
    loader = EpochLoader(open_dataset(DataConfig("image_folder", tmp_path), "val", RGB), 64, workers, max_damaged=0.05)
    with pytest.raises(InputError, match=f"^{len(broken)} of .* images cannot be read, more than max_damaged = 0.05") as error:
        list(loader.epoch())
    assert "\n" not in str(error.value)
    assert sum(f"'a/{name}'" in str(error.value) for name in broken) == 3


@pytest.mark.parametrize("name", ["animated.gif", "animated.webp"])
def test_of_an_animation_the_first_frame_is_taken(tmp_path, names, name):
    dataset = open_dataset(DataConfig("image_folder", tmp_path), "val", small_config(mean=(0.0,) * 3, std=(1.0,) * 3))
    index = [dataset.source.name_of(index) for index in range(len(dataset))].index(f"a/{name}")
    image, _ = dataset[index]
    assert torch.allclose(image.mean((1, 2)), torch.tensor([1.0, 0.0, 0.0]), atol=0.02)


@pytest.mark.parametrize("name", ["20000x1.png", "1x20000.png", "20000x64.jpg"])
def test_very_long_images_do_not_take_much_memory_in_evaluation(tmp_path, names, name):
    dataset = open_dataset(DataConfig("image_folder", tmp_path), "val", small_config(patch_size=16))
    index = [dataset.source.name_of(index) for index in range(len(dataset))].index(f"a/{name}")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert dataset[index][0].shape == (3, 112, 112)
    grown_mb = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    assert grown_mb < 100  # resized whole, the thin ones would take a gigabyte
