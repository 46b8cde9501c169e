"""JPEGs for small grids: decoded at a reduced scale and brought to the grid's pixels in one step.

A JPEG holds the cosine coefficients of blocks of 8 x 8 pixels; a decoder that leaves out all but the lowest M x M of each
gives an image of M/8 the size for less work. What evaluation does to an image (resize, centre crop, the model's own resize
to the grid) is linear, each axis on its own: a matrix per axis. Applied to what one pixel of the reduced image stands for in
the whole one, these steps give the matrix of the reduced image. So the model sees what it would see of the whole image,
at the very positions and through the same filters, but without the coefficients that were left out.
"""

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from supervit.config import Interpolation, Resize, SuperViTConfig
from supervit.data._images import LONGEST

_BLOCK = 8  # pixels per side of a block of coefficients
_SCALES = (1, 2, 4)  # eighths; Cost: those between lack vector code in libjpeg-turbo and take longer than the whole image
_MODES = {1: "L", 3: "RGB"}


@dataclass(frozen=True)
class _Steps:
    """What is done to one axis of an image that was decoded at `scale` eighths."""

    length: int  # pixels of the whole image
    scale: int
    resized: int  # after the resize to image_size / crop_pct on the short side
    cropped: int  # after the centre crop
    side: int  # of the grid
    interpolation: Interpolation
    resize: Resize


@dataclass(frozen=True, eq=False)
class _Map:
    """Pixels of the grid as sums of pixels first...last of the reduced image."""

    window: slice
    weights: Tensor  # (side, pixels of the window)


def read_for_grid(image: Image.Image, config: SuperViTConfig, grid_size: int) -> Tensor | None:
    """The pixels that a model sees at a grid size (C, side, side), normalised, decoded no further than that needs.

    The scale is the smallest of 1/8, 1/4 and 1/2 that leaves the short side the pixels that evaluation resizes it to. Fine
    detail then differs: on photographs by 1.3 of 255 levels in the mean where the pixels just suffice, less where there are
    more (`benchmarks/decoding.py`).

    Args:
        image: As `Image.open` left it: not decoded yet. Is decoded here unless None comes back.
        config: Preprocessing and grids of the model; in_chans 1 or 3.
        grid_size: Patch tokens per image side.

    Returns:
        None where only evaluation's own way will do: no scale leaves enough pixels; the grid is not smaller than the largest;
        the file is no JPEG, or one in CMYK, or so long that evaluation cuts off its ends; or the config resizes to the nearest
        pixel.
    """
    side, short = config.patch_size * grid_size, min(image.size)
    is_suitable = image.format in ("JPEG", "MPO") and image.mode in _MODES.values() and max(image.size) <= LONGEST * short
    if not is_suitable or side >= config.image_size or config.interpolation == "nearest":
        return None
    resized = math.floor(config.image_size / config.crop_pct)
    needed = resized * side / config.image_size if config.resize == "antialias" else resized
    scale = next((scale for scale in _SCALES if short * scale >= needed * _BLOCK), None)
    if scale is None:
        return None
    columns, rows = (
        _map(_Steps(length, scale, resized * length // short, config.image_size, side, config.interpolation, config.resize))
        for length in image.size
    )
    pixels = _decode(image, scale, _MODES[config.in_chans])[rows.window, columns.window]
    lines = (rows.weights @ torch.from_numpy(pixels.astype(np.float32)).flatten(1)).view(side, -1, config.in_chans)
    # Cost: with the channels in front, this is one product; behind, one for each line takes three times as long.
    seen = (lines.permute(2, 0, 1) @ columns.weights.T).clamp_(0, 255)
    mean, std = (255 * torch.tensor(values).view(-1, 1, 1) for values in (config.mean, config.std))
    return seen.sub_(mean).div_(std)


def _decode(image: Image.Image, scale: int, mode: str) -> np.ndarray:
    """The pixels (H, W, C) of a JPEG at `scale` eighths of its size."""
    (whole_width, whole_height), (width, height) = image.size, (_reduced(length, scale) for length in image.size)
    image.draft(mode, (whole_width * scale // _BLOCK, whole_height * scale // _BLOCK))  # at least so many pixels
    assert image.size == (width, height), f"Pillow decodes to {image.size} instead of {width} x {height}"
    return np.asarray(image.convert(mode)).reshape(height, width, -1)


def _reduced(length: int, scale: int) -> int:
    return math.ceil(length * scale / _BLOCK)


@lru_cache(maxsize=256)  # of some 100 kB each
def _map(steps: _Steps) -> _Map:
    """The steps of evaluation, done to what each pixel of the reduced image stands for."""
    lines = _expand(steps.length, steps.scale)[None, None]  # an image that shows every reduced pixel in a column of its own
    count = lines.shape[-1]
    lines = F.interpolate(lines, size=(steps.resized, count), mode=steps.interpolation, antialias=True)
    first = round((steps.resized - steps.cropped) / 2)
    lines = F.interpolate(
        lines[:, :, first : first + steps.cropped],
        size=(steps.side, count),
        mode="bilinear",
        align_corners=steps.resize == "align_corners",
        antialias=steps.resize == "antialias",
    )[0, 0]
    used = lines.abs().amax(dim=0).nonzero()[:, 0]
    window = slice(int(used[0]), int(used[-1]) + 1)
    return _Map(window, lines[:, window].contiguous())


def _expand(length: int, scale: int) -> Tensor:
    """The whole axis (length) as the lowest cosines that the reduced axis tells, as a matrix (length, reduced length)."""
    block = math.sqrt(_BLOCK / scale) * _cosines(_BLOCK)[:scale].T @ _cosines(scale)
    blocks = torch.block_diag(*[block.float()] * math.ceil(length / _BLOCK))[:length]
    last = _reduced(length, scale) - 1  # the pixels beyond, of a block that the image does not fill, are taken to equal it
    return torch.cat([blocks[:, :last], blocks[:, last:].sum(dim=1, keepdim=True)], dim=1)


def _cosines(size: int) -> Tensor:
    """The orthonormal discrete cosine transform (frequency, pixel) that JPEG uses."""
    frequency, pixel = torch.arange(size, dtype=torch.float64).unsqueeze(1), torch.arange(size, dtype=torch.float64)
    rows = math.sqrt(2 / size) * torch.cos(math.pi / size * (pixel + 0.5) * frequency)
    rows[0] /= math.sqrt(2)
    return rows
