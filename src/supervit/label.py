"""Label maps of an image folder, made by a teacher: what `supervit label` writes and token labelling learns from."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
import torch.nn.functional as F
from timm.data import create_transform, resolve_model_data_config
from torch import Tensor, nn

from supervit.checkpoints import read_state_dict
from supervit.data import EpochLoader, ImageDataset, InMode, Reading, split_folder
from supervit.data.image_folder import FolderImages, class_folders, class_images
from supervit.errors import InputError, printable, unknown_name
from supervit.files import make_directory
from supervit.options import LabelConfig
from supervit.runtimes import pick_device
from supervit.storage import load_state_dict
from supervit.token_labels import label_map_path, write_label_map


@dataclass(frozen=True)
class Labelled:
    """What `label_folder` did."""

    written: int
    """Images that got a label map."""
    kept: int
    """Images that had one already."""
    damaged: tuple[str, ...]
    """Images that cannot be read, with the reason; they got none."""


@torch.inference_mode()
def label_folder(config: LabelConfig) -> Labelled:
    """Write a label map for each image of ROOT/SPLIT that has none: the teacher's logits at each place of the whole image.

    The image is resized to the teacher's input, both sides on their own, so that the map covers all of it.

    Raises:
        InputError: no images, two that would share a file, no such teacher, or one that has no logits for places, or not
            the classes of the data.

    Source: the published maps are NFNet-F6's at 576 pixels, 18 x 18 places.
    Differs: those show the central square of each image, though training takes them for the whole.
    """
    folder = split_folder(config.root, config.split, "ROOT/SPLIT/CLASS/*")
    classes, names = list_images(folder)
    teacher = load_teacher(config, config.num_classes or len(classes))
    todo = [name for name in names if not label_map_path(config.out, name).exists()]
    make_directory(config.out)
    device = pick_device(config.device)
    teacher.to(device)
    numbered = [(name, number) for number, name in enumerate(todo)]  # in place of classes, so that each comes with its picture
    images = FolderImages(folder, classes, numbered, Reading(config.max_pixels, config.exif_orientation))
    dataset = ImageDataset(images, _whole_image_transform(teacher))
    loader = EpochLoader(dataset, config.batch_size, config.workers, max_damaged=1.0)
    for pictures, numbers in loader.epoch():
        _write_maps(config, [todo[number] for number in numbers], position_logits(teacher, pictures.to(device)))
    damaged = tuple(printable(f"{name}: {reason}") for name, reason in loader.damaged.items())
    return Labelled(written=len(todo) - len(damaged), kept=len(names) - len(todo), damaged=damaged)


def _write_maps(config: LabelConfig, names: Sequence[str], logits: Tensor) -> None:
    height, width = logits.shape[2:]
    logits = F.adaptive_avg_pool2d(logits, (min(config.size, height), min(config.size, width)))
    # A softmax does not feel the shift, but the reader takes the classes that are left out for logit 0: make it the mean.
    logits = logits - logits.mean(dim=1, keepdim=True)
    scores, classes = logits.topk(min(config.top_k, logits.shape[1]), dim=1)
    for name, best, their_classes in zip(names, scores.cpu(), classes.cpu(), strict=True):
        write_label_map(label_map_path(config.out, name), best, their_classes)


# --- images -------------------------------------------------------------------------------------------------------


def list_images(folder: Path) -> tuple[list[str], list[str]]:
    """The class folders of a split, and its images as paths below it, both sorted.

    Raises:
        InputError: no folder, no images, or two images whose names differ in the suffix alone.
    """
    classes = class_folders(folder)
    names = sorted(name for name, _ in class_images(folder, classes, classes))
    first: dict[Path, str] = {}
    for name in names:
        if (other := first.setdefault(Path(name).with_suffix(""), name)) != name:
            raise InputError(f"{str(folder / other)!r} and {Path(name).name!r} would share a label map; rename one of them")
    return classes, names


def _whole_image_transform(teacher: nn.Module) -> InMode:
    is_fixed = teacher.pretrained_cfg.get("fixed_input_size", False)  # type: ignore[operator, union-attr]
    settings = resolve_model_data_config(teacher, use_test_size=not is_fixed)
    transform = create_transform(**settings | {"crop_mode": "squash", "crop_pct": 1.0})
    return InMode.of_channels(settings["input_size"][0], transform)


# --- teacher ------------------------------------------------------------------------------------------------------


def load_teacher(config: LabelConfig, num_classes: int) -> nn.Module:
    """The teacher with its weights, in evaluation mode.

    Raises:
        InputError: no such model, no weights for it, or weights of another number of classes.
    """
    name = config.teacher
    if ":" not in name and not timm.is_model(name):  # a colon: from a hub
        raise unknown_name("teacher", name, timm.list_models())
    if config.checkpoint is not None:
        teacher: nn.Module = timm.create_model(name, num_classes=num_classes)
        load_state_dict(teacher, read_state_dict(config.checkpoint), str(config.checkpoint))
        return teacher.eval()
    if ":" not in name and not timm.models.is_model_pretrained(name):  # timm would start from random weights
        raise InputError(f"timm has no weights for the teacher {name!r}; pass a checkpoint, or use another teacher")
    try:
        teacher = timm.create_model(name, pretrained=True)
    except (OSError, RuntimeError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise InputError(f"the teacher {name!r} cannot be had ({reason}); pass its weights as checkpoint") from error
    if teacher.num_classes != num_classes:
        raise InputError(
            f"the teacher {name!r} knows {teacher.num_classes} classes, the data have {num_classes}; fine-tune it on the "
            "data and pass the checkpoint, or train for the teacher's classes (a class list) and pass num_classes"
        )
    return teacher.eval()


def position_logits(teacher: nn.Module, images: Tensor) -> Tensor:
    """Logits (B, K, h, w): the teacher's own head, given the features of one place at a time.

    Convolutional networks see a map of 1 x 1, transformers one patch token, also in the place of their class token, so that
    whatever the head does (pool, norm, hidden layers) is done as the teacher has learned it. A linear head on average
    pooling gives logits whose mean over the places is the teacher's answer.

    Args:
        teacher: A timm model in evaluation mode.
        images: Normalised images (B, C, S, S) of the teacher's size.

    Raises:
        InputError: the features are not a square map of places, or the head does not give logits for one.
    """
    features: Any = teacher.forward_features(images)  # type: ignore[operator]
    prefix = getattr(teacher, "num_prefix_tokens", 0)
    rank = features.ndim if isinstance(features, Tensor) else 0
    places = math.isqrt(features.shape[1] - prefix) if rank == 3 else 0
    if rank == 4:
        is_channels_last = getattr(teacher, "output_fmt", "NCHW") == "NHWC"
        rows = features if is_channels_last else features.permute(0, 2, 3, 1)
        alone = rows.flatten(0, 2)[:, None, None] if is_channels_last else rows.flatten(0, 2)[:, :, None, None]
    elif rank == 3 and places**2 == features.shape[1] - prefix:
        rows = features[:, prefix:].unflatten(1, (places, places))
        alone = rows.flatten(0, 2).unsqueeze(1).expand(-1, prefix + 1, -1)
    else:
        form = tuple(features.shape) if rank else type(features).__name__
        raise InputError(f"the teacher {type(teacher).__name__} has no map of places ({form}); use a timm CNN, ViT or Swin")
    logits: Any = teacher.forward_head(alone)  # type: ignore[operator]
    if not isinstance(logits, Tensor) or logits.shape != (len(alone), teacher.num_classes):
        raise InputError(f"the teacher {type(teacher).__name__} has no logits for one place; use a timm CNN, ViT or Swin")
    return logits.view(*rows.shape[:3], -1).permute(0, 3, 1, 2).float()
