"""Sources opened as data sets: images transformed for a model, in evaluation and in training."""

from typing import Any

import supervit.data
from supervit.augmentation import create_augmentation
from supervit.complexity import sides
from supervit.config import SuperViTConfig
from supervit.data._config import DataConfig, SourceConfig, Split
from supervit.data._images import InMode
from supervit.data._sources import ImageDataset, Limited, Source
from supervit.errors import InputError
from supervit.plugins import load_plugin
from supervit.token_labels import JointAugment


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
    source: Source = load_plugin(supervit.data, config.name).open_split(config, split)
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
    transform = create_augmentation(**_input_format(model), is_training=False, crop_pct=model.crop_pct)
    return InMode.of_channels(model.in_chans, transform, crops_centre=True)


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
        return InMode.of_channels(model.in_chans, JointAugment(model, random_erasing=augmentation.random_erasing, **options))
    options = _input_format(model) | options | {"re_prob": augmentation.random_erasing, "re_mode": "pixel"}
    return InMode.of_channels(model.in_chans, create_augmentation(**options, is_training=True, color_jitter=None))


def _input_format(model: SuperViTConfig) -> dict[str, Any]:
    return {
        "input_size": (model.in_chans, *sides(model.image_size)),
        "mean": model.mean,
        "std": model.std,
        "interpolation": model.interpolation,
    }
