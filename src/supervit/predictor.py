"""Images in, answers out: the one object that runs a trained model at any operating point."""

import copy
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import accumulate, islice
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from supervit.cascade import Cascade, Ladder
from supervit.choose import Budget, choose
from supervit.complexity import Complexity
from supervit.cost_table import CostTable, Setup
from supervit.data import DamagedImage, evaluation_transform, naming_damage, open_image, read_for_grid
from supervit.errors import InputError
from supervit.layers import resize_images
from supervit.macs import executed_macs, macs
from supervit.runtimes import AnyModel, as_runtime, one_thread

AnyImage = str | Path | bytes | Image.Image | np.ndarray | Tensor
AnyPoint = Complexity | str | Ladder
_PICTURES = (str, Path, bytes, Image.Image)
_CASCADED_BATCHES = 8


@dataclass(frozen=True)
class Candidate:
    """A class that an image may have."""

    class_index: int
    class_name: str | None
    """None where the model does not know the names of its classes."""
    probability: float
    """Of that class, in [0, 1]."""


@dataclass(frozen=True)
class Prediction:
    """The answer for one image."""

    source: str
    """The file, or the number of the image in the call, from 0."""
    class_index: int
    class_name: str | None
    """None where the model does not know the names of its classes."""
    probability: float
    """Of that class, in [0, 1]."""
    complexity: Complexity
    """Operating point that answered."""
    macs: int
    """Multiply-accumulates per image, the paper's count; in a cascade those of all rungs climbed."""
    executed_macs: int
    """Multiply-accumulates that really ran."""
    top: tuple[Candidate, ...] = ()
    """The `top_k` most probable classes, the answer first."""


@dataclass(frozen=True)
class Failure:
    """An image that could not be read."""

    source: str
    """The file, or the number of the image in the call, from 0."""
    reason: str


Answer = Prediction | Failure
_Classified = tuple[tuple[Candidate, ...], Complexity, int, int]  # operating point, MACs by the paper's count, executed MACs


class Predictor:
    """Classifies images, each call at an operating point of its own; all of them share one copy of the weights.

    Images may be:

    - a path or the bytes of an image file, or a PIL image: brought to the model's channels and size as in evaluation, which,
      as torchvision's and timm's, leaves the EXIF orientation aside;
    - a uint8 array (H, W) or (H, W, C), or a uint8 tensor (H, W) or (C, H, W), with C = 1 or 3: likewise;
    - a floating-point tensor (C, S, S) of the model's channels, normalised with `config.mean` and `config.std`: resized to
      the grid by the model, as in `SuperViT.forward`.

    Example:
        >>> predictor = Predictor(supervit.load("model"))
        >>> predictor(["cat.jpg", "dog.jpg"], "8@0.5")

    Args:
        model: A model, run where it is, or a runtime.
        complexity: Operating point of calls that name none, or the ladder of a cascade; default: the dearest one, which is
            the largest grid, uncut, where the runtime has it.
        batch_size: Most images that run at once.
        reduced_decoding: Whether pictures are brought to the pixels of a grid below the largest in one step, and JPEG files
            decoded no further than it needs (`read_for_grid`); pixels then differ slightly from those of evaluation.
        top_k: Classes that each answer names in `top`.

    Raises:
        InputError: batch_size or top_k under 1, an operating point that does not parse, or a model without classes or
            neither grey nor RGB.
    """

    def __init__(
        self,
        model: AnyModel,
        complexity: AnyPoint | None = None,
        batch_size: int = 16,
        reduced_decoding: bool = True,
        top_k: int = 1,
    ):
        self.runtime = as_runtime(model)
        self.config = self.runtime.model_config
        if batch_size < 1 or top_k < 1:
            raise InputError(f"batch_size {batch_size} and top_k {top_k} must be at least 1")
        if not self.config.num_classes:
            raise InputError("the model has num_classes 0 and so nothing to predict; give it a classifier")
        self.batch_size, self.reduced_decoding, self.top_k = batch_size, reduced_decoding, top_k
        self._cascades: dict[tuple[Ladder, int], Cascade] = {}
        dearest = max(self.runtime.points, key=lambda point: executed_macs(self.config, point))
        self.complexity = self._point(dearest if complexity is None else complexity)
        self._transform = evaluation_transform(self.config)

    def within(self, budget: Budget, costs: CostTable, batch_size: int | None = None) -> "Predictor":
        """The predictor whose calls run the most accurate operating point within a budget; nothing is loaded for it.

        Args:
            budget: The limits.
            costs: Costs and accuracies of this model, measured here.
            batch_size: One of the table's; default: the one that the choice is best at.

        Raises:
            InputError: as `choose`, or costs of another model, device, runtime, precision or number of threads.
        """
        costs.check(Setup.of(self.runtime))
        chosen = copy.copy(self)
        cost = choose(costs, budget, batch_size)
        chosen.complexity, chosen.batch_size = cost.complexity, cost.batch_size
        return chosen

    def __call__(self, images: AnyImage | Iterable[AnyImage], complexity: AnyPoint | None = None) -> list[Answer]:
        """An answer for each image, in their order; for one image, a list of one. Arguments and errors as in `stream`."""
        return list(self.stream(images, complexity))

    def stream(self, images: AnyImage | Iterable[AnyImage], complexity: AnyPoint | None = None) -> Iterator[Answer]:
        """The answers one by one, in the order of the images, of which one batch at a time is read (by a cascade: eight).

        Args:
            images: One image or any number of them, also of different kinds and sizes.
            complexity: Operating point or its text, such as `"8@0.5"`, or a ladder; default: that of the predictor.

        Raises:
            InputError: an operating point that does not parse or that the runtime does not have, or something that is no
                image: of another type, shape or number format. What is wrong with a file's content or a picture is no
                error but a `Failure` in its place; the other images are answered.
        """
        point = self.complexity if complexity is None else self._point(complexity)
        is_image = isinstance(images, _PICTURES) or (isinstance(images, np.ndarray | Tensor) and images.ndim < 4)
        is_single = is_image or not isinstance(images, Iterable)
        return self._answers([images] if is_single else images, point)  # type: ignore[arg-type,list-item]

    def pixels(self, image: AnyImage) -> Tensor:
        """The normalised pixels (C, S, S) of an image as in evaluation, at the size of the largest grid.

        Raises:
            DamagedImage: it cannot be read.
            InputError: it is no image.
        """
        return self._normalise(image, self.config.space.largest.grid_size)

    def _point(self, complexity: AnyPoint) -> Complexity | Cascade:
        if isinstance(complexity, Ladder):
            if (complexity, self.batch_size) not in self._cascades:  # to make one takes a look at all weights
                self._cascades[complexity, self.batch_size] = Cascade(self.runtime, complexity, self.batch_size)
            return self._cascades[complexity, self.batch_size]
        return Complexity.of(complexity)

    def _answers(self, images: Iterable[AnyImage], point: Complexity | Cascade) -> Iterator[Answer]:
        """A cascade gets the images as in evaluation, several batches at once: those that climb are to fill batches too."""
        numbered = enumerate(images)
        grid_size, together = self.config.space.largest.grid_size, self.batch_size * _CASCADED_BATCHES
        if isinstance(point, Complexity):
            grid_size, together = point.grid_size, self.batch_size
        while batch := list(islice(numbered, together)):
            with one_thread():  # Cost: on several, small operations take longer than the work in them
                seen = [self._read(number, image, grid_size) for number, image in batch]
            classified = self._classify([pixels for _, pixels in seen if isinstance(pixels, Tensor)], point)
            for source, pixels in seen:
                if isinstance(pixels, str):
                    yield Failure(source, pixels)
                    continue
                top, rung, counted, executed = next(classified)
                best = top[0]
                known = (best.class_index, best.class_name, best.probability)
                yield Prediction(source, *known, rung, counted, executed, top=top)

    def _classify(self, pixels: list[Tensor], point: Complexity | Cascade) -> "Iterator[_Classified]":
        """The best classes, operating point and its costs of images (C, side, side) that have the size to be run at."""
        if not pixels:
            return
        with self.runtime.preparing(len(pixels)):
            images = torch.stack(pixels)
        rungs: tuple[Complexity, ...]
        if isinstance(point, Complexity):
            logits, rungs, left = self.runtime.logits(images, point), (point,), [0] * len(images)
            executed = [executed_macs(self.config, point)] * len(images)
        else:
            exits = point.predict(images)
            logits, rungs, left = exits.logits, point.ladder.rungs, exits.rungs.tolist()
            executed = exits.executed_macs.tolist()
        counted = list(accumulate(macs(self.config, rung) for rung in rungs))
        ranked = logits.softmax(dim=1).sort(dim=1, descending=True, stable=True)
        top = zip(ranked.indices[:, : self.top_k].tolist(), ranked.values[:, : self.top_k].tolist(), strict=True)
        for (indices, probabilities), rung, cost in zip(top, left, executed, strict=True):
            candidates = tuple(map(self._candidate, indices, probabilities))
            yield candidates, rungs[rung], counted[rung], cost

    def _candidate(self, index: int, probability: float) -> "Candidate":
        return Candidate(index, self.config.class_names[index] if self.config.class_names else None, probability)

    def _read(self, number: int, image: AnyImage, grid_size: int) -> tuple[str, Tensor | str]:
        """The source of an image, and its pixels that the model sees (C, side, side) or why there are none."""
        source = str(image) if isinstance(image, str | Path) else str(number)
        try:
            pixels = self._normalise(image, grid_size)
        except DamagedImage as error:
            return source, str(error)
        side = self.config.patch_size * grid_size
        return source, resize_images(pixels.unsqueeze(0), side, self.config.resize).squeeze(0)

    def _normalise(self, image: AnyImage, grid_size: int) -> Tensor:
        """The image as in evaluation, or of its grid's size already.

        Raises:
            DamagedImage: it cannot be read.
            InputError: it is no image.
        """
        if isinstance(image, Tensor) and image.is_floating_point():
            return self._check_normalised(image, grid_size).detach().float().cpu()
        if isinstance(image, str | Path | bytes):
            with open_image(Path(image) if isinstance(image, str) else image) as opened:
                return self._see(opened, grid_size)
        picture = image if isinstance(image, Image.Image) else _picture(image)
        with naming_damage():
            picture.load()  # it is the caller's: not to be decoded at a reduced scale
        return self._see(picture, grid_size)

    def _see(self, picture: Image.Image, grid_size: int) -> Tensor:
        with naming_damage():
            pixels = read_for_grid(picture, self.config, grid_size) if self.reduced_decoding else None
            picture.load()
        if not all(picture.size):
            raise DamagedImage("it has no pixels")
        return self._transform(picture) if pixels is None else pixels

    def _check_normalised(self, image: Tensor, grid_size: int) -> Tensor:
        channels = self.config.in_chans
        if image.ndim != 3 or image.shape[0] != channels or image.shape[1] != image.shape[2] or image.shape[1] < grid_size:
            raise InputError(
                f"a normalised image of shape {tuple(image.shape)} does not fit; expected ({channels}, S, S) with S at least "
                f"{grid_size}, a pixel for each patch; or give the picture itself as uint8"
            )
        return image


def _picture(image: np.ndarray | Tensor) -> Image.Image:
    """An array (H, W[, C]) or a tensor ([C, ]H, W) of uint8 as a picture.

    Raises:
        InputError: another type, shape or number format.
    """
    if not isinstance(image, np.ndarray | Tensor):
        raise InputError(
            f"a {type(image).__name__} is no image; give a path, the bytes of a file, a PIL image, an array or a tensor"
        )
    pixels = image.cpu().numpy() if isinstance(image, Tensor) else image
    if isinstance(image, Tensor) and image.ndim == 3:
        pixels = pixels.transpose(1, 2, 0)
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[:, :, 0]
    has_shape = pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] == 3)
    if pixels.dtype != np.uint8 or not pixels.size or not has_shape:
        raise InputError(
            f"an image of shape {tuple(image.shape)} and type {pixels.dtype} does not fit; expected uint8, as an array (H, W) "
            "or (H, W, C) or a tensor (H, W) or (C, H, W) with C = 1 or 3, or a normalised floating-point tensor (C, S, S)"
        )
    return Image.fromarray(np.ascontiguousarray(pixels))
