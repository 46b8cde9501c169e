"""The model as a graph that other runtimes can take: static for one operating point, elastic for several."""

import copy
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from supervit.complexity import Complexity
from supervit.config import SuperViTConfig
from supervit.errors import InputError
from supervit.layers import Attention, Block, Projection, resize_images
from supervit.limits import check_images, check_memory
from supervit.model import SuperViT

AnyComplexity = Complexity | str
Feed = dict[str, np.ndarray[Any, Any]]

INPUT_NAMES = ("images", "keep")
_MOST_IMAGES = 4096  # per batch: a bound that the exporter wants


class PartedAttention(Attention):
    """Attention that has its weights of queries and of keys and values apart.

    Quantisers take constants alone, and the parts of a packed weight are none: left packed, every drop block's projections
    stayed in float32 (measured in `docs/log.md`).
    """

    def __init__(self, packed: Attention):
        with torch.device("meta"):  # draws no random numbers
            super().__init__(packed.qkv.in_features, packed.num_heads, qkv_bias=False)
        del self.qkv
        self.proj = packed.proj
        parts = packed.split_weights()
        self.query, self.key_value = (nn.ParameterList(tensor.detach().clone() for tensor in part) for part in parts)

    def split_projection(self) -> tuple[Projection, Projection]:
        """As the packed one's."""
        return self._projections(self.query, self.key_value)


def blocks_in_part(config: SuperViTConfig, points: Sequence[Complexity]) -> set[int]:
    """The blocks that compute some of their rows alone in the graph of these operating points."""
    if len(points) == 1:
        blocks = enumerate(config.plan(points[0]).blocks)
        return {index for index, block in blocks if config.exact_savings and block.tokens_out < block.tokens_in}
    last = {config.depth - 1} if config.reads_class_token_only else set()
    return {*config.drop_blocks} - last | (last if config.exact_savings else set())


def part_projections(model: SuperViT, blocks: Iterable[int]) -> None:
    """Give these blocks, which compute some rows of theirs alone, a `PartedAttention`, unless an adapter computes there."""
    for index in blocks:
        block = cast(Block, model.blocks[index])
        if type(block.attn.qkv) is nn.Linear:
            block.attn = PartedAttention(block.attn).requires_grad_(False)


class StaticGraph(nn.Module):
    """The model at one operating point."""

    def __init__(self, model: SuperViT, point: Complexity):
        super().__init__()
        self.model, self.point = model, point

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, K) of images (B, C, S, S) at the grid's size."""
        return self.model(images, self.point)


class ElasticGraph(nn.Module):
    """The model with the number of survivors as an input; the image's size says the grid.

    Numerics: where all tokens are kept, a drop block still orders them, which changes no logit.

    Args:
        model: In evaluation mode.
        grid_sizes: Grids to serve; images at the size of another are an index error.
    """

    tables: Tensor
    first_rows: Tensor

    def __init__(self, model: SuperViT, grid_sizes: Sequence[int]):
        super().__init__()
        self.model = model
        tables = {grid: model.position_table(grid).detach()[0] for grid in grid_sizes}
        rows = sum(len(table) for table in tables.values())
        first_rows, row = torch.full((max(grid_sizes) + 1,), rows), 0
        for grid, table in tables.items():
            first_rows[grid] = row
            row += len(table)
        self.register_buffer("tables", torch.cat(list(tables.values())))
        self.register_buffer("first_rows", first_rows)  # of each grid's table, by grid size

    def forward(self, images: Tensor, keep: Tensor) -> Tensor:
        """Logits (B, K).

        Args:
            images: Normalised images (B, C, S, S), S = patch size * grid size.
            keep: Tokens that survive each drop block, class token included (number of drop blocks).
        """
        model, config = self.model, self.model.config
        tokens = model.patch_embed(images).flatten(2).transpose(1, 2)
        rows = self.first_rows[images.shape[-1] // config.patch_size] + torch.arange(tokens.shape[1] + 1, device=images.device)
        tokens = torch.cat([model.cls_token.expand(tokens.shape[0], -1, -1), tokens], dim=1)
        tokens = tokens + self.tables.index_select(0, rows)
        drop_blocks = drop_order(config)
        for index, block in enumerate(cast(Sequence[Block], model.blocks)):
            if config.reads_class_token_only and index == config.depth - 1:
                tokens, _ = block(tokens, 1)
            elif index in drop_blocks:
                kept: Any = keep[drop_blocks.index(index)].item()  # a symbol: int() would freeze it
                torch._check(kept >= 2)
                torch._check(kept <= tokens.shape[1])
                tokens = block.drop(tokens, kept)
            else:
                tokens, _ = block(tokens, tokens.shape[1])
        return model.forward_head(model.norm(tokens))


def drop_order(config: SuperViTConfig) -> list[int]:
    """The drop blocks in the order of the input `keep`."""
    return sorted(config.drop_blocks)


def keep_counts(config: SuperViTConfig, point: Complexity) -> Tensor:
    """The input `keep` (number of drop blocks) of an elastic graph at an operating point."""
    blocks = config.plan(point).blocks
    return torch.tensor([blocks[index].tokens_kept for index in drop_order(config)], dtype=torch.long)


@dataclass(frozen=True)
class Interface:
    """What the inputs of a graph are."""

    config: SuperViTConfig
    points: tuple[Complexity, ...]
    """The operating points asked for: one where the graph is static."""

    @property
    def is_elastic(self) -> bool:
        """Whether the graph serves more than one operating point."""
        return len(self.points) > 1

    @property
    def input_names(self) -> tuple[str, ...]:
        """Names of the inputs in order."""
        return INPUT_NAMES if self.is_elastic else INPUT_NAMES[:1]

    def side(self, point: Complexity) -> int:
        """Pixels per side of the images at an operating point."""
        return self.config.patch_size * point.grid_size

    def keep(self, point: Complexity) -> Tensor:
        """Tokens that survive each drop block at an operating point."""
        return keep_counts(self.config, point)

    def inputs(self, images: Tensor, point: Complexity) -> tuple[Tensor, ...]:
        """The inputs for images (B, C, S, S) of any size at an operating point."""
        images = resize_images(images, self.side(point), self.config.resize)
        return (images, self.keep(point)) if self.is_elastic else (images,)


@dataclass(frozen=True)
class Graph(Interface):
    """A traced model."""

    program: ExportedProgram

    @property
    def interface(self) -> Interface:
        """What remains of use where the program has become another runtime's: without the weights."""
        return Interface(self.config, self.points)


def trace(model: SuperViT, points: Sequence[AnyComplexity] = ()) -> Graph:
    """The graph that serves these operating points (default: the menu), for any batch size; the model is left as it is."""
    asked = tuple(dict.fromkeys(map(Complexity.of, points))) or tuple(model.config.space)
    for name, tensor in model.state_dict().items():  # other libraries may make numbers of those that are none
        if not tensor.isfinite().all():
            raise InputError(f"the weights {name} are not all finite; load or train the model again")
    model = copy.deepcopy(model).float().cpu().eval().requires_grad_(False)
    part_projections(model, blocks_in_part(model.config, asked))
    config, batch = model.config, Dim("batch", min=1, max=_MOST_IMAGES)
    check_memory(config, max(asked), 2, torch.device("cpu"))
    grids = sorted({point.grid_size for point in asked})
    side = config.patch_size * grids[-1]
    images = torch.zeros(2, config.in_chans, side, side)
    image_dims: dict[int, Any] = {0: batch}
    with torch.no_grad():
        if len(asked) == 1:
            program = torch.export.export(StaticGraph(model, asked[0]), (images,), dynamic_shapes=(image_dims,))
            return Graph(config, asked, program)
        if len(grids) > 1:
            pixels = config.patch_size * Dim("grid", min=grids[0], max=grids[-1])
            image_dims |= {2: pixels, 3: pixels}
        inputs = (images, keep_counts(config, asked[0]))
        program = torch.export.export(ElasticGraph(model, grids), inputs, dynamic_shapes=(image_dims, {}))
    return Graph(config, asked, program)


def calibration_feeds(graph: Graph, images: Tensor) -> list[Feed]:
    """Normalised images (N, C, S, S) as inputs of a graph by name, one image each; the operating points take turns."""
    check_images(images, graph.config.in_chans, max(point.grid_size for point in graph.points))
    if not images.shape[0]:
        raise InputError("no calibration images were given; give some hundred of those to be classified")
    feeds = []
    for index in range(images.shape[0]):
        inputs = graph.inputs(images[index : index + 1].float().cpu(), graph.points[index % len(graph.points)])
        feeds.append({name: tensor.numpy() for name, tensor in zip(graph.input_names, inputs, strict=True)})
    return feeds
