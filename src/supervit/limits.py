"""What images a model takes, and how many of them memory can hold: refused here before any work."""

import torch
from torch import Tensor

from supervit.complexity import Complexity
from supervit.config import SuperViTConfig
from supervit.errors import InputError
from supervit.meters import free_memory_bytes

_LEAST_WIDTHS = 5  # of a token: itself, normalised, query, key and value
_ALWAYS_THERE = 2**26  # bytes, below which nobody asks


def check_images(images: Tensor, in_chans: int, grid_size: int) -> None:
    """Refuse images that are not normalised, square, of the model's channel count and a pixel for each patch (B, C, S, S)."""
    if images.layout != torch.strided or images.is_meta:
        raise InputError(f"images that are {'meta' if images.is_meta else 'sparse'} tensors hold no pixels; use dense ones")
    if images.ndim != 4 or images.shape[1] != in_chans or images.shape[2] != images.shape[3]:
        raise InputError(
            f"images of shape {tuple(images.shape)} do not fit; expected (batch, {in_chans}, S, S): "
            "square (crop or pad first), with the model's channel count"
        )
    if not images.is_floating_point():
        raise InputError(
            f"images of type {images.dtype} do not fit; scale to [0, 1] and normalise with config.mean, config.std"
        )
    if images.shape[-1] < grid_size:
        raise InputError(
            f"images of {images.shape[-1]} pixels are too small for grid size {grid_size}: "
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
    tokens = batch_size * (point.grid_size**2 + 1)
    pixels = batch_size * config.in_chans * (config.patch_size * point.grid_size) ** 2
    attention = 0 if config.exact_savings else config.num_heads * (point.grid_size**2 + 1)
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
