"""What Hugging Face data sets make of layouts and faults that are their own."""

import contextlib
import os

import datasets
import numpy as np
import pytest

from supervit import InputError
from supervit.data import (
    DamagedImage,
    Reading,
    SourceConfig,
    hugging_face,
    open_dataset,
)
from tests.conftest import small_config
from tests.data_sets import (
    BUILDERS,
    CLASSES,
    damage_of,
    encode,
    hugging_face_rows,
    noise,
    write_file,
)


@pytest.mark.parametrize(
    "names, chosen", [(["test", "validation"], "validation"), (["test", "val"], "val"), (["train", "test"], "test")]
)
def test_the_held_out_split_is_the_first_of_the_known_names(tmp_path, names, chosen):
    splits = {name: hugging_face_rows(3 if name == chosen else 1) for name in names}
    datasets.DatasetDict(splits).save_to_disk(tmp_path)
    assert len(hugging_face.open_split(SourceConfig("hugging_face", tmp_path), "val")) == 3


def test_one_saved_split_is_that_split_and_no_other(tmp_path):
    rows = datasets.Dataset(hugging_face_rows(3).data, split="test")
    rows.save_to_disk(tmp_path)
    config = SourceConfig("hugging_face", tmp_path)
    assert len(hugging_face.open_split(config, "val")) == 3
    with pytest.raises(InputError, match="has the splits test; train needs train"):
        hugging_face.open_split(config, "train")


def test_a_folder_that_load_dataset_reads_is_taken(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    for split in ("train", "test"):
        (tmp_path / "data" / split).mkdir(parents=True)
        hugging_face_rows(4).to_parquet(tmp_path / f"data/{split}/0.parquet")
    source = hugging_face.open_split(SourceConfig("hugging_face", tmp_path / "data"), "val")
    assert source.read(1)[0].tobytes() == noise(1).tobytes()
    assert source.classes == CLASSES


def test_a_repository_is_loaded_by_its_name(monkeypatch):
    monkeypatch.setattr(datasets, "load_dataset", lambda name: {"train": hugging_face_rows(2)} if name == "me/cats" else None)
    assert len(hugging_face.open_split(SourceConfig("hugging_face", repository="me/cats"), "train")) == 2


def test_a_folder_and_a_repository_are_one_too_many(tmp_path):
    with pytest.raises(InputError, match=r"either the folder of the data, --data\.root, or .* --data\.repository"):
        hugging_face.open_split(SourceConfig("hugging_face", tmp_path, repository="me/cats"), "train")


def test_data_that_cannot_be_loaded_are_refused_with_the_first_line_of_the_reason(tmp_path, monkeypatch):
    def fail(name):
        raise ValueError("Config name is missing.\nPlease pick one")

    monkeypatch.setattr(datasets, "load_dataset", fail)
    with pytest.raises(InputError, match=r"^cannot load 'me/cats' \(Config name is missing\.\); check the name"):
        hugging_face.open_split(SourceConfig("hugging_face", repository="me/cats"), "train")


def other_picture(rows):
    return rows.select_columns("picture").rename_column("picture", "right")


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda rows: datasets.concatenate_datasets([rows, other_picture(rows)], axis=1), "type Image, not 2 .*right: Image"),
        (lambda rows: rows.remove_columns("picture"), "one column of type Image, not 0 .*kind: ClassLabel"),
        (lambda rows: rows.cast_column("kind", datasets.Value("int64")), "one column of type ClassLabel, not 0 .*kind: Value"),
    ],
)
def test_columns_that_do_not_tell_image_and_class_are_refused(tmp_path, change, message):
    rows = change(hugging_face_rows(2))
    datasets.DatasetDict({"train": rows}).save_to_disk(tmp_path)
    with pytest.raises(InputError, match=message):
        hugging_face.open_split(SourceConfig("hugging_face", tmp_path), "train")


@pytest.mark.parametrize("workers", [0, 2])
def test_rows_without_an_image_or_a_class_are_damaged(tmp_path, workers):
    good = hugging_face_rows(1)
    images = [{"bytes": encode(noise(0)), "path": None}, None, {"bytes": b"torn", "path": None}, {"bytes": encode(noise(0))}]
    rows = datasets.Dataset.from_dict({"picture": images, "kind": [0, 0, 0, -1]}, good.features)
    datasets.DatasetDict({"test": rows}).save_to_disk(tmp_path)
    damaged = damage_of(SourceConfig("hugging_face", tmp_path), workers=workers)
    assert damaged == {"row 1": "picture is empty", "row 2": "not an image of a known format", "row 3": "kind is -1"}


@pytest.mark.parametrize("name", ["dataset_dict.json", "validation/state.json", "validation/dataset_info.json"])
@pytest.mark.parametrize("content", [b"", b"[" * 10**6, b"[]", b'{"splits": 7}', b"\xff\xfe", b'{"a": NaN}'])
def test_damaged_descriptions_of_saved_rows_are_refused(tmp_path, monkeypatch, name, content):
    config = BUILDERS["hugging_face"].build(tmp_path / "data", monkeypatch)
    write_file(tmp_path / "data" / name, content)
    with pytest.raises(InputError) as error:
        hugging_face.open_split(config, "val")
    assert len(str(error.value)) <= 600


@pytest.mark.parametrize("seed", range(25))
def test_flipped_bytes_in_saved_rows_are_refused_or_damaged(tmp_path, monkeypatch, seed):
    config = BUILDERS["hugging_face"].build(tmp_path / "data", monkeypatch)
    (file,) = (tmp_path / "data/validation").glob("*.arrow")
    content, random_ = bytearray(file.read_bytes()), np.random.default_rng(seed)
    for place in random_.integers(0, len(content), 30):
        content[place] = random_.integers(256)
    file.write_bytes(content)
    with contextlib.suppress(InputError):
        damage_of(config)


def test_a_class_that_the_rows_do_not_name_is_damage(tmp_path):
    good = hugging_face_rows(2)
    images = [{"bytes": encode(noise(index)), "path": None} for index in range(2)]
    table = datasets.Dataset.from_dict({"picture": images, "kind": [0, 1]}, good.features).data.table
    table = table.set_column(1, "kind", [[0, 9]])
    source = hugging_face.HuggingFaceImages(datasets.Dataset(table), "picture", "kind", CLASSES, Reading())
    with pytest.raises(DamagedImage, match="kind is 9"):
        source.read(1)


def test_pipes_are_no_tables_of_a_data_set(tmp_path):
    datasets.DatasetDict({"validation": hugging_face_rows(4)}).save_to_disk(tmp_path / "rows")
    table = next((tmp_path / "rows").rglob("*.arrow"))
    table.unlink()
    os.mkfifo(table)
    with pytest.raises(InputError, match=r"the data set '.*rows' is damaged \('.*\.arrow' is no ordinary file"):
        open_dataset(SourceConfig("hugging_face", tmp_path / "rows"), "val", small_config())
