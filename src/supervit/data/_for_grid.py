"""Images for small grids: from the file straight to the grid's pixels, JPEGs decoded no further than these need.

What evaluation does to an image (resize, centre crop, the model's own resize to the grid) is linear, each axis on its own: a
matrix per axis, of narrow bands. One product each gives what takes evaluation several passes over larger images. A JPEG
holds the cosine coefficients of blocks of 8 x 8 pixels; a decoder that leaves out all but the lowest M x M of each gives an
image of M/8 the size for less work. Applied to what one pixel of the reduced image stands for in the whole one, the steps
of evaluation give the matrix of the reduced image. So the model sees what it would see of the whole image, at the very
positions and through the same filters, but without the coefficients that were left out.
"""

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from supervit.complexity import GridSize
from supervit.config import PILLOW_MODES, Interpolation, Resize, SuperViTConfig
from supervit.data._images import LONGEST
from supervit.data._opening import decode, orientation_of, undecoded_jpeg
from supervit.data._reading import Reading

_BLOCK = 8  # pixels per side of a block of coefficients
_SCALES = (1, 2, 4)  # eighths; Cost: those between lack vector code in libjpeg-turbo and take longer than the whole image
_BANDS = 8  # per axis; Cost: fewer multiply more zeros, more are more calls
_LONGEST_WHOLE = 2048  # pixels; Cost: the matrix of a longer axis that is not reduced takes longer to make than it saves
# Turns as EXIF counts them: from the file to the upright picture the axes change places, then some are mirrored.
_SWAPS_AXES, _MIRRORS_COLUMNS, _MIRRORS_ROWS = (5, 6, 7, 8), (2, 3, 6, 7), (3, 4, 7, 8)


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
    mirrored: bool = False  # in the file, whose blocks then begin at the other end


@dataclass(frozen=True, eq=False)
class _Axis:
    """Pixels of the grid as sums of pixels of the decoded image along one axis."""

    window: slice
    """The pixels that count."""
    bands: tuple[tuple[slice, Tensor], ...]
    """For some pixels of the grid at a time: which of the window count, and the weights (pixels of the grid, of the slice)."""


def read_for_grid(
    image: Image.Image, config: SuperViTConfig, grid_size: GridSize, exif_orientation: bool = True
) -> Tensor | None:
    """The pixels that a model sees at a grid size (C, side, side), normalised, without the steps between.

    Between two steps evaluation rounds to 8 bits; this does not: on photographs a difference of 0.2 of 255 levels in the mean.
    A JPEG that is not decoded yet is decoded at the smallest of 1/8, 1/4 and 1/2 that leaves the short side the pixels that
    evaluation resizes it to. Fine detail then differs: by 1.3 levels in the mean where the pixels just suffice, less where
    there are more (`benchmarks/decoding.py`).

    Args:
        image: Any image; as `Image.open` left it, it is decoded here unless None comes back.
        config: Preprocessing and grids of the model; in_chans 1 or 3.
        grid_size: Patch tokens per image side.
        exif_orientation: Whether the picture is turned as its EXIF data say.

    Returns:
        None where evaluation's own way is the better one: the grid is no square or not smaller than the largest; the image is
        neither grey nor RGB of 8 bits, so long that evaluation cuts off its ends, or large and no JPEG to reduce; or the config
        resizes to the nearest pixel.
    """
    whole, short = config.image_size, min(image.size)
    is_suitable = image.mode in PILLOW_MODES.values() and 0 < max(image.size) <= LONGEST * short
    if not is_suitable or config.interpolation == "nearest" or not (isinstance(grid_size, int) and isinstance(whole, int)):
        return None
    side = config.patch_size * grid_size
    if side >= whole:
        return None
    resized, scale = math.floor(whole / config.crop_pct), _BLOCK
    turn = 1
    if undecoded_jpeg(image):
        turn = orientation_of(image) if exif_orientation else 1
        needed = resized * side / whole if config.resize == "antialias" else resized
        scale = next((scale for scale in _SCALES if short * scale >= needed * _BLOCK), _BLOCK)
    if scale == _BLOCK and max(image.size) > _LONGEST_WHOLE:
        return None
    if not undecoded_jpeg(image):
        image = decode(image, Reading(exif_orientation=exif_orientation))
    lengths = image.size[::-1] if turn in _SWAPS_AXES else image.size
    is_mirrored = (scale < _BLOCK and turn in _MIRRORS_COLUMNS, scale < _BLOCK and turn in _MIRRORS_ROWS)
    steps = (whole, side, config.interpolation, config.resize)
    columns, rows = (
        _axis(_Steps(length, scale, resized * length // short, *steps, mirrored))
        for length, mirrored in zip(lengths, is_mirrored, strict=True)
    )
    pixels = _upright(_decode(image, scale, PILLOW_MODES[config.in_chans]), turn)[rows.window, columns.window]
    lines = torch.cat([weights @ _in_lines(pixels[part]) for part, weights in rows.bands])
    planes = lines.view(side, -1, config.in_chans).permute(2, 0, 1).contiguous()
    seen = torch.cat([planes[:, :, part] @ weights.T for part, weights in columns.bands], dim=2).clamp_(0, 255)
    mean, std = (255 * torch.tensor(values).view(-1, 1, 1) for values in (config.mean, config.std))
    return seen.sub_(mean).div_(std)


def _in_lines(pixels: np.ndarray) -> Tensor:
    """Pixels (H, W, C) as numbers (H, W * C)."""
    return torch.from_numpy(pixels.reshape(len(pixels), -1).astype(np.float32))


def _decode(image: Image.Image, scale: int, mode: str) -> np.ndarray:
    """The pixels (H, W, C) of an image, of a JPEG at `scale` eighths of its size."""
    (whole_width, whole_height), (width, height) = image.size, (_reduced(length, scale) for length in image.size)
    if scale < _BLOCK:
        image.draft(mode, (whole_width * scale // _BLOCK, whole_height * scale // _BLOCK))  # at least so many pixels
    assert image.size == (width, height), f"Pillow decodes to {image.size} instead of {width} x {height}"
    return np.asarray(image if image.mode == mode else image.convert(mode)).reshape(height, width, -1)


def _upright(pixels: np.ndarray, turn: int) -> np.ndarray:
    """A view of the pixels (H, W, C) of a file as the upright picture has them."""
    upright = pixels.transpose(1, 0, 2) if turn in _SWAPS_AXES else pixels
    return upright[:: -1 if turn in _MIRRORS_ROWS else 1, :: -1 if turn in _MIRRORS_COLUMNS else 1]


def _reduced(length: int, scale: int) -> int:
    return math.ceil(length * scale / _BLOCK)


@lru_cache(maxsize=256)  # of some 100 kB each
def _axis(steps: _Steps) -> _Axis:
    """The steps of evaluation, done to what each pixel of the reduced image stands for."""
    expanded = _expand(steps.length, steps.scale)
    # An image that shows every reduced pixel in a column of its own.
    lines = (expanded.flip(0, 1) if steps.mirrored else expanded)[None, None]
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
    window = _used(lines)
    bands = []
    for part in lines[:, window].chunk(_BANDS):
        used = _used(part)
        bands.append((used, part[:, used].contiguous()))
    return _Axis(window, tuple(bands))


def _used(weights: Tensor) -> slice:
    """The columns from the first to the last that has a weight."""
    columns = weights.any(dim=0).nonzero()[:, 0]
    return slice(int(columns[0]), int(columns[-1]) + 1)


def _expand(length: int, scale: int) -> Tensor:
    """The whole axis (length) as the lowest cosines that the reduced axis tells, as a matrix (length, reduced length)."""
    if scale == _BLOCK:
        return torch.eye(length)
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
