"""What CIFAR and Fashion-MNIST make of layouts and faults: downloads, pickles, IDX files."""

import gzip
import pickle
from dataclasses import dataclass

import numpy as np
import pytest
from torchvision.datasets import CIFAR10, FashionMNIST

from supervit import InputError
from supervit.data import (
    SourceConfig,
    cifar10,
    cifar100,
    fashion_mnist,
)
from tests.data_sets import (
    BUILDERS,
    COUNTS,
    idx,
    write_file,
)


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
