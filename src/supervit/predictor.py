"""Images in, answers out: the one object that runs a trained model at any operating point."""

import copy
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate, islice
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from supervit.cascade import Cascade, Ladder
from supervit.choose import Budget, choose
from supervit.complexity import Complexity, GridSize, grid_text, has_shape, side_of, sides
from supervit.config import PILLOW_MODES, SuperViTConfig
from supervit.cost_table import CostTable, Setup
from supervit.data import (
    MAX_PIXELS,
    DamagedImage,
    InMode,
    Reading,
    check_size,
    conversion,
    decode,
    evaluation_transform,
    naming_damage,
    open_image,
    read_for_grid,
    undecoded_jpeg,
)
from supervit.errors import InputError
from supervit.layers import resize_images
from supervit.macs import executed_macs, macs
from supervit.runtimes import AnyModel, as_runtime, on_one_thread

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
    warning: str | None = None
    """What was done to a picture that is not of the model's kind, such as CMYK, or colour for a grey model."""


@dataclass(frozen=True)
class Failure:
    """An image that could not be read, or for which the model gave no finite answer."""

    source: str
    """The file, or the number of the image in the call, from 0."""
    reason: str


Answer = Prediction | Failure
_Classified = tuple[tuple[Candidate, ...], Complexity, int, int]  # operating point, MACs by the paper's count, executed MACs


class Predictor:
    """Classifies images, each call at an operating point of its own; all of them share one copy of the weights.

    Images may be:

    - a path or the bytes of an image file, or a PIL image: turned as its EXIF data say and brought to the model's channels
      and size as in evaluation;
    - a uint8 array (H, W) or (H, W, C), or a uint8 tensor (H, W) or (C, H, W), with C = 1 or 3: likewise;
    - a floating-point tensor (C, H, W) of the model's channels, normalised with `config.mean` and `config.std`: resized to
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
        max_pixels: Most pixels of an image, checked before it is decoded (`supervit.data.Reading`).
        exif_orientation: Whether pictures are turned as their EXIF data say.

    Raises:
        InputError: batch_size, top_k or max_pixels under 1, an operating point that does not parse, or a model without
            classes or neither grey nor RGB.
    """

    def __init__(
        self,
        model: AnyModel,
        complexity: AnyPoint | None = None,
        batch_size: int = 16,
        reduced_decoding: bool = True,
        top_k: int = 1,
        max_pixels: int = MAX_PIXELS,
        exif_orientation: bool = True,
    ):
        self.reading = Reading(max_pixels, exif_orientation)
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
        self._transforms: dict[GridSize, InMode] = {}
        self._transform(self.config)

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
            InputError: an operating point that does not parse, that the runtime does not have or whose patches are more than
                an image has pixels, or something that is no image: of another type, shape or number format. What is wrong
                with a file's content or a picture is no error but a `Failure` in its place; the other images are answered.
        """
        point = self.complexity if complexity is None else self._point(complexity)
        is_image = isinstance(images, _PICTURES) or (isinstance(images, np.ndarray | Tensor) and not _is_batch(images))
        is_single = is_image or not isinstance(images, Iterable)
        return self._answers([images] if is_single else images, point)  # type: ignore[arg-type,list-item]

    def pixels(self, image: AnyImage, complexities: Sequence[Complexity] = ()) -> Tensor:
        """The normalised pixels (C, H, W) of an image as in evaluation, at the size of the largest grid.

        Args:
            image: Of any kind.
            complexities: Operating points that are to see it; default: the menu.

        Raises:
            DamagedImage: it cannot be read.
            InputError: it is no image, or the operating points see images of different shapes.
        """
        return self._normalise(image, self.config.view(complexities).grid_sizes[-1]).pixels

    def _transform(self, config: SuperViTConfig) -> InMode:
        """What evaluation does to pictures, made once for each size."""
        if config.image_size not in self._transforms:
            self._transforms[config.image_size] = evaluation_transform(config)
        return self._transforms[config.image_size]

    def _point(self, complexity: AnyPoint) -> Complexity | Cascade:
        rungs = complexity.rungs if isinstance(complexity, Ladder) else (Complexity.of(complexity),)
        for rung in rungs:
            height, width = sides(self.config.view(rungs).image_size)
            if rung.grid[0] > height or rung.grid[1] > width:
                raise InputError(
                    f"{rung} has {grid_text(rung.grid_size)} patches a side, each of which needs a pixel of the image, which "
                    f"has {grid_text(side_of((height, width)))} a side; use a smaller grid"
                )
        if not isinstance(complexity, Ladder):
            return rungs[0]
        if (complexity, self.batch_size) not in self._cascades:  # to make one takes a look at all weights
            self._cascades[complexity, self.batch_size] = Cascade(self.runtime, complexity, self.batch_size)
        return self._cascades[complexity, self.batch_size]

    def _answers(self, images: Iterable[AnyImage], point: Complexity | Cascade) -> Iterator[Answer]:
        """A cascade gets the images as in evaluation, several batches at once: those that climb are to fill batches too."""
        numbered = enumerate(images)
        if isinstance(point, Complexity):
            grid_size, together = point.grid_size, self.batch_size
        else:
            grid_size, together = self.config.view(point.ladder.rungs).grid_sizes[-1], self.batch_size * _CASCADED_BATCHES
        while batch := list(islice(numbered, together)):
            seen = on_one_thread(partial(self._read_all, batch, grid_size))
            classified = self._classify([read.pixels for _, read in seen if isinstance(read, _Read)], point)
            for source, read in seen:
                if isinstance(read, str):
                    yield Failure(source, read)
                    continue
                top, rung, counted, executed = next(classified)
                best = top[0]
                if not math.isfinite(best.probability):
                    yield Failure(source, "the model gives no finite answer for it; its weights may be damaged")
                    continue
                known = (best.class_index, best.class_name, best.probability)
                yield Prediction(source, *known, rung, counted, executed, top, read.warning)

    def _classify(self, pixels: list[Tensor], point: Complexity | Cascade) -> "Iterator[_Classified]":
        """The best classes, operating point and its costs of images (C, H, W) that have the size to be run at."""
        if not pixels:
            return
        images = self.runtime.preparing(len(pixels), lambda: torch.stack(pixels))
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

    def _read_all(self, batch: Sequence[tuple[int, AnyImage]], grid_size: GridSize) -> "list[tuple[str, _Read | str]]":
        return [self._read(number, image, grid_size) for number, image in batch]

    def _read(self, number: int, image: AnyImage, grid_size: GridSize) -> "tuple[str, _Read | str]":
        """The source of an image, and its pixels that the model sees (C, H, W) or why there are none."""
        source = str(image) if isinstance(image, str | Path) else str(number)
        try:
            read = self._normalise(image, grid_size)
        except DamagedImage as error:
            return source, str(error)
        size = self.config.pixels(grid_size)
        return source, _Read(resize_images(read.pixels.unsqueeze(0), size, self.config.resize).squeeze(0), read.warning)

    def _normalise(self, image: AnyImage, grid_size: GridSize) -> "_Read":
        """The image as in evaluation, or of its grid's size already.

        Raises:
            DamagedImage: it cannot be read.
            InputError: it is no image.
        """
        if isinstance(image, Tensor) and image.is_floating_point():
            return _Read(self._normalised(image, grid_size))
        if isinstance(image, str | Path | bytes):
            seen = self._see_file(Path(image) if isinstance(image, str) else image, grid_size)
            return seen if isinstance(seen, _Read) else self._see(seen, grid_size)
        picture = image if isinstance(image, Image.Image) else _picture(image, self.reading)
        check_size(picture, self.reading)
        return self._see(decode(picture, self.reading), grid_size)  # the caller's: not to be decoded at a reduced scale

    def _see_file(self, file: Path | bytes, grid_size: GridSize) -> "_Read | Image.Image":
        """The pixels of a JPEG that is decoded no further than its grid needs, or else the decoded picture."""
        with open_image(file, self.reading) as opened:
            if self.reduced_decoding and undecoded_jpeg(opened):
                warning = conversion(opened, PILLOW_MODES[self.config.in_chans])
                pixels = self._for_grid(opened, grid_size)
                if pixels is not None:
                    return _Read(pixels, warning)
            return decode(opened, self.reading)

    def _see(self, picture: Image.Image, grid_size: GridSize) -> "_Read":
        pixels = self._for_grid(picture, grid_size) if self.reduced_decoding else None
        if pixels is None:
            pixels = self._transform(self.config.view([Complexity(grid_size)]))(picture)
        return _Read(pixels, conversion(picture, PILLOW_MODES[self.config.in_chans]))

    def _for_grid(self, picture: Image.Image, grid_size: GridSize) -> Tensor | None:
        with naming_damage():
            return read_for_grid(picture, self.config, grid_size, self.reading.exif_orientation)

    def _normalised(self, image: Tensor, grid_size: GridSize) -> Tensor:
        channels = self.config.in_chans
        _check_dense(image)
        rows, columns = sides(grid_size)
        height, width = image.shape[-2:] if image.ndim == 3 and image.shape[0] == channels else (0, 0)
        if height < rows or width < columns or not has_shape(grid_size, height, width):
            raise InputError(
                f"a normalised image of shape {tuple(image.shape)} does not fit; expected ({channels}, H, W), as "
                f"grid {grid_text(grid_size)} and with a pixel for each patch; or give the picture itself as uint8"
            )
        _check_pixels(image.numel(), image, self.reading)
        pixels = image.detach().float().cpu()
        if not all(bound.isfinite() for bound in pixels.aminmax()):  # NaN is the least and the greatest of all
            raise DamagedImage("pixels that are NaN or infinite")
        return pixels


@dataclass(frozen=True)
class _Read:
    """Pixels (C, H, W) as the model gets them, and what was done to the picture, if it is worth a warning."""

    pixels: Tensor
    warning: str | None = None


def _is_batch(images: np.ndarray | Tensor) -> bool:
    return images.ndim > 3 and (isinstance(images, np.ndarray) or images.layout is torch.strided)


def _check_dense(image: Tensor) -> None:
    if image.layout is not torch.strided or image.is_meta or image.is_quantized:
        raise InputError(
            f"a tensor of type {_type_name(image)}, layout {image.layout} on {image.device} does not fit; expected a dense "
            "one with data"
        )


def _check_pixels(count: int, image: np.ndarray | Tensor, reading: Reading) -> None:
    if count > reading.max_pixels:  # one that is expanded takes no memory, but its copies do
        raise DamagedImage(f"an image of shape {tuple(image.shape)}, more than max_pixels = {reading.max_pixels} allows")


def _type_name(image: np.ndarray | Tensor) -> str:
    return str(image.dtype).removeprefix("torch.")


def _picture(image: np.ndarray | Tensor, reading: Reading) -> Image.Image:
    """An array (H, W[, C]) or a tensor ([C, ]H, W) of uint8 as a picture.

    Raises:
        DamagedImage: more pixels than may be.
        InputError: another type, shape or number format.
    """
    if not isinstance(image, np.ndarray | Tensor):
        raise InputError(
            f"a {type(image).__name__} is no image; give a path, the bytes of a file, a PIL image, an array or a tensor"
        )
    if isinstance(image, Tensor):
        _check_dense(image)
    axes = (1, 2, 0) if isinstance(image, Tensor) else (0, 1, 2)
    height, width, channels = (image.shape[axis] for axis in axes) if image.ndim == 3 else (*image.shape, 0, 0, 1)[:3]
    is_picture = image.ndim == 2 or (image.ndim == 3 and channels in (1, 3))
    if _type_name(image) != "uint8" or not is_picture or not height * width:
        raise InputError(
            f"an image of shape {tuple(image.shape)} and type {_type_name(image)} does not fit; expected uint8, as an array "
            "(H, W) or (H, W, C) or a tensor (H, W) or (C, H, W) with C = 1 or 3, or a normalised floating-point tensor "
            "(C, S, S)"
        )
    _check_pixels(height * width, image, reading)
    pixels = image.cpu().numpy() if isinstance(image, Tensor) else np.asarray(image)
    if image.ndim == 3:
        pixels = pixels.transpose(axes)
    return Image.fromarray(np.ascontiguousarray(pixels if channels == 3 else pixels.reshape(height, width)))
