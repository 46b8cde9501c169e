"""Image data sets: one file is one source, found by its name.

A source file has one function `open_split(config, split)` that returns a `Source` (images by number) or a `Stream` (images
in an order of their own); both decode images and know their classes. What is done to the images is not theirs.
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from timm.data import create_transform

from supervit.config import SuperViTConfig
from supervit.data._for_grid import read_for_grid
from supervit.data._images import IMAGE_SUFFIXES, DamagedImage, InMode, naming_damage, open_image, read_image
from supervit.data._loader import EpochLoader, draw_images
from supervit.data._sources import ImageDataset, Limited, Source, Stream, is_stream, mix_seed, seed_everything
from supervit.errors import InputError
from supervit.plugins import load_plugin
from supervit.token_labels import JointAugment

__all__ = [
    "IMAGE_SUFFIXES", "DamagedImage", "DataConfig", "EpochLoader", "ImageDataset", "InMode", "Source", "SourceConfig", "Split",
    "Stream", "draw_images", "evaluation_transform", "is_stream", "mix_seed", "naming_damage", "open_dataset", "open_image",
    "read_for_grid", "read_image", "seed_everything",
]  # fmt: skip

Split = Literal["train", "val"]


@dataclass(frozen=True)
class SourceConfig:
    """Where images come from and how they are batched."""

    name: str = "image_folder"
    """Source: the name of a file in `supervit/data`, such as image_folder or digits."""
    root: Path | None = None
    """Folder of the data, where the source needs one (image_folder: with train/CLASS/* and val/CLASS/*)."""
    repository: str | None = None
    """Name of a data set on the Hugging Face hub, such as uoft-cs/cifar10 (source hugging_face, instead of `root`)."""
    class_list: Path | None = None
    """Text file with one class name per line in index order; image_folder: class folders, of which some may then be missing
    (default: sorted folders); webdataset: default ROOT/classes.txt."""
    download: bool = False
    """Fetch the data set into `root` if it is not there (cifar10, cifar100, fashion_mnist)."""
    batch_size: int = 256
    """Images per step and process (the global batch is this times the number of processes)."""
    workers: int = 2
    """Processes that load images, for each process that trains; 0 loads in that process."""
    max_damaged: float = 0.01
    """Share of the images that may be unreadable: up to it they are skipped, counted and named, beyond it the work stops."""

    def __post_init__(self) -> None:
        if self.batch_size < 1 or self.workers < 0:
            raise InputError(f"batch_size {self.batch_size} must be at least 1 and workers {self.workers} at least 0")
        if not 0 <= self.max_damaged <= 1:
            raise InputError(f"max_damaged {self.max_damaged} is not in [0, 1]")

    def folder(self, layout: str) -> Path:
        """The folder of the data, for sources that need one.

        Raises:
            InputError: none is given; says what it must hold (`layout`).
        """
        if self.root is None:
            raise InputError(f"{self.name} needs the folder of the data, --data.root ({layout})")
        return self.root

    def refuse(self, *options: str) -> None:
        """Check that these options, for which a source has no use, are not set.

        Raises:
            InputError: one of them is.
        """
        for option in options:
            if value := getattr(self, option):
                raise InputError(f"{self.name} has no use for {option}={str(value)!r}; leave {option} out")


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
    train_interpolation: Literal["random", "nearest", "bilinear", "bicubic"] | None = None
    """Training: how crops are resized (random: bilinear or bicubic); default: as in evaluation."""
    repeats: int = 1
    """Training: how often an image is drawn in a row, augmented anew each time; an epoch sees 1 / repeats of the images."""
    mixup: float = 0.0
    """Training: alpha of mixup, 0 for none."""
    cutmix: float = 0.0
    """Training: alpha of cutmix, 0 for none."""
    mix_prob: float = 1.0
    """Training: probability that a batch is mixed."""
    mix_switch_prob: float = 0.5
    """Training: probability of cutmix where both are on."""
    token_labels: Path | None = None
    """Training: folder of label maps (CLASS/FILE.pt; published, or made by `supervit label`), for LV-ViT."""
    mix_token: float = 0.0
    """Training: alpha of MixToken (LV-ViT: 1.0), which exchanges boxes of patch tokens; 0 for none."""
    limit: int | None = None
    """Training: use this many images, drawn once and for all; default: all."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.repeats < 1:
            raise InputError(f"repeats {self.repeats} must be at least 1")
        for name in ("hflip", "random_erasing", "mix_prob", "mix_switch_prob"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"{name} {getattr(self, name)} is not in [0, 1]")
        for name in ("mixup", "cutmix", "mix_token"):
            if not getattr(self, name) >= 0:
                raise InputError(f"{name} {getattr(self, name)} must be at least 0")
        if self.mixes and (self.mix_token or self.token_labels):
            raise InputError("mixup and cutmix mix pixels, which token labels and MixToken cannot follow; set both to 0")
        if self.mixes and self.batch_size % 2:
            raise InputError(f"batch_size {self.batch_size} is odd; mixup and cutmix pair the images, use an even one")

    @property
    def mixes(self) -> bool:
        """Whether batches are mixed (mixup, cutmix)."""
        return self.mixup > 0 or self.cutmix > 0


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
    source: Source = load_plugin(sys.modules[__name__], config.name).open_split(config, split)
    if augmentation is None:
        return ImageDataset(source, transform)
    if augmentation.limit is not None:
        source = Limited.draw(source, augmentation.limit)
    return ImageDataset(source, transform, augmentation.token_labels)


def evaluation_transform(model: SuperViTConfig) -> InMode:
    """From an image to what `open_dataset` without augmentation gives of it: its centre, normalised (C, S, S).

    Raises:
        InputError: a model that is neither grey nor RGB.
    """
    transform = create_transform(**_input_format(model), is_training=False, crop_pct=model.crop_pct)
    return InMode(_mode(model), transform, crops_centre=True)


def _transform(model: SuperViTConfig, augmentation: DataConfig | None) -> InMode:
    if augmentation is None:
        return evaluation_transform(model)
    options: dict[str, Any] = {
        "interpolation": augmentation.train_interpolation or model.interpolation,
        "scale": augmentation.scale,
        "ratio": augmentation.ratio,
        "hflip": augmentation.hflip,
        "auto_augment": augmentation.auto_augment,
    }
    if augmentation.token_labels is not None:
        return InMode(_mode(model), JointAugment(model, random_erasing=augmentation.random_erasing, **options))
    options = _input_format(model) | options | {"re_prob": augmentation.random_erasing, "re_mode": "pixel"}
    return InMode(_mode(model), create_transform(**options, is_training=True, color_jitter=None))


def _mode(model: SuperViTConfig) -> str:
    modes = {1: "L", 3: "RGB"}
    if model.in_chans not in modes:
        raise InputError(f"image files cannot give in_chans={model.in_chans}; use 1 (grey) or 3 (RGB)")
    return modes[model.in_chans]


def _input_format(model: SuperViTConfig) -> dict[str, Any]:
    return {
        "input_size": (model.in_chans, model.image_size, model.image_size),
        "mean": model.mean,
        "std": model.std,
        "interpolation": model.interpolation,
    }
