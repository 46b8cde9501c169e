"""What every source of images must obey; runs over whatever files exist."""

import contextlib
import io
import pickle
import random
import re
import sys
from dataclasses import replace

import pytest
from PIL import Image

import supervit.data
from supervit import InputError
from supervit.data import DataConfig, EpochLoader, open_dataset
from supervit.data._sources import is_stream
from supervit.plugins import load_plugin, plugin_names
from tests.conftest import small_config
from tests.data_sets import BUILDERS, encode, noise

SOURCES = plugin_names(supervit.data)
IN_FOLDERS = [name for name, builder in BUILDERS.items() if "root" in builder.options]
WITH_PACKAGES = [name for name, builder in BUILDERS.items() if builder.package]
STREAMS = [name for name, builder in BUILDERS.items() if builder.is_stream]
VALUES = {"root": "somewhere", "repository": "nobody/nothing", "class_list": "classes.txt", "download": True}
VALUES |= {"image_member": "jpg"}
REPLACEABLE = [name for name, builder in BUILDERS.items() if builder.replace is not None]


@pytest.fixture(params=SOURCES)
def config(request, tmp_path, monkeypatch):
    assert request.param in BUILDERS, f"tests/data_sets.py has no data set for the source {request.param}"
    return BUILDERS[request.param].build(tmp_path / "data", monkeypatch)


def open_split(config, split):
    return load_plugin(supervit.data, config.name).open_split(config, split)


def records(source):
    return list(source.records(0, 1)) if is_stream(source) else list(range(len(source)))


def test_a_source_says_what_it_is_and_what_it_opens(config):
    module = load_plugin(supervit.data, config.name)
    assert module.__doc__
    assert module.open_split.__doc__


@pytest.mark.parametrize("split", ["train", "val"])
def test_every_record_is_an_image_of_a_class_and_has_a_name(config, split):
    source = open_split(config, split)
    assert is_stream(source) == BUILDERS[config.name].is_stream
    found = records(source)
    assert len(found) == len(source) > 0
    for record in found:
        image, label = source.read(record)
        assert isinstance(image, Image.Image)
        assert type(label) is int
        assert 0 <= label < len(source.classes)
        assert source.read(record)[0].tobytes() == image.tobytes()
    names = [source.name_of(record) for record in found]
    assert all(isinstance(name, str) and name for name in names)
    assert len(set(names)) == len(names)


def test_both_splits_have_the_same_classes_each_once_and_other_images(config):
    train, val = open_split(config, "train"), open_split(config, "val")
    assert train.classes == val.classes
    assert isinstance(train.classes, list)
    assert all(isinstance(name, str) for name in train.classes)
    assert len(set(train.classes)) == len(train.classes) > 1
    assert len(train) > len(val)


def test_a_source_reads_the_same_after_pickling(config):
    source = open_split(config, "val")
    copy = pickle.loads(pickle.dumps(source))
    first = records(source)[0]
    assert copy.read(first)[0].tobytes() == source.read(first)[0].tobytes()
    assert [copy.name_of(r) for r in records(copy)] == [source.name_of(r) for r in records(source)]


@pytest.mark.parametrize("channels", [1, 3])
def test_a_model_can_be_fed_from_it(config, channels):
    dataset = open_dataset(config, "val", small_config(in_chans=channels))
    image, _ = dataset.load(records(dataset.source)[0])
    assert image.shape == (channels, 28, 28)
    assert image.isfinite().all()


@pytest.mark.parametrize("config", IN_FOLDERS, indirect=True)
def test_a_missing_folder_is_refused_in_one_line_that_names_it(config, tmp_path):
    with pytest.raises(InputError, match=r"--data\.root"):
        open_split(replace(config, root=None), "train")
    with pytest.raises(InputError, match="nowhere") as error:
        open_split(replace(config, root=tmp_path / "nowhere"), "train")
    assert "\n" not in str(error.value)


def test_options_that_a_source_has_no_use_for_are_refused(config):
    for option in set(VALUES) - BUILDERS[config.name].options:
        with pytest.raises(InputError, match=f"{config.name} has no use for {option}"):
            open_split(replace(config, **{option: VALUES[option]}), "train")


@pytest.mark.parametrize("config", WITH_PACKAGES, indirect=True)
def test_a_missing_optional_package_is_answered_with_its_extra(config, monkeypatch):
    monkeypatch.setitem(sys.modules, BUILDERS[config.name].package, None)
    with pytest.raises(InputError, match=r"pip install 'supervit\["):
        open_split(config, "train")


@pytest.mark.parametrize("config", STREAMS, indirect=True)
@pytest.mark.parametrize("parts", [1, 2, 3, 5])
@pytest.mark.parametrize("seed", [None, 0])
def test_the_parts_of_a_stream_are_disjoint_and_complete(config, parts, seed):
    source = open_split(config, "train")
    dealt = [source.name_of(record) for part in range(parts) for record in source.records(part, parts, seed)]
    assert sorted(dealt) == sorted(source.name_of(record) for record in records(source))


@pytest.mark.parametrize("config", STREAMS, indirect=True)
def test_a_stream_is_shuffled_as_a_function_of_the_seed(config):
    source = open_split(config, "train")
    orders = [[source.name_of(record) for record in source.records(0, 1, seed)] for seed in (None, 0, 0, 1)]
    assert orders[1] == orders[2]
    assert len({tuple(order) for order in orders}) == 3


# --- odd, hidden and damaged files --------------------------------------------------------------------------------

FILES = [name for name, builder in BUILDERS.items() if builder.add is not None]


@pytest.mark.parametrize("config", FILES, indirect=True)
@pytest.mark.parametrize("name", ["._0.jpg", ".DS_Store.png", ".hidden/0.png", "__MACOSX/0.png", ".ipynb_checkpoints/0.jpg"])
def test_hidden_files_are_neither_images_nor_damaged_nor_classes(config, name):
    before = open_split(config, "val")
    BUILDERS[config.name].add(config.root, {name: b"not an image"})
    after = open_split(config, "val")
    assert (len(after), after.classes) == (len(before), before.classes)
    loader = EpochLoader(open_dataset(config, "val", small_config()), 4, 0)
    assert sum(len(labels) for _, labels in loader.epoch()) == len(before)
    assert loader.damaged == {}


@pytest.mark.parametrize("config", REPLACEABLE, indirect=True)
@pytest.mark.parametrize(
    "content, reason",
    [
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 20 20\n%%EndComments\n", "known format"),
        (b"", "."),
        (encode(noise(0))[:80], "."),
        (encode(Image.new("RGB", (500, 500))), "500 x 500 pixels"),
        (encode(Image.new("F", (30, 30)), "tiff"), "floating-point"),
    ],
)
def test_what_no_image_can_be_made_of_is_skipped_and_named(config, content, reason):
    config = replace(config, max_pixels=10_000)
    BUILDERS[config.name].replace(config.root, content)
    for augmentation in (None, DataConfig()):
        dataset = open_dataset(config, "val", small_config(), augmentation)
        seed = None if augmentation is None else 0
        loader = EpochLoader(dataset, 4, 0, seed, max_damaged=0.5)
        list(loader.epoch())
        ((name, said),) = loader.damaged.items()
        assert name in [dataset.source.name_of(record) for record in records(dataset.source)]
        assert re.search(reason, said)


@pytest.mark.parametrize("config", REPLACEABLE, indirect=True)
@pytest.mark.parametrize(
    "mode, form", [("LA", "tiff"), ("LAB", "tiff"), ("CMYK", "jpeg"), ("I;16", "png"), ("P", "gif"), ("L", "jpeg2000")]
)
def test_odd_images_are_read_by_grey_and_colour_models(config, mode, form):
    BUILDERS[config.name].replace(config.root, encode(Image.new(mode, (40, 30)), form))
    for channels in (1, 3):
        loader = EpochLoader(open_dataset(config, "val", small_config(in_chans=channels)), 4, 0)
        assert sum(len(labels) for _, labels in loader.epoch()) == len(loader.dataset)


@pytest.mark.parametrize("config", REPLACEABLE, indirect=True)
def test_pictures_are_turned_as_exif_says_unless_told_otherwise(config):
    exif = Image.Exif()
    exif[0x0112] = 6
    stream = io.BytesIO()
    noise(0, (40, 30)).save(stream, "png", exif=exif)
    BUILDERS[config.name].replace(config.root, stream.getvalue())
    for exif_orientation, size in ((True, (30, 40)), (False, (40, 30))):
        source = open_split(replace(config, exif_orientation=exif_orientation), "val")
        assert source.read(records(source)[0])[0].size == size


@pytest.mark.parametrize("config", IN_FOLDERS, indirect=True)
@pytest.mark.parametrize("damage", ["empty", "noise", "short", "zeros"])
def test_damaged_files_of_a_data_set_are_answered_in_one_line(config, damage):
    """Whatever file it is: a refusal, or images of which some are damaged."""
    for path in sorted(file for file in config.root.rglob("*") if file.is_file()):
        content = path.read_bytes()
        made = {"empty": b"", "noise": random.Random(0).randbytes(700), "short": content[: len(content) // 2]}
        path.write_bytes(made.get(damage, bytes(len(content))))
        with contextlib.suppress(InputError):
            loader = EpochLoader(open_dataset(config, "val", small_config()), 4, 0, max_damaged=1.0)
            list(loader.epoch())
        path.write_bytes(content)
