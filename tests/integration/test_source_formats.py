"""What each source makes of the layouts and faults that are its own."""

import contextlib
import gzip
import json
import os
import pickle
import resource
import tarfile
from dataclasses import dataclass

import datasets
import numpy as np
import pytest
from PIL import Image
from torchvision.datasets import CIFAR10, FashionMNIST

from supervit import InputError
from supervit.data import (
    DamagedImage,
    DataConfig,
    EpochLoader,
    Reading,
    SourceConfig,
    cifar10,
    cifar100,
    fashion_mnist,
    hugging_face,
    image_folder,
    open_dataset,
    webdataset,
)
from tests.conftest import small_config
from tests.data_sets import (
    BUILDERS,
    CLASSES,
    COUNTS,
    encode,
    hugging_face_rows,
    idx,
    noise,
    write_file,
    write_folder,
    write_shard,
    write_shards,
)


def damage_of(config: SourceConfig, split="val", workers=0) -> dict[str, str]:
    """What an evaluation of the split finds damaged."""
    loader = EpochLoader(open_dataset(config, split, small_config()), 4, workers, max_damaged=1.0)
    list(loader.epoch())
    return loader.damaged


# --- CIFAR and Fashion-MNIST -----------------------------------------------------------------------------------------


def test_cifar_is_downloaded_only_where_asked_for(tmp_path, monkeypatch):
    with pytest.raises(InputError, match=r"unpack cifar-10-python\.tar\.gz there, or fetch it with --data\.download"):
        cifar10.open_split(SourceConfig("cifar10", tmp_path), "train")
    monkeypatch.setattr(CIFAR10, "download", lambda self: BUILDERS["cifar10"].build(tmp_path, monkeypatch))
    assert len(cifar10.open_split(SourceConfig("cifar10", tmp_path, download=True), "val")) == COUNTS["val"]


def test_a_download_that_fails_is_answered_in_one_line(tmp_path, monkeypatch):
    def fail(self):
        raise RuntimeError("Tried this\nand that")

    monkeypatch.setattr(CIFAR10, "download", fail)
    monkeypatch.setattr(FashionMNIST, "download", fail)
    for source in (cifar10, fashion_mnist):
        with pytest.raises(InputError, match="Tried this and that") as error:
            source.open_split(SourceConfig(source.__name__.rpartition(".")[2], tmp_path, download=True), "train")
        assert "\n" not in str(error.value)


def test_fashion_mnist_is_read_packed_or_not_as_published_or_as_torchvision_has_it(tmp_path, monkeypatch):
    packed = fashion_mnist.open_split(BUILDERS["fashion_mnist"].build(tmp_path / "packed", monkeypatch), "val")
    raw = tmp_path / "unpacked/FashionMNIST/raw"
    write_file(raw / "t10k-images-idx3-ubyte", idx(packed.images))
    write_file(raw / "t10k-labels-idx1-ubyte", idx(packed.labels))
    unpacked = fashion_mnist.open_split(SourceConfig("fashion_mnist", tmp_path / "unpacked"), "val")
    assert np.array_equal(unpacked.images, packed.images)
    assert np.array_equal(unpacked.labels, packed.labels)
    assert unpacked.read(0)[0].mode == "L"
    with pytest.raises(InputError, match=r"no train-images-idx3-ubyte\[\.gz\].*, or use --data\.download"):
        fashion_mnist.open_split(SourceConfig("fashion_mnist", tmp_path / "unpacked"), "train")


def test_the_published_fashion_mnist_is_read(shared):
    val = fashion_mnist.open_split(SourceConfig("fashion_mnist", shared / "data/fashion-mnist"), "val")
    assert np.bincount(val.labels).tolist() == [1000] * 10
    assert val.read(0)[0].size == (28, 28)
    assert val.classes[val.read(0)[1]] == "Ankle boot"


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("t10k-images-idx3-ubyte.gz", b"not gzip", "cannot read .*Not a gzipped file"),
        ("t10k-images-idx3-ubyte", b"not idx", "not an IDX file"),
        ("t10k-images-idx3-ubyte", idx(np.zeros((4, 28, 28)))[:-1], "cannot read .*cannot reshape"),
        ("t10k-images-idx3-ubyte", b"\0\0\x08", "cannot read .*t10k-images"),
        ("t10k-labels-idx1-ubyte", idx(np.zeros(3)), "differ; fetch them anew"),
    ],
)
def test_damaged_files_of_fashion_mnist_are_named(tmp_path, monkeypatch, name, content, message):
    config = BUILDERS["fashion_mnist"].build(tmp_path, monkeypatch)
    write_file(tmp_path / name, content)
    with pytest.raises(InputError, match=message):
        fashion_mnist.open_split(config, "val")


@dataclass
class Touch:
    """What a pickle can make happen."""

    path: str

    def __reduce__(self):
        return open, (self.path, "w")


@pytest.mark.parametrize("source, folder", [(cifar10, "cifar-10-batches-py"), (cifar100, "cifar-100-python")])
def test_a_pickle_that_is_not_the_published_one_is_never_loaded(tmp_path, source, folder):
    names = ["data_batch_1", "data_batch_2", "test_batch", "batches.meta", "train", "test", "meta"]
    for name in names:
        write_file(tmp_path / folder / name, pickle.dumps(Touch(str(tmp_path / "touched"))))
    for split in ("train", "val"):
        with pytest.raises(InputError, match="Dataset not found or corrupted"):
            source.open_split(SourceConfig(source.__name__.rpartition(".")[2], tmp_path), split)
    assert not (tmp_path / "touched").exists()


@pytest.mark.parametrize(
    "head, zeros, message",
    [
        (b"", 2**28, "more than 128 MiB"),
        (b"\0\0\x08\3" + b"\xff" * 12, 9, "cannot reshape"),
        (b"\0\0\x08\xff" + b"\xff" * 2000, 0, "cannot read"),
        (b"\0\0\x08\3" + np.array([4, 0, 28], ">u4").tobytes(), 0, "differ; fetch them anew"),
    ],
    ids=["bomb", "large", "many axes", "no pixels"],
)
def test_idx_files_of_absurd_shapes_take_no_memory(tmp_path, monkeypatch, head, zeros, message):
    config = BUILDERS["fashion_mnist"].build(tmp_path, monkeypatch)
    write_file(tmp_path / "t10k-images-idx3-ubyte.gz", gzip.compress(head + bytes(zeros), 1))
    with pytest.raises(InputError, match=message):
        fashion_mnist.open_split(config, "val")


def test_a_class_that_fashion_mnist_has_not_is_refused(tmp_path, monkeypatch):
    config = BUILDERS["fashion_mnist"].build(tmp_path, monkeypatch)
    write_file(tmp_path / "t10k-labels-idx1-ubyte.gz", gzip.compress(idx(np.array([0, 1, 2, 77]))))
    with pytest.raises(InputError, match="holds class 77 of 10"):
        fashion_mnist.open_split(config, "val")


@pytest.mark.parametrize(
    "content, message",
    [
        (b"cat\n\xff\xfe\n", "must be text in UTF-8"),
        (b"cat\ndo\x1bg\n", "cannot be printed"),
        (b"cat\ndo\0g\n", "cannot be printed"),
        (b"x" * (2**24 + 1), "larger than 16 MiB"),
    ],
)
def test_class_lists_of_odd_bytes_are_refused(tmp_path, content, message):
    write_folder(tmp_path)
    config = SourceConfig("image_folder", tmp_path, class_list=write_file(tmp_path / "classes.txt", content))
    with pytest.raises(InputError, match=message) as error:
        image_folder.open_split(config, "val")
    assert "\x1b" not in str(error.value)
    write_file(tmp_path / "classes.txt", b"\xef\xbb\xbfcat\r\ndog\r\n")
    assert image_folder.open_split(config, "val").classes == CLASSES


def test_what_is_not_named_as_an_image_is_counted_and_named(tmp_path, caplog):
    write_folder(tmp_path)
    for name in ("a.HEIC", "b.heic", "notes.txt", ".hidden.heic", "._c.png"):
        write_file(tmp_path / "val/cat" / name, b"?")
    write_file(tmp_path / "val/dog/d.jp2", encode(noise(3), "jpeg2000"))
    assert len(image_folder.open_split(SourceConfig("image_folder", tmp_path), "val")) == COUNTS["val"] + 1
    assert [record.message.partition("; images are")[0] for record in caplog.records] == [
        f"skipped 3 files in {str(tmp_path / 'val')!r} that are not named as images are (2 .heic, 1 .txt), such as 'cat/a.HEIC'"
    ]


def test_links_are_followed_but_not_in_circles(tmp_path):
    write_folder(tmp_path / "data")
    (tmp_path / "more").mkdir()
    write_file(tmp_path / "more/9.png", encode(noise(9)))
    (tmp_path / "data/val/cat/more").symlink_to(tmp_path / "more")
    (tmp_path / "data/val/cat/loop").symlink_to(tmp_path / "data/val/cat")
    source = image_folder.open_split(SourceConfig("image_folder", tmp_path / "data"), "val")
    assert [source.name_of(index) for index in range(len(source))] == [
        "cat/0.png", "cat/2.png", "cat/more/9.png", "dog/1.png", "dog/3.png",
    ]  # fmt: skip


def test_folders_that_link_to_each_other_end_and_give_each_way_down_once(tmp_path):
    write_folder(tmp_path)
    for here, there in (("cat", "dog"), ("dog", "cat")):
        for name in ("one", "two"):
            (tmp_path / "val" / here / name).symlink_to(tmp_path / "val" / there)
    assert 4 <= len(image_folder.open_split(SourceConfig("image_folder", tmp_path), "val")) < 20


# --- Hugging Face ----------------------------------------------------------------------------------------------------


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


# --- WebDataset ------------------------------------------------------------------------------------------------------


def shards_config(root, **options) -> SourceConfig:
    return SourceConfig("webdataset", root, **options)


def test_shards_may_lie_beside_each_other_with_the_split_in_their_name(tmp_path):
    write_shards(tmp_path, "train", [3, 2])
    for shard in (tmp_path / "train").iterdir():
        shard.rename(tmp_path / f"train-{shard.name}")
    assert len(webdataset.open_split(shards_config(tmp_path), "train")) == 5
    with pytest.raises(InputError, match=r"no shards val/\*\.tar nor val-\*\.tar"):
        webdataset.open_split(shards_config(tmp_path), "val")


def test_sizes_are_taken_from_the_list_beside_the_shards(tmp_path):
    sidecar = write_shards(tmp_path, "val", [3, 2]) / "val/sizes.json"
    sidecar.write_text(json.dumps({"000.tar": 30, "001.tar": 20, "other.tar": 1}))
    assert len(webdataset.open_split(shards_config(tmp_path), "val")) == 50
    odd = ('"many"', "10000000000000000000000000000000", "-1", "true", "4.5")
    for text in ('{"000.tar": 30}', *(f'{{"000.tar": 30, "001.tar": {size}}}' for size in odd), "[1, 2]", "no json"):
        sidecar.write_text(text)
        with pytest.raises(InputError, match=r"sizes\.json' must give the samples of each shard, such as \{'000\.tar': 1000\}"):
            webdataset.open_split(shards_config(tmp_path), "val")


def test_counting_groups_members_as_reading_does(tmp_path):
    write_file(tmp_path / "classes.txt", b"cat\ndog\n")
    image = encode(noise(0))
    members = ["__meta__/a.json", "__index__", "a/1.png", "a/1.cls", "a/1.seg.png", "b/1.png", "b/1.cls", "README", "2.5.png"]
    write_shard(tmp_path / "val/0.tar", [(name, b"0" if name.endswith(".cls") else image) for name in members])
    source = webdataset.open_split(shards_config(tmp_path), "val")
    assert [source.name_of(record) for record in source.records(0, 1)] == ["0.tar/a/1", "0.tar/b/1", "0.tar/2"]
    assert len(source) == 3


def test_class_names_come_from_a_list(tmp_path):
    write_shards(tmp_path, "val", [3])
    (tmp_path / "classes.txt").rename(tmp_path / "names.txt")
    assert webdataset.open_split(shards_config(tmp_path, class_list=tmp_path / "names.txt"), "val").classes == CLASSES
    with pytest.raises(InputError, match=r"cannot read class_list .*classes\.txt"):
        webdataset.open_split(shards_config(tmp_path), "val")


def test_a_class_without_a_name_is_refused(tmp_path):
    write_shards(tmp_path, "val", [3])
    (tmp_path / "classes.txt").write_text("cat\n")
    with pytest.raises(InputError, match=r"'000\.tar/0001' is of class 1, but 1 classes are listed"):
        damage_of(shards_config(tmp_path))


@pytest.mark.parametrize("workers", [0, 2])
def test_samples_without_an_image_or_a_class_are_damaged(tmp_path, workers):
    write_file(tmp_path / "classes.txt", b"cat\ndog\n")
    image = encode(noise(0), "jpeg")
    members = {"good.JPG": image, "good.cls": b"1\n", "no_image.txt": b"?", "no_image.cls": b"1", "no_class.jpg": image}
    members |= {"bad_class.jpg": image, "bad_class.cls": b"dog", "torn.jpg": b"?", "torn.cls": b"0"}
    write_shard(tmp_path / "val/0.tar", members.items())
    assert damage_of(shards_config(tmp_path), workers=workers) == {
        "0.tar/no_image": "no image among its members (txt, cls)",
        "0.tar/no_class": "no class index in .cls: None",
        "0.tar/bad_class": "no class index in .cls: b'dog'",
        "0.tar/torn": "not an image of a known format",
    }


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("is_counted", [False, True])
def test_a_truncated_shard_is_named(tmp_path, workers, is_counted):
    shard = write_shards(tmp_path, "val", [3, 4]) / "val/001.tar"
    if is_counted:
        write_file(tmp_path / "val/sizes.json", b'{"000.tar": 3, "001.tar": 4}')
    shard.write_bytes(shard.read_bytes()[:4000])
    with pytest.raises(
        InputError, match=r"^cannot read the shard '.*/val/001\.tar' \(unexpected end of data\); write it anew$"
    ):
        damage_of(shards_config(tmp_path), workers=workers)


def test_a_shard_that_is_no_tar_file_is_named(tmp_path):
    write_file(write_shards(tmp_path, "val", [3]) / "val/001.tar", b"?" * 2000)
    with pytest.raises(InputError, match=r"cannot read the shard '.*/val/001\.tar'"):
        webdataset.open_split(shards_config(tmp_path), "val")


def test_a_stream_cannot_be_limited(tmp_path):
    config = DataConfig("webdataset", write_shards(tmp_path, "train", [3]), limit=2)
    with pytest.raises(InputError, match="limit 2 is not available for a stream"):
        open_dataset(config, "train", small_config(), augmentation=config)


def test_a_sample_of_several_images_is_refused_unless_one_is_named(tmp_path):
    write_file(tmp_path / "classes.txt", b"cat\ndog\n")
    mask, picture = encode(Image.new("L", (8, 8))), encode(Image.new("RGB", (30, 20), "red"), "jpeg")
    members = {"0.png": mask, "0.JPG": picture, "0.cls": b"1", "1.png": mask, "1.cls": b"1"}
    write_shard(tmp_path / "val/0.tar", members.items())
    for workers in (0, 1):
        with pytest.raises(InputError, match=r"'0\.tar/0' has several images \(png, jpg\).*--data\.image-member jpg"):
            damage_of(shards_config(tmp_path), workers=workers)
    for member in ("jpg", ".JPG"):
        source = webdataset.open_split(shards_config(tmp_path, image_member=member), "val")
        assert source.read(next(source.records(0, 1)))[0].size == (30, 20)
        assert damage_of(shards_config(tmp_path, image_member=member)) == {"0.tar/1": "no image among its members (png, cls)"}
    assert damage_of(shards_config(tmp_path, image_member="png")) == {}


def raw_header(name=b"0.png", size=0, kind=b"0", **fields) -> bytes:
    header = tarfile.TarInfo(name.decode())
    header.size, header.type = size, kind
    for field, value in fields.items():
        setattr(header, field, value)
    return header.tobuf(tarfile.GNU_FORMAT)


TARS = {
    "a member that claims 10 GB": raw_header(size=10 * 2**30) + bytes(2048),
    "a long name that claims 2 GB": raw_header(b"././@LongLink", 2**31, tarfile.GNUTYPE_LONGNAME) + bytes(2048),
    "a PAX header that claims 2 GB": raw_header(b"pax", 2**31, tarfile.XHDTYPE) + bytes(2048),
    "a PAX header of 8 MB": raw_header(b"pax", 2**23, tarfile.XGLTYPE)
    + b"30 comment=aaaaaaaaaaaaaaaaaa\n" * 2**18
    + bytes(2**20),
    "PAX headers in a row": raw_header(b"pax", 12, tarfile.XHDTYPE) * 3000 + bytes(2048),
    "long names in a row": (raw_header(b"././@LongLink", 1, tarfile.GNUTYPE_LONGNAME) + bytes(512)) * 3000 + bytes(2048),
    "a sparse member": raw_header(b"0.png", 512, tarfile.GNUTYPE_SPARSE) + bytes(4096),
    "a negative size": raw_header().replace(b"00000000000\0", b"\xff" * 12, 1) + bytes(2048),
    "bytes of no tar": b"\x1f\x8b" + bytes(4000),
}


@pytest.mark.parametrize("content", TARS.values(), ids=TARS)
@pytest.mark.parametrize("is_counted", [False, True])
def test_shards_that_claim_what_they_have_not_take_no_memory(tmp_path, content, is_counted):
    write_shards(tmp_path, "val", [2])
    write_file(tmp_path / "val/001.tar", content)
    if is_counted:
        write_file(tmp_path / "val/sizes.json", b'{"000.tar": 2, "001.tar": 1}')
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with contextlib.suppress(InputError):
        damage_of(shards_config(tmp_path))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 * 1024


def test_members_with_tricks_in_their_names_are_read_and_never_unpacked(tmp_path):
    write_file(tmp_path / "classes.txt", b"cat\ndog\n")
    image = encode(noise(0))
    names = ["../../up", "/abs/olute", "./here", "a\x1b[31mred"]
    write_shard(
        tmp_path / "val/0.tar", [(f"{name}{suffix}", c) for name in names for suffix, c in ((".png", image), (".cls", b"0"))]
    )
    before = sorted(tmp_path.rglob("*"))
    source = webdataset.open_split(shards_config(tmp_path), "val")
    assert len(list(source.records(0, 1))) == len(source) == 4
    assert damage_of(shards_config(tmp_path)) == {}
    assert sorted(tmp_path.rglob("*")) == before


def test_links_and_folders_in_a_shard_are_passed_over(tmp_path):
    write_file(tmp_path / "classes.txt", b"cat\ndog\n")
    path = write_shard(tmp_path / "val/0.tar", [("0.png", encode(noise(0))), ("0.cls", b"0")])
    with tarfile.open(path, "a") as tar:
        for name, kind in (
            ("1.png", tarfile.SYMTYPE),
            ("2.png", tarfile.LNKTYPE),
            ("3.png", tarfile.DIRTYPE),
            ("4.png", tarfile.FIFOTYPE),
        ):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, "/etc/passwd"
            tar.addfile(member)
    assert len(webdataset.open_split(shards_config(tmp_path), "val")) == 1
    assert damage_of(shards_config(tmp_path)) == {}


def test_pipes_are_no_shards_and_no_lists(tmp_path):
    write_shards(tmp_path, "val", [2])
    os.mkfifo(tmp_path / "val/001.tar")
    with pytest.raises(InputError, match=r"cannot read the shard '.*001\.tar' \(no regular file\)"):
        webdataset.open_split(shards_config(tmp_path), "val")
    (tmp_path / "val/001.tar").unlink()
    (tmp_path / "classes.txt").unlink()
    os.mkfifo(tmp_path / "classes.txt")
    with pytest.raises(InputError, match="cannot read class_list .*no regular file"):
        webdataset.open_split(shards_config(tmp_path), "val")
