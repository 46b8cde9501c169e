"""Tiny data sets on disk, one for every source: what the data tests read."""

import gzip
import io
import pickle
import shutil
import tarfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from torchvision.datasets import CIFAR10, CIFAR100

from supervit.data import EpochLoader, SourceConfig, open_dataset
from tests.conftest import small_config

CLASSES = ["cat", "dog"]
COUNTS = {"train": 8, "val": 4}


def noise(seed: int, size=(40, 30), mode="RGB") -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels).convert(mode)


def encode(image: Image.Image, format="png") -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format)
    return buffer.getvalue()


def write_file(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def write_folder(root: Path) -> Path:
    """ROOT/SPLIT/CLASS/N.png: 8 training and 4 held-out images of two classes."""
    for split, count in COUNTS.items():
        for index in range(count):
            write_file(root / split / CLASSES[index % 2] / f"{index}.png", encode(noise(index)))
    return root


def write_images(folder: Path, count: int, classes: Iterable[str] = "ab", digits: int = 2) -> None:
    """FOLDER/CLASS/N.png: so many grey images of each class, N of so many digits."""
    for label in classes:
        (folder / label).mkdir(parents=True, exist_ok=True)
        for index in range(count):
            Image.new("L", (16, 16), index * 10).save(folder / label / f"{index:0{digits}}.png")


def write_shard(path: Path, members: Iterable[tuple[str, bytes]]) -> Path:
    """A tar file of these (name, content)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in members:
            header = tarfile.TarInfo(name)
            header.size = len(content)
            tar.addfile(header, io.BytesIO(content))
    return path


def write_shards(root: Path, split: str, sizes: Iterable[int]) -> Path:
    """ROOT/SPLIT/N.tar of so many samples each, and ROOT/classes.txt; the samples' pixels are numbered through."""
    write_file(root / "classes.txt", "\n".join(CLASSES).encode())
    number = 0
    for shard, size in enumerate(sizes):
        members = []
        for index in range(number, number + size):
            image = encode(Image.new("L", (4, 4), index))
            members += [(f"{index:04}.png", image), (f"{index:04}.cls", str(index % 2).encode())]
        write_shard(root / split / f"{shard:03}.tar", members)
        number += size
    return root


def idx(array: np.ndarray) -> bytes:
    """An array of bytes as an IDX file."""
    return bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes() + array.astype(np.uint8).tobytes()


def _digits(root: Path, monkeypatch) -> SourceConfig:
    return SourceConfig("digits")


def _image_folder(root: Path, monkeypatch) -> SourceConfig:
    return SourceConfig("image_folder", write_folder(root))


def _cifar(root: Path, monkeypatch, dataset: type[CIFAR10], fine: str) -> None:
    for attribute, split in (("train_list", "train"), ("test_list", "val")):
        names = [name for name, _ in getattr(dataset, attribute)]
        monkeypatch.setattr(dataset, attribute, [(name, None) for name in names])  # our files have other digests
        for seed, name in enumerate(names):
            pixels = np.random.default_rng(seed).integers(0, 255, (COUNTS[split], 3 * 32 * 32), dtype=np.uint8)
            content = {"data": pixels, f"{fine}labels": [index % 2 for index in range(COUNTS[split])]}
            write_file(root / dataset.base_folder / name, pickle.dumps(content))
    monkeypatch.setattr(dataset, "meta", {**dataset.meta, "md5": None})
    write_file(root / dataset.base_folder / dataset.meta["filename"], pickle.dumps({dataset.meta["key"]: CLASSES}))


def _cifar10(root: Path, monkeypatch) -> SourceConfig:
    _cifar(root, monkeypatch, CIFAR10, "")
    return SourceConfig("cifar10", root)


def _cifar100(root: Path, monkeypatch) -> SourceConfig:
    _cifar(root, monkeypatch, CIFAR100, "fine_")
    return SourceConfig("cifar100", root)


def _fashion_mnist(root: Path, monkeypatch) -> SourceConfig:
    for part, count in (("train", COUNTS["train"]), ("t10k", COUNTS["val"])):
        images = np.random.default_rng(count).integers(0, 255, (count, 28, 28))
        write_file(root / f"{part}-images-idx3-ubyte.gz", gzip.compress(idx(images)))
        write_file(root / f"{part}-labels-idx1-ubyte.gz", gzip.compress(idx(np.arange(count))))
    return SourceConfig("fashion_mnist", root)


def hugging_face_rows(count: int):
    """Rows of an image and a class each."""
    import datasets

    features = datasets.Features({"picture": datasets.Image(), "kind": datasets.ClassLabel(names=CLASSES)})
    images = [{"bytes": encode(noise(index)), "path": None} for index in range(count)]
    return datasets.Dataset.from_dict({"picture": images, "kind": [index % 2 for index in range(count)]}, features)


def _hugging_face(root: Path, monkeypatch) -> SourceConfig:
    import datasets

    splits = {"train": hugging_face_rows(COUNTS["train"]), "validation": hugging_face_rows(COUNTS["val"])}
    datasets.DatasetDict(splits).save_to_disk(root)
    return SourceConfig("hugging_face", root)


def _webdataset(root: Path, monkeypatch) -> SourceConfig:
    write_shards(root, "train", [3, 1, 4])
    return SourceConfig("webdataset", write_shards(root, "val", [2, 2]))


@dataclass(frozen=True)
class Builder:
    """How to make a source's data set in a folder, and which options of `SourceConfig` the source reads."""

    build: Callable[..., SourceConfig]
    options: frozenset[str]
    package: str | None = None
    """An optional package that it needs."""
    is_stream: bool = False
    add: Callable[[Path, dict[str, bytes]], None] | None = None
    """Puts files, by name, among the held-out images."""
    replace: Callable[[Path, bytes], None] | None = None
    """Gives the first held-out image another content."""


def _add_to_folder(root: Path, files: dict[str, bytes]) -> None:
    for name, content in files.items():
        write_file(root / "val" / name, content)
        write_file(root / "val" / CLASSES[0] / name, content)


def _replace_in_folder(root: Path, content: bytes) -> None:
    (root / "val" / CLASSES[0] / "0.png").write_bytes(content)


def _members(path: Path) -> dict[str, bytes]:
    with tarfile.open(path) as tar:
        return {member.name: tar.extractfile(member).read() for member in tar}


def _add_to_shard(root: Path, files: dict[str, bytes]) -> None:
    members = _members(root / "val/000.tar")
    first, *rest = members.items()
    named = [(f"{folder}{name}", content) for folder in ("", "./", "sub/") for name, content in files.items()]
    write_shard(root / "val/000.tar", [*named, first, *rest, *named])


def _replace_in_shard(root: Path, content: bytes) -> None:
    members = _members(root / "val/000.tar")
    write_shard(root / "val/000.tar", (members | {next(iter(members)): content}).items())


def _replace_in_rows(root: Path, content: bytes) -> None:
    import datasets

    rows = hugging_face_rows(COUNTS["val"])
    images = [{"bytes": content, "path": None}]
    images += [{"bytes": encode(noise(index)), "path": None} for index in range(1, COUNTS["val"])]
    changed = datasets.Dataset.from_dict({"picture": images, "kind": rows["kind"]}, rows.features)
    train = hugging_face_rows(COUNTS["train"])
    shutil.rmtree(root)
    datasets.DatasetDict({"train": train, "validation": changed}).save_to_disk(root)


BUILDERS = {
    "cifar10": Builder(_cifar10, frozenset({"root", "download"})),
    "cifar100": Builder(_cifar100, frozenset({"root", "download"})),
    "digits": Builder(_digits, frozenset(), "sklearn.datasets"),
    "fashion_mnist": Builder(_fashion_mnist, frozenset({"root", "download"})),
    "hugging_face": Builder(_hugging_face, frozenset({"root", "repository"}), "datasets", replace=_replace_in_rows),
    "image_folder": Builder(_image_folder, frozenset({"root", "class_list"}), add=_add_to_folder, replace=_replace_in_folder),
    "webdataset": Builder(
        _webdataset,
        frozenset({"root", "class_list", "image_member"}),
        "webdataset",
        is_stream=True,
        add=_add_to_shard,
        replace=_replace_in_shard,
    ),
}


def damage_of(config: SourceConfig, split="val", workers=0) -> dict[str, str]:
    """What an evaluation of the split finds damaged."""
    loader = EpochLoader(open_dataset(config, split, small_config()), 4, workers, max_damaged=1.0)
    list(loader.epoch())
    return loader.damaged
