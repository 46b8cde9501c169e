"""`torch.compile`, a block at a time: token counts are dynamic, so all blocks and operating points share few graphs.

A graph is made for each way a block picks its rows (all, survivors, class token) when it is first needed, with one for
batches of a single image and one for all others. `prepare` makes them ahead.
"""

import functools
import importlib.util
import os
import shutil
import threading
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import nn

from supervit.block import Block
from supervit.model import SuperViT
from supervit.options import Precision
from supervit.runtimes._runtime import Runtime, RuntimeConfig
from supervit.runtimes._torch import place_model, torch_obstacle, torch_runtime

PRECISIONS = ("float32", "bfloat16")

_GRAPHS = 64  # of all models compiled in a process: the limit counts those of one function
_TURNS = threading.Lock()  # the compiler's state is the process's: while one thread compiles, no other may run a block


def obstacle(device: torch.device, precision: Precision) -> str | None:
    """Why not here: as for PyTorch, or no compiler (on a GPU Triton compiles its launchers)."""
    if device.type == "cuda" and importlib.util.find_spec("triton") is None:
        return "torch.compile needs triton"
    variable, names = ("CC", ("gcc", "clang", "cc")) if device.type == "cuda" else ("CXX", ("g++", "clang++", "cl"))
    if variable not in os.environ and not any(map(shutil.which, names)):
        return f"torch.compile needs a compiler: {' or '.join(names)}, or {variable}"
    return torch_obstacle(device, precision)


def open_runtime(model: SuperViT, config: RuntimeConfig) -> Runtime:
    """The model with compiled blocks; compiles at the first use."""
    return torch_runtime("compiled", compile_blocks(model, config), model)


def compile_blocks(model: SuperViT, config: RuntimeConfig) -> SuperViT:
    """The model, placed as the config says, with blocks that compile at their first use."""
    placed = place_model(model, config)
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, _GRAPHS)
    step = torch.compile(Block.forward, dynamic=True, fullgraph=True)  # beyond the limit an error, not eager without a word
    for block in placed.blocks:
        block.drop_path = nn.Identity()  # its rate differs from block to block, which would make a graph for each
        block.forward = functools.partial(_in_turn, step, cast(Block, block))
    return placed


def _in_turn(step: Callable[..., Any], *arguments: Any) -> Any:
    with _TURNS:
        return step(*arguments)
