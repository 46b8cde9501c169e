"""Inference on a CPU: work on tokens that do not meet is done a slice at a time, on what fits the cache."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

_ROWS_PER_SLICE = 1024  # tokens, nearly: 6 MiB of hidden activations at width 384


def in_slices(run: Callable[[Tensor], Tensor], tokens: Tensor, module: nn.Module) -> Tensor:
    """What `run` makes of tokens (B, T, D), each on its own.

    On a CPU, in inference, a slice at a time: hidden activations that fit the cache instead of the largest buffer of the
    network (measured in `docs/log.md`).

    Args:
        run: Of rows (..., D).
        tokens: All rows.
        module: What runs; where it has hooks, these see all tokens at once.
    """
    count = 1 if _is_whole(tokens, module) else round(tokens.shape[0] * tokens.shape[1] / _ROWS_PER_SLICE)
    if count <= 1:
        return run(tokens)
    return torch.cat([run(part) for part in tokens.flatten(0, 1).chunk(count)]).view_as(tokens)


def _is_whole(tokens: Tensor, module: nn.Module) -> bool:
    if tokens.device.type != "cpu" or torch.is_grad_enabled() or torch.compiler.is_compiling() or torch.jit.is_tracing():  # type: ignore[attr-defined]
        return True
    return any(each._forward_hooks for each in module.modules())
