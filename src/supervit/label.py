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
from torch.utils.data import DataLoader

from supervit.checkpoints import read_state_dict
from supervit.data import (
    DamagedImage,
    InMode,
    Reading,
    list_files,
    list_folders,
    read_image,
    say_skipped,
)
from supervit.errors import InputError, naming_lost_workers, printable, unknown_name
from supervit.files import make_directory
from supervit.options import LabelConfig
from supervit.progress import progress_bar
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
    folder = config.root / config.split
    classes, names = list_images(folder)
    teacher = load_teacher(config, config.num_classes or len(classes))
    todo = [name for name in names if not label_map_path(config.out, name).exists()]
    make_directory(config.out)
    device = pick_device(config.device)
    teacher.to(device)
    reading = Reading(config.max_pixels, config.exif_orientation)
    images = _Images(folder, todo, _whole_image_transform(teacher), reading)
    batches: DataLoader[Any] = DataLoader(images, config.batch_size, num_workers=config.workers, collate_fn=_collate)  # type: ignore[arg-type]
    damaged: list[str] = []
    with naming_lost_workers(), progress_bar("label", len(todo), "image") as advance:
        for readable, pictures, unreadable in batches:
            if readable:
                _write_maps(config, readable, position_logits(teacher, pictures.to(device)))
            damaged += unreadable
            advance(len(readable) + len(unreadable))
    return Labelled(written=len(todo) - len(damaged), kept=len(names) - len(todo), damaged=tuple(damaged))


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
    if not folder.is_dir():
        raise InputError(f"no folder {str(folder)!r}; expected ROOT/SPLIT/CLASS/*")
    classes, paths, skipped = list_folders(folder), [], []
    for name in classes:
        images, others = list_files(folder / name)
        paths += sorted(images)
        skipped += others
    say_skipped(folder, skipped)
    if not paths:
        raise InputError(f"{str(folder)!r} holds no images in class folders; expected ROOT/SPLIT/CLASS/*")
    first: dict[Path, Path] = {}
    for path in paths:
        if (other := first.setdefault(path.with_suffix(""), path)) != path:
            raise InputError(f"{str(other)!r} and {path.name!r} would share a label map; rename one of them")
    return classes, [str(path.relative_to(folder)) for path in paths]


@dataclass(frozen=True)
class _Images:
    """Pairs of an image's name and its tensor, or instead the reason why it cannot be read."""

    folder: Path
    names: list[str]
    transform: InMode
    reading: Reading

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> tuple[str, Tensor | str]:
        name = self.names[index]
        try:
            return name, self.transform(read_image(self.folder / name, self.reading))
        except DamagedImage as error:
            return name, str(error)


def _collate(pairs: list[tuple[str, Tensor | str]]) -> tuple[list[str], Tensor | None, list[str]]:
    """The names and the images (B, C, S, S) that can be read, and the names of the others with the reasons."""
    pictures = {name: picture for name, picture in pairs if isinstance(picture, Tensor)}
    unreadable = [printable(f"{name}: {reason}") for name, reason in pairs if isinstance(reason, str)]
    # Cost: stacked here, a worker process hands over one block of shared memory, not one for each image.
    return list(pictures), torch.stack(list(pictures.values())) if pictures else None, unreadable


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
