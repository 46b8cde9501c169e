"""Image data sets: one file is one source, found by its name.

A source file has one function `open_split(config, split, transform)`: a map-style data set of (transform(PIL image),
class index) with an attribute `classes`, the class names in index order.
"""

import random
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
from PIL import Image
from timm.data import create_transform
from torch import Tensor
from torch.utils.data import DataLoader

from supervit.config import SuperViTConfig
from supervit.errors import InputError
from supervit.plugins import load_plugin

Split = Literal["train", "val"]
Transform = Callable[[Image.Image], Tensor]


class ImageDataset(Protocol):
    """What `open_split` returns."""

    classes: list[str]

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> tuple[Tensor, int]: ...


@dataclass(frozen=True)
class SourceConfig:
    """Where images come from and how they are batched."""

    name: str = "image_folder"
    """Source: the name of a file in `supervit/data`, such as image_folder or digits."""
    root: Path | None = None
    """Folder of the data, where the source needs one (image_folder: with train/CLASS/* and val/CLASS/*)."""
    class_list: Path | None = None
    """Text file with one class folder name per line in index order; then folders may be missing. Default: sorted folders."""
    batch_size: int = 256
    """Images per step."""
    workers: int = 2
    """Processes that load images; 0 loads in the main process."""

    def __post_init__(self) -> None:
        if self.batch_size < 1 or self.workers < 0:
            raise InputError(f"batch_size {self.batch_size} must be at least 1 and workers {self.workers} at least 0")


@dataclass(frozen=True)
class DataConfig(SourceConfig):
    """A source and its augmentation in training."""

    scale: tuple[float, float] = (0.08, 1.0)
    """Training: area of the random crop, as a share of the image."""
    ratio: tuple[float, float] = (0.75, 1.3333)
    """Training: aspect ratio of the random crop."""
    hflip: float = 0.5
    """Training: probability of a horizontal flip."""
    auto_augment: str | None = "rand-m9-mstd0.5-inc1"
    """Training: timm's augmentation policy, or None."""
    random_erasing: float = 0.25
    """Training: probability of erasing a box (per pixel noise)."""


def open_dataset(
    config: SourceConfig, split: Split, model: SuperViTConfig, augmentation: DataConfig | None = None
) -> ImageDataset:
    """A split as normalised images (C, S, S) of a model's size and channels: centre crops, or augmented.

    Raises:
        InputError: unknown source, data missing or inconsistent, or an augmentation that does not exist.
    """
    try:
        transform = _transform(model, augmentation)
    except (AssertionError, ValueError, KeyError) as error:  # timm's answers to policies that it does not know
        if isinstance(error, InputError) or augmentation is None:
            raise
        raise InputError(
            f"auto_augment {augmentation.auto_augment!r} is not a policy of timm ({error}); use None or such as rand-m9-mstd0.5"
        ) from error
    dataset: ImageDataset = load_plugin(sys.modules[__name__], config.name).open_split(config, split, transform)
    return dataset


def _transform(model: SuperViTConfig, augmentation: DataConfig | None) -> Transform:
    modes = {1: "L", 3: "RGB"}
    if model.in_chans not in modes:
        raise InputError(f"image files cannot give in_chans={model.in_chans}; use 1 (grey) or 3 (RGB)")
    common: dict[str, Any] = {
        "input_size": (model.in_chans, model.image_size, model.image_size),
        "mean": model.mean,
        "std": model.std,
        "interpolation": model.interpolation,
    }
    if augmentation is not None:
        transform = create_transform(
            **common,
            is_training=True,
            scale=augmentation.scale,
            ratio=augmentation.ratio,
            hflip=augmentation.hflip,
            color_jitter=None,
            auto_augment=augmentation.auto_augment,
            re_prob=augmentation.random_erasing,
            re_mode="pixel",
        )
    else:
        transform = create_transform(**common, is_training=False, crop_pct=model.crop_pct)
    return _InMode(modes[model.in_chans], transform)


@dataclass(frozen=True)
class _InMode:
    """A transform of images in one PIL mode; a class so that worker processes can be handed it."""

    mode: str
    transform: Transform

    def __call__(self, image: Image.Image) -> Tensor:
        return self.transform(_to_8_bits(image).convert(self.mode))


def _to_8_bits(image: Image.Image) -> Image.Image:
    """The image with 8 bits a channel; Pillow's own conversion of 16-bit images clips instead of scaling."""
    if image.mode.startswith("I"):
        return Image.fromarray((np.asarray(image).astype(np.int64).clip(0, 65535) // 257).astype(np.uint8))
    if image.mode == "F":
        raise InputError("an image of floating-point values has no known range; save it with 8 or 16 bits a channel")
    return image


class EpochLoader:
    """Batches of a data set: shuffled as a function of (seed, epoch) for training, in order for evaluation.

    A training epoch has whole batches only, unless the data set is smaller than one batch.

    Args:
        dataset: From `open_dataset`.
        batch_size: Images per batch.
        workers: Processes that load.
        seed: Seed of order and augmentation; None for evaluation.
    """

    def __init__(self, dataset: ImageDataset, batch_size: int, workers: int, seed: int | None = None):
        self.seed = seed
        self.generator = torch.Generator()
        self.loader: DataLoader[Any] = DataLoader(
            dataset,  # type: ignore[arg-type]
            batch_size=batch_size,
            shuffle=seed is not None,
            num_workers=workers,
            drop_last=seed is not None and len(dataset) >= batch_size,
            generator=self.generator,
        )

    def __len__(self) -> int:
        return len(self.loader)

    def epoch(self, epoch: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches (images (B, C, S, S), class indices (B)) of one epoch."""
        if self.seed is not None:
            seed_everything(self.seed, epoch)
            self.generator.manual_seed(_mix(self.seed, epoch))
        try:
            yield from self.loader
        except InputError as error:  # a worker process adds its traceback to the message
            raise InputError(str(error).strip().splitlines()[-1].rpartition("InputError: ")[2]) from None


def seed_everything(seed: int, epoch: int = 0) -> None:
    """Seed Python, NumPy and torch as a function of (seed, epoch), so that an epoch does not depend on those before."""
    mixed = _mix(seed, epoch)
    random.seed(mixed)
    np.random.seed(mixed % 2**32)
    torch.manual_seed(mixed)


def _mix(seed: int, epoch: int) -> int:
    return random.Random(f"supervit epoch {seed} {epoch}").getrandbits(63)
