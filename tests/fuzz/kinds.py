"""All kinds of cases: each a function of its number alone."""

from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
from PIL import Image

from supervit.data import DataConfig, EpochLoader, SourceConfig, evaluation_transform, open_dataset, read_image
from tests.data_sets import write_shard
from tests.fuzz import artefacts, commands, images, json_files, tars, weights
from tests.fuzz.json_files import read_all
from tests.fuzz.mutations import put_no_file
from tests.fuzz.workshop import Door, Workshop, has, picture_bytes, small_config

POINTS = ("4", "4@0.5", "5@0.7", "7", "7@0.31")


def case(kind: str, number: int, seed: int, folder: Path, workshop: Workshop) -> tuple[str, list[Door]]:
    """What a case is, in words, and the doors to try it on; its files are written into the folder."""
    return CASES[kind](Random(f"{kind} {seed} {number}"), folder, workshop)


def _image(rng: Random, folder: Path, workshop: Workshop) -> tuple[str, list[Door]]:
    """An image file through the predictor, and through the transforms or a source."""
    if rng.random() < 0.05:
        return _array(rng, workshop)
    if rng.random() < 0.01:
        predictor = workshop.predictors["rgb", rng.random() < 0.5]
        return "right: a JPEG", [("Predictor", lambda: predictor(picture_bytes(), rng.choice(POINTS)))]
    what, content = images.make(rng)
    path = folder / f"image{rng.choice(images.SUFFIXES)}"
    path.write_bytes(content)
    if rng.random() < 0.002:
        what, _ = "no file", put_no_file(path, rng)
        return what, [("Predictor", lambda: workshop.predictors["rgb", True](path))]
    predictor = workshop.predictors[rng.choice(("rgb", "grey")), rng.random() < 0.7]
    point = rng.choice(POINTS)
    doors: list[Door] = [("Predictor", lambda: predictor(rng.choice((path, content)), point))]
    draw = rng.random()
    if draw < 0.3:
        doors.append(("transforms", lambda: evaluation_transform(predictor.config)(read_image(path))))
    elif draw < 0.45:
        doors.append(("image_folder", lambda: _folder(folder, path, rng.randrange(10**6))))
    elif draw < 0.5 and has("webdataset"):
        doors.append(("webdataset", lambda: _shard(folder, content)))
    elif draw < 0.53 and has("datasets"):
        doors.append(("hugging_face", lambda: _rows(folder, content)))
    elif draw < 0.6:
        doors.append(("opened picture", lambda: _opened(path, predictor, point)))
    return what, doors


def _folder(folder: Path, path: Path, seed: int) -> Any:
    """Training and held-out images, with an augmentation as by default."""
    for split in ("train", "val"):
        (folder / "data" / split / "cat").mkdir(parents=True)
        (folder / "data" / split / "dog").mkdir()
        (folder / "data" / split / "cat" / path.name).write_bytes(path.read_bytes())
        (folder / "data" / split / "dog/good.jpg").write_bytes(picture_bytes())
    config = DataConfig("image_folder", folder / "data", batch_size=2, workers=0)
    model = small_config(in_chans=1 + seed % 2 * 2)
    if seed % 3:
        loader = EpochLoader(open_dataset(config, "train", model, config), 2, 0, seed, max_damaged=1.0)
    else:
        loader = EpochLoader(open_dataset(config, "val", model), 2, 0, max_damaged=1.0)
    found = [batch[0].shape for batch in loader.epoch()]
    _remove(folder / "data")
    return found


def _shard(folder: Path, content: bytes) -> Any:
    root = folder / "shards"
    write_shard(root / "val/0.tar", [("0.jpg", content), ("0.cls", b"0"), ("1.jpg", picture_bytes()), ("1.cls", b"1")])
    (root / "classes.txt").write_text("cat\ndog\n")
    found = read_all(SourceConfig("webdataset", root, workers=0, batch_size=4))
    _remove(root)
    return found


def _rows(folder: Path, content: bytes) -> Any:
    import datasets

    features = datasets.Features({"picture": datasets.Image(decode=False), "kind": datasets.ClassLabel(names=["cat", "dog"])})
    rows = datasets.Dataset.from_dict({"picture": [{"bytes": content, "path": None}], "kind": [0]}, features)
    datasets.DatasetDict({"validation": rows.cast_column("picture", datasets.Image())}).save_to_disk(folder / "rows")
    found = read_all(SourceConfig("hugging_face", folder / "rows", workers=0, batch_size=4))
    _remove(folder / "rows")
    return found


def _opened(path: Path, predictor: Any, point: str) -> Any:
    """A picture that the caller opened."""
    try:
        picture = Image.open(path)
    except Exception:  # the caller's own
        return []
    with picture:
        return predictor(picture, point)


def _array(rng: Random, workshop: Workshop) -> tuple[str, list[Door]]:
    """Arrays, tensors and PIL images that a caller may hand over."""
    predictor = workshop.predictors[rng.choice(("rgb", "grey")), rng.random() < 0.5]
    sides = (0, 1, 2, 3, 4, 28, 500)
    shape = tuple(rng.choice(sides if axis < 2 else sides[:-1]) for axis in range(rng.choice((0, 1, 2, 3, 3, 3, 4))))
    dtype = rng.choice((np.uint8, np.uint8, np.float32, np.int64, np.uint16, np.float64, np.bool_, np.complex64, object))
    array = np.zeros(shape, dtype)
    mode = rng.choice(images.MODES)
    makers: tuple[Callable[[], Any], ...] = (
        lambda: array, lambda: torch.from_numpy(array), lambda: torch.full((3, 28, 28), rng.choice((float("nan"),
        float("inf"), 1e38))),
        lambda: images.picture(mode), lambda: Image.new(mode, rng.choice(((0, 0), (1, 0), (1, 1), (9000, 1)))),
        lambda: torch.zeros(3, 28, 28, device="meta"),
        lambda: torch.zeros(3, 28, 28).to_sparse(), lambda: torch.zeros(1, dtype=torch.uint8).expand(3, 4000, 4000),
        lambda: None,
        lambda: rng.choice((b"", "", "a\0b", "x" * 5000, "/dev/zero", "/dev/null", ".", Path("\udc80"), 5, [], {}, [None],
        [[b""]], "http://x/y.jpg")),
        lambda: np.lib.stride_tricks.as_strided(np.zeros(1, np.uint8), (4000, 4000, 3), (0, 0, 0)),
        lambda: torch.zeros(3, 28, 28, dtype=rng.choice((torch.float16, torch.bfloat16, torch.float64, torch.complex64))),
    )  # fmt: skip
    number = rng.randrange(len(makers))
    try:
        value = makers[number]()
    except Exception:  # cannot be made
        value = None
    return f"value {number} {mode} {shape} {np.dtype(dtype)}", [("Predictor", lambda: predictor(value, rng.choice(POINTS)))]


def _remove(folder: Path) -> None:
    import shutil

    shutil.rmtree(folder)


CASES: dict[str, Callable[[Random, Path, Workshop], tuple[str, list[Door]]]] = {
    "images": _image,
    "weights": weights.make,
    "json": json_files.make,
    "tars": tars.make,
    "artefacts": artefacts.make,
    "commands": commands.make,
}
ALONE = ("artefacts", "commands")  # kinds each case of which has a process of its own
