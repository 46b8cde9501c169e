"""Fashion-MNIST: 60,000 training and 10,000 test images of 10 kinds of clothing, 28x28 pixels, grey; the test images are the
held-out ones.

Source: H. Xiao, K. Rasul and R. Vollgraf, "Fashion-MNIST", arXiv:1708.07747.
"""

import gzip
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torchvision.datasets import FashionMNIST

from supervit.data import SourceConfig, Split
from supervit.data._arrays import ArrayImages
from supervit.errors import InputError, reason_of

_FOLDERS = (".", "FashionMNIST/raw")  # as published, and as torchvision lays it out
_MOST_BYTES = 128 * 2**20  # of an unpacked file: the largest published one has 45 MiB
_PARTS = {"train": "train", "val": "t10k"}


def open_split(config: SourceConfig, split: Split) -> ArrayImages:
    """The images of a split, from the published files in ROOT or ROOT/FashionMNIST/raw, packed (.gz) or not.

    Raises:
        InputError: no root; files missing, damaged or not to be fetched.
    """
    config.refuse("class_list", "repository", "image_member")
    root = config.folder("with train-images-idx3-ubyte.gz and the three other files")
    names = [f"{_PARTS[split]}-images-idx3-ubyte", f"{_PARTS[split]}-labels-idx1-ubyte"]
    if config.download and not all(_find(root, name) for name in names):
        try:
            FashionMNIST(root, download=True)
        except (OSError, RuntimeError) as error:
            reason = " ".join(str(error).split())
            raise InputError(f"cannot fetch Fashion-MNIST into {str(root)!r} ({reason}); put its four files there") from error
    images, labels = (_read_idx(root, name) for name in names)
    if images.ndim != 3 or labels.shape != images.shape[:1] or not images.size:
        raise InputError(f"{names[0]} {images.shape} and {names[1]} {labels.shape} in {str(root)!r} differ; fetch them anew")
    if labels.max() >= len(FashionMNIST.classes):
        raise InputError(
            f"{names[1]} in {str(root)!r} holds class {labels.max()} of {len(FashionMNIST.classes)}; fetch it anew"
        )
    return ArrayImages(images, labels.astype(np.int64), list(FashionMNIST.classes))


def _find(root: Path, name: str) -> Path | None:
    places = (root / folder / (name + suffix) for folder in _FOLDERS for suffix in ("", ".gz"))
    return next((place for place in places if place.is_file()), None)


def _read_idx(root: Path, name: str) -> NDArray[np.uint8]:
    """The array of an IDX file of bytes: two zeros, the type 8, the number of axes, their lengths (big-endian), the values."""
    path = _find(root, name)
    if path is None:
        raise InputError(f"no {name}[.gz] in {str(root)!r}; put the four files of Fashion-MNIST there, or use --data.download")
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            content = file.read(_MOST_BYTES + 1)
        if len(content) > _MOST_BYTES:
            raise ValueError(f"more than {_MOST_BYTES >> 20} MiB")
        if content[:3] != b"\0\0\x08":
            raise ValueError("not an IDX file of bytes")
        shape = np.frombuffer(content, ">u4", count=content[3], offset=4)
        return np.frombuffer(content, np.uint8, offset=4 + shape.nbytes).reshape(shape)
    except (OSError, EOFError, ValueError, IndexError, zlib.error) as error:
        raise InputError(f"cannot read {str(path)!r} ({reason_of(error)}); fetch it anew") from error
