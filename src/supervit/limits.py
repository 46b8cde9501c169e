"""What images a model takes, and how many of them memory can hold: refused here before any work."""

import torch
from torch import Tensor

from supervit.complexity import Complexity, GridSize, grid_text, has_shape, side_of, sides
from supervit.config import SuperViTConfig
from supervit.errors import InputError
from supervit.meters import free_memory_bytes

_LEAST_WIDTHS = 5  # of a token: itself, normalised, query, key and value
_ALWAYS_THERE = 2**26  # bytes, below which nobody asks


def check_images(images: Tensor, in_chans: int, grid_size: GridSize | None = None) -> None:
    """Refuse images (B, C, H, W) that are not normalised, of the model's channel count, of the grid's shape and a pixel for
    each patch.

    Args:
        images: Of any size.
        in_chans: The model's channel count.
        grid_size: Patches per side; None: not known yet.

    Raises:
        InputError: they do not fit.
    """
    if images.layout != torch.strided or images.is_meta:
        raise InputError(f"images that are {'meta' if images.is_meta else 'sparse'} tensors hold no pixels; use dense ones")
    if images.ndim != 4 or images.shape[1] != in_chans:
        raise InputError(
            f"images of shape {tuple(images.shape)} do not fit; expected (batch, {in_chans}, height, width), with the model's "
            "channel count"
        )
    if not images.is_floating_point():
        raise InputError(
            f"images of type {images.dtype} do not fit; scale to [0, 1] and normalise with config.mean, config.std"
        )
    if grid_size is None:
        return
    (height, width), (rows, columns) = images.shape[-2:], sides(grid_size)
    if not has_shape(grid_size, height, width):
        raise InputError(
            f"images of {height}x{width} pixels have not the shape of grid size {grid_text(grid_size)}, which is "
            f"{'square' if rows == columns else f'{rows} to {columns}'}; crop or pad them first"
        )
    if height < rows or width < columns:
        raise InputError(
            f"images of {grid_text(side_of((height, width)))} pixels are too small for grid size {grid_text(grid_size)}: "
            "each patch needs a pixel; use larger images or a smaller grid"
        )


def check_memory(config: SuperViTConfig, point: Complexity, batch_size: int, device: torch.device, size: int = 4) -> None:
    """Refuse, before it is asked for, what an operating point needs of more memory than there is.

    Args:
        config: Of the model.
        point: The operating point.
        batch_size: Images at once.
        device: Where they are computed.
        size: Bytes of a number.

    Raises:
        InputError: the least that the first blocks need at once, and what this process can still have.
    """
    length = config.num_prefix_tokens + point.num_patches
    tokens, pixels = batch_size * length, batch_size * config.in_chans * config.patch_size**2 * point.num_patches
    attention = 0 if config.exact_savings else config.num_heads * length
    needed = size * (pixels + tokens * (_LEAST_WIDTHS * config.embed_dim + attention))
    check_bytes(f"{batch_size} images at {point}", needed, device)


def check_bytes(what: str, needed: int, device: torch.device) -> None:
    """Refuse, before it is asked for, more memory than there is.

    Raises:
        InputError: what needs how much, and how much this process can still have.
    """
    if needed < _ALWAYS_THERE:
        return
    free = free_memory_bytes(device)
    if free is not None and needed > free:
        raise InputError(
            f"{what} need at least {needed / 2**30:.1f} GiB of memory, and {free / 2**30:.1f} GiB are there; "
            "use a smaller batch, grid or image"
        )
