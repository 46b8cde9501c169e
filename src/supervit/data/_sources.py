"""What a data source is, and a source with a transform."""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from supervit.augmentation import failed_step
from supervit.errors import InputError, reason_of
from supervit.token_labels import TokenLabels, label_map_path, read_label_map


class Source(Protocol):
    """The images of one split, by number."""

    @property
    def classes(self) -> list[str]:
        """Names of the classes, in index order."""
        ...

    def __len__(self) -> int: ...

    def read(self, record: Any) -> tuple[Image.Image, int]:
        """The decoded image and class index of a record: a number below the length, or what a stream yields.

        Raises:
            DamagedImage: this one cannot be read.
        """
        ...

    def name_of(self, record: Any) -> str:
        """Where the image is: its path below the split's folder, or another name that a user can find it by."""
        ...


class Stream(Source, Protocol):
    """The images of one split, in an order of their own; the length is known all the same."""

    @property
    def shards(self) -> list[Path]:
        """The files that it is read from: what decides the order, besides the seed."""
        ...

    def records(self, part: int, parts: int, seed: int | None = None) -> Iterator[Any]:
        """The records of one of `parts` parts, undecoded, shuffled as a function of the seed (None: in order).

        The parts under one seed are disjoint and make up the split.
        """
        ...


def is_stream(source: Source) -> bool:
    """Whether a source yields its records in an order of its own."""
    return hasattr(source, "records")


@dataclass(frozen=True)
class ImageDataset:
    """A source with a transform.

    Args:
        source: Where images come from.
        transform: From an image to a normalised tensor (C, S, S); with token labels a `JointAugment`.
        token_labels: Folder of label maps, or None.
    """

    source: Source
    transform: Callable[[Image.Image], Any]
    token_labels: Path | None = None

    @property
    def classes(self) -> list[str]:
        """Names of the classes, in index order."""
        return self.source.classes

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        if not 0 <= index < len(self):
            raise IndexError(index)
        return self.load(index)

    def load(self, record: Any, seed: int | None = None) -> Any:
        """(Image, class index) of a record, and its token labels, if any; augmented as a function of the seed, if any.

        Raises:
            DamagedImage: the image cannot be read.
            InputError: a transform fails on it; names both.
        """
        if seed is not None:
            seed_everything(seed)
        image, label = self.source.read(record)
        if self.token_labels is None:
            return self._transformed(image, record), label
        path = label_map_path(self.token_labels, self.source.name_of(record))
        label_map = read_label_map(path, len(self.classes))
        picture, *geometry = self._transformed(image, record)
        return picture, label, TokenLabels(*label_map, *geometry)

    def _transformed(self, image: Image.Image, record: Any) -> Any:
        try:
            return self.transform(image)
        except InputError:
            raise
        except Exception as error:  # of a transform of any library
            raise InputError(
                f"the transform {failed_step(error.__traceback__)} fails on the image {self.source.name_of(record)!r} "
                f"({reason_of(error)}); leave it out of the augmentation (auto_augment), or remove the image"
            ) from error


@dataclass(frozen=True)
class Limited:
    """A part of a source.

    Args:
        source: The whole.
        indices: The images of the part.
    """

    source: Source
    indices: list[int]

    @property
    def classes(self) -> list[str]:
        """Names of the classes of the whole, in index order."""
        return self.source.classes

    @classmethod
    def draw(cls, source: Source, images: int) -> "Limited":
        """That many images, drawn once and for all: the same ones in every run.

        Raises:
            InputError: there are not so many, or they come as a stream.
        """
        if is_stream(source):
            raise InputError(f"limit {images} is not available for a stream of shards; leave it out, or stream fewer shards")
        if not 1 <= images <= len(source):
            raise InputError(f"limit {images} is not in 1...{len(source)}, the images that there are")
        return cls(source, random.Random(f"supervit limit {images}").sample(range(len(source)), images))

    def __len__(self) -> int:
        return len(self.indices)

    def read(self, record: int) -> tuple[Image.Image, int]:
        """The image and class index of a record of this part."""
        return self.source.read(self.indices[record])

    def name_of(self, record: int) -> str:
        """The name of a record of this part."""
        return self.source.name_of(self.indices[record])


def seed_everything(*parts: int | str) -> None:
    """Seed Python, NumPy and torch as a function of these numbers and words, such as ("step", seed, step)."""
    mixed = mix_seed(*parts)
    random.seed(mixed)
    np.random.seed(mixed % 2**32)
    torch.default_generator.manual_seed(mixed)  # Cost: torch.manual_seed walks the stack for each kind of device, 1 ms
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(mixed)


def mix_seed(*parts: int | str) -> int:
    """One seed, in [0, 2^63), of several numbers and words."""
    return random.Random(f"supervit {parts}").getrandbits(63)
