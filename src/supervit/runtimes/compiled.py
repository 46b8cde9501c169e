"""`torch.compile`, a block at a time: token counts are dynamic, so all blocks and operating points share few graphs.

A graph is made for each way a block picks its rows (all, survivors, class token) when it is first needed, with one for
batches of a single image and one for all others. `prepare` makes them ahead.
"""

import functools
import shutil
from typing import cast

import torch
from torch import nn

from supervit.export import Precision
from supervit.layers import Block
from supervit.model import SuperViT
from supervit.runtimes._runtime import Runtime, RuntimeConfig
from supervit.runtimes._torch import place_model, torch_obstacle, torch_runtime

PRECISIONS = ("float32", "bfloat16")


def obstacle(device: torch.device, precision: Precision) -> str | None:
    """Why not here: as for PyTorch, or no compiler."""
    if device.type == "cpu" and not any(map(shutil.which, ("g++", "clang++", "cl"))):
        return "torch.compile needs a C++ compiler"
    return torch_obstacle(device, precision)


def open_runtime(model: SuperViT, config: RuntimeConfig) -> Runtime:
    """The model with compiled blocks; compiles at the first use."""
    placed = place_model(model, config)
    step = torch.compile(Block.forward, dynamic=True)
    for block in placed.blocks:
        block.drop_path = nn.Identity()  # its rate differs from block to block, which would make a graph for each
        block.forward = functools.partial(step, cast(Block, block))
    return torch_runtime("compiled", placed, model)
