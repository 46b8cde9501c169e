"""Token labelling: a teacher's label map of each whole image, cut to what each patch of the training image shows.

    file --read_label_map--> TokenLabels <--JointAugment-- image        TokenLabels --token_targets--> token_label_loss

Source: Jiang et al., "All Tokens Matter: Token Labeling for Training Better Vision Transformers" (2021), and its code,
github.com/zihangJiang/TokenLabeling, whose published label files (`label_top5_train_nfnet`) are read as they are.
"""

import copy
import math
import random
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from timm.data.auto_augment import AugmentOp, RandAugment
from torch import Tensor
from torchvision.ops import roi_align
from torchvision.transforms.functional import hflip, resized_crop

from supervit.augmentation import create_augmentation
from supervit.complexity import GridSize, sides
from supervit.config import SuperViTConfig
from supervit.errors import InputError
from supervit.files import make_directory, refusing, whole_file
from supervit.weights import check_tensors, read_pickle

_GEOMETRIC = frozenset({"Rotate", "ShearX", "ShearY", "TranslateX", "TranslateY", "TranslateXRel", "TranslateYRel"})
_LARGEST_HALF = 2048  # float16 holds all whole numbers up to here

# --- files --------------------------------------------------------------------------------------------------------


def label_map_path(root: Path, image_name: str) -> Path:
    """The label file of an image: the same folders below another root, and the suffix `.pt`.

    Args:
        root: Folder of the label files, such as `label_top5_train_nfnet`.
        image_name: Path of the image below the folder of its split: CLASS/FILE.
    """
    return (root / image_name).with_suffix(".pt")


def read_label_map(path: Path, num_classes: int) -> tuple[Tensor, Tensor]:
    """Scores (k, h, w), float32, and class indices (k, h, w), int64: a teacher's best k classes at h x w places of an image.

    The published format: one tensor (2, 5, 18, 18) of float16 in a pickle; plane 0 holds logits (not probabilities), best
    first, plane 1 the classes. Any k, h, w and floating-point type is read. Nothing in the file is executed.

    Args:
        path: The file.
        num_classes: Classes of the model that is taught.

    Raises:
        InputError: missing, damaged or unsafe file, or content of another form.
    """
    with refusing(f"label map {str(path)!r} cannot be read", "make or download it again"):
        content = read_pickle(path)
        if isinstance(content, Tensor):
            check_tensors({"the map": content}, path)
    if not isinstance(content, Tensor) or not content.is_floating_point() or content.ndim != 4 or content.shape[0] != 2:
        found = f"{content.dtype} {tuple(content.shape)}" if isinstance(content, Tensor) else f"a {type(content).__name__}"
        raise InputError(f"label map {str(path)!r} holds {found}; expected floating-point scores and classes (2, k, h, w)")
    scores, classes = content.float()
    if not (content.numel() and scores.isfinite().all() and classes.min() >= 0 and classes.max() < num_classes):
        raise InputError(
            f"label map {str(path)!r} holds other than finite scores of classes 0...{num_classes - 1}; "
            "make it with a teacher of the model's classes"
        )
    return scores, classes.long()


def write_label_map(path: Path, scores: Tensor, classes: Tensor) -> None:
    """Write a label map whole or not at all, in the published format; its folder is made if need be.

    Args:
        path: The file, from `label_map_path`.
        scores: Logits (k, h, w), best first.
        classes: Their class indices (k, h, w).
    """
    form = torch.float16 if classes.max() <= _LARGEST_HALF else torch.float32
    if not path.parent.is_dir():
        make_directory(path.parent)
    with whole_file(path) as temporary:
        torch.save(torch.stack([scores.to(form), classes.to(form)]).cpu(), temporary)


# --- targets ------------------------------------------------------------------------------------------------------


class TokenLabels(NamedTuple):
    """What teaches a batch of augmented images: label maps of the whole images and where the augmentation looked."""

    scores: Tensor
    """Logits (B, k, h, w)."""
    classes: Tensor
    """Class indices (B, k, h, w), int64."""
    boxes: Tensor
    """Crop (B, 4) as left, top, right, bottom, as shares of the image in [0, 1]."""
    flipped: Tensor
    """Whether the crop was mirrored left to right (B), bool."""
    cells: Tensor
    """Which cell of the (mirrored) crop each patch shows (B, rows, columns), int64: row * columns + column, or -1 for fill."""


def token_targets(labels: TokenLabels, num_classes: int, *, label_smoothing: float = 0.0) -> tuple[Tensor, Tensor]:
    """Class probabilities of the crop (B, K) and of each patch (B, g^2, K), row by row, on the labels' device.

        logits (0 for all but the top k)  ->  RoI-align to the crop, 1 x 1 and g x g  ->  softmax over the classes

    Patches that show fill get the target of the crop.

    Args:
        labels: Of a batch.
        num_classes: Classes K.
        label_smoothing: Share of each target spread over all classes, in [0, 1].

    Differs: the released code gives RoI-align (top, left, bottom, right) for (left, top, right, bottom), so that its labels
    come from the box mirrored at the diagonal; its smoothed targets sum to 1 + label_smoothing / K.
    """
    batch, _, height, width = labels.scores.shape
    grid, columns = tuple(labels.cells.shape[1:]), labels.cells.shape[2]
    maps = labels.scores.new_zeros(batch, num_classes, height, width).scatter_(1, labels.classes, labels.scores)
    corners = labels.boxes * labels.boxes.new_tensor([width, height, width, height])
    boxes = torch.cat([torch.arange(batch, device=corners.device).unsqueeze(1), corners], dim=1)
    crop, patches = (roi_align(maps, boxes.to(maps.dtype), size, aligned=True).flatten(2) for size in (1, grid))
    targets = torch.cat([patches, crop], dim=2).softmax(dim=1).transpose(1, 2)
    if label_smoothing:
        targets = targets.lerp(torch.full_like(targets, 1 / num_classes), label_smoothing)
    # Reading the mirrored column mirrors the map; fill, -1, reads the last row, which is the crop's.
    mirrored = labels.cells + columns - 1 - 2 * (labels.cells % columns)
    cells = torch.where(labels.flipped[:, None, None] & (labels.cells >= 0), mirrored, labels.cells).flatten(1)
    return targets[:, -1], targets[torch.arange(batch, device=cells.device).unsqueeze(1), cells]


def token_label_loss(
    class_logits: Tensor,
    dense_logits: Tensor,
    class_targets: Tensor,
    dense_targets: Tensor,
    dense_weight: float = 1.0,
    class_weight: float = 1.0,
) -> Tensor:
    """class_weight * CE(class token) + dense_weight * CE(patch tokens), means over batch and patches: a scalar.

    Args:
        class_logits: Logits of the class token (B, K).
        dense_logits: Logits of the patch tokens (B, N, K), row by row.
        class_targets: Class probabilities (B, K) of the crop, mixed as the images are (`MixBox.mix_targets`).
        dense_targets: Class probabilities (B, N, K) of each patch, mixed likewise (`MixBox.mix`).
        dense_weight, class_weight: Weights of the two terms (released: 1 and 1; the paper's beta is 0.5).
    """
    dense_loss = F.cross_entropy(dense_logits.flatten(0, 1), dense_targets.flatten(0, 1))
    return class_weight * F.cross_entropy(class_logits, class_targets) + dense_weight * dense_loss


# --- augmentation -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _JointOp:
    """An operation of timm's policy on a picture and, where it moves pixels, equally on the picture's index of cells."""

    on_picture: AugmentOp
    on_cells: AugmentOp | None

    @classmethod
    def of(cls, op: AugmentOp) -> Self:
        """The operation on both; the index is moved without interpolation and filled with -1."""
        if op.name not in _GEOMETRIC:
            return cls(op, None)
        on_cells = copy.copy(op)
        on_cells.kwargs = {"fillcolor": -1, "resample": Image.Resampling.NEAREST}
        return cls(op, on_cells)

    def __call__(self, images: tuple[Image.Image, Image.Image]) -> tuple[Image.Image, Image.Image]:
        picture, cells = images
        before = random.getstate()
        picture = self.on_picture(picture)
        if self.on_cells is not None:
            after = random.getstate()
            random.setstate(before)
            cells = self.on_cells(cells)
            random.setstate(after)
        return picture, cells


class JointAugment:
    """timm's training transform that also tells its geometry.

    Called with an image of the model's channels, it gives (picture (C, S, S), box (4), flipped, cells (g, g)). The picture is
    what `timm.data.create_transform` makes with the same seeds of Python, NumPy and torch; the rest is as in `TokenLabels`.

    Args:
        model: Gives size, grid, channels and normalisation.
        scale: Area of the random crop, as a share of the image.
        ratio: Aspect ratio of the random crop.
        hflip: Probability of a horizontal flip.
        auto_augment: timm's name of a RandAugment policy, such as rand-m9-mstd0.5-inc1, or None.
        random_erasing: Probability of erasing a box (per pixel noise).
        interpolation: How crops are resized: bilinear, bicubic, or one of both at `random`.

    Raises:
        InputError: a policy whose geometry is not known.

    Differs: the original augments the whole image before it crops; here, as in timm, the crop is augmented.
    """

    def __init__(
        self,
        model: SuperViTConfig,
        *,
        scale: tuple[float, float] = (0.08, 1.0),
        ratio: tuple[float, float] = (3 / 4, 4 / 3),
        hflip: float = 0.5,
        auto_augment: str | None = "rand-m9-mstd0.5-inc1",
        random_erasing: float = 0.25,
        interpolation: str = "random",
    ):
        if auto_augment is not None and not auto_augment.startswith("rand"):
            raise InputError(f"auto_augment {auto_augment!r} does not tell its geometry; use None or such as rand-m9-mstd0.5")
        crop_and_flip, policy, self.finish = create_augmentation(
            (model.in_chans, *sides(model.image_size)), is_training=True, separate=True,
            scale=scale, ratio=ratio, hflip=hflip, color_jitter=None, auto_augment=auto_augment, interpolation=interpolation,
            mean=model.mean, std=model.std, re_prob=random_erasing, re_mode="pixel",
        )  # fmt: skip
        self.crop = crop_and_flip.transforms[0]
        self.hflip = hflip
        self.policies = [
            RandAugment([_JointOp.of(op) for op in own.ops], own.num_layers, own.choice_weights) for own in policy.transforms
        ]
        grid = sides(model.grid_sizes[-1])
        numbers = np.arange(math.prod(grid), dtype=np.int32).reshape(grid)
        self.patch_size = model.patch_size
        self.cells = Image.fromarray(numbers.repeat(self.patch_size, axis=0).repeat(self.patch_size, axis=1))

    def __call__(self, image: Image.Image) -> tuple[Tensor, Tensor, bool, Tensor]:
        """The augmented picture, normalised, its box in the image, whether it is mirrored, and the cells of its patches."""
        top, left, height, width = self.crop.get_params(image, self.crop.scale, self.crop.ratio)
        choices = self.crop.interpolation
        interpolation = random.choice(choices) if isinstance(choices, tuple) else choices
        picture = resized_crop(image, top, left, height, width, self.crop.size, interpolation)
        # Parity: without flips timm draws nothing.
        flipped = self.hflip > 0 and bool(torch.rand(1) < self.hflip)
        images = (hflip(picture) if flipped else picture, self.cells)
        for policy in self.policies:
            images = policy(images)
        picture, cells = images
        box = torch.tensor([left, top, left + width, top + height]) / torch.tensor(image.size * 2)
        centre = slice(self.patch_size // 2, None, self.patch_size)
        return self.finish(picture), box, flipped, torch.tensor(np.asarray(cells)[centre, centre], dtype=torch.int64)


# --- MixToken -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class MixBox:
    """A box of patches that each image of a batch takes from its partner: image b from image B - 1 - b.

    Rows `top` to `bottom` and columns `left` to `right`, ends excluded, of a grid.
    """

    grid_size: GridSize
    top: int
    bottom: int
    left: int
    right: int

    @classmethod
    def draw(cls, grid_size: GridSize, generator: random.Random, alpha: float = 1.0) -> Self | None:
        """A box of area 1 - lambda before the border cuts it, lambda ~ Beta(alpha, alpha); None where that is no patch."""
        share = math.sqrt(1 - generator.betavariate(alpha, alpha))  # of each side
        halves = [int(side * share) // 2 for side in sides(grid_size)]
        centres = [generator.randrange(side) for side in sides(grid_size)]
        if 0 in halves:
            return None
        vertical, horizontal = (
            (max(centre - half, 0), min(centre + half, side))
            for centre, half, side in zip(centres, halves, sides(grid_size), strict=True)
        )
        return cls(grid_size, *vertical, *horizontal)

    def scaled(self, grid_size: GridSize) -> Self:
        """The box on another grid, its borders rounded to whole patches."""
        (rows, columns), (own_rows, own_columns) = sides(grid_size), sides(self.grid_size)
        vertical = (round(border * rows / own_rows) for border in (self.top, self.bottom))
        horizontal = (round(border * columns / own_columns) for border in (self.left, self.right))
        return type(self)(grid_size, *vertical, *horizontal)

    def mix(self, tokens: Tensor, grid_size: GridSize) -> Tensor:
        """Patch tokens, or their targets, (B, N, D), row by row, with the box exchanged.

        Mixing the targets gives the loss of undoing the mix on the dense logits, as the original does: the same patches
        meet the same targets, and the mean has no order. Where tokens were dropped, patches have moved and neither works;
        dense targets are for the uncut paths.

        Args:
            tokens: Of the images in the order of the batch.
            grid_size: Patches per side.
        """
        box = self.scaled(grid_size)
        is_inside = torch.zeros(*sides(grid_size), 1, dtype=torch.bool, device=tokens.device)
        is_inside[box.top : box.bottom, box.left : box.right] = True
        return torch.where(is_inside.flatten(0, 1), tokens.flip(0), tokens)

    def mix_targets(self, targets: Tensor, grid_size: GridSize) -> Tensor:
        """Targets of whole images (B, K), each with its partner's by the share of the patches that come from there."""
        box = self.scaled(grid_size)
        share = (box.bottom - box.top) * (box.right - box.left) / math.prod(sides(grid_size))
        return targets.lerp(targets.flip(0), share)
