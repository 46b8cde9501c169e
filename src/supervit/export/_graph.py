"""The model as a graph that other runtimes can take: static for one operating point, elastic for several."""

import copy
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from supervit.block import Block
from supervit.complexity import Complexity, GridSize, side_of, sides
from supervit.config import SuperViTConfig
from supervit.errors import InputError
from supervit.layers import Attention, Projection, resize_images
from supervit.limits import check_images, check_memory
from supervit.model import SuperViT
from supervit.plan import grow_tree
from supervit.reducers import load_reducer

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
        (branch,) = grow_tree([config.plan(points[0])])
        return {step.block for step in branch.every_step() if config.exact_savings and 0 < step.tokens_out < step.tokens_in}
    reducer, last = load_reducer(config.reducer), {depth_of(config, points) - 1} if config.reads_class_token_only else set()
    chosen = set() if reducer.at_input or reducer.reads_all_rows else {*config.drop_blocks} - last
    return chosen | (last if config.exact_savings else set())


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
        model: In evaluation mode, with a reducer for which `is_elastic` holds.
        grid_sizes: Grids to serve; images at the size of another are an index error.
        depth: Blocks that run.
    """

    tables: Tensor
    first_rows: Tensor

    def __init__(self, model: SuperViT, grid_sizes: Sequence[GridSize], depth: int):
        super().__init__()
        self.model, self.depth = model, depth
        tables = {sides(grid): model.position_table(grid).detach()[0] for grid in grid_sizes}
        first_rows = torch.full([most + 1 for most in map(max, zip(*tables, strict=True))], sum(map(len, tables.values())))
        row = 0
        for (rows, columns), table in tables.items():
            first_rows[rows, columns] = row
            row += len(table)
        self.columns = first_rows.shape[1]
        self.register_buffer("tables", torch.cat(list(tables.values())))
        self.register_buffer("first_rows", first_rows.flatten())  # of each grid's table, by its rows and columns

    def forward(self, images: Tensor, keep: Tensor) -> Tensor:
        """Logits (B, K).

        Args:
            images: Normalised images (B, C, H, W), of the patch size times rows and columns of a grid.
            keep: Tokens that survive each drop block, prefix included (number of drop blocks).
        """
        model, config = self.model, self.model.config
        embedded = model.with_prefix(model.patch_embed(images).flatten(2).transpose(1, 2))
        height, width = images.shape[-2:]
        grid = height // config.patch_size * self.columns + width // config.patch_size
        rows = self.first_rows[grid] + torch.arange(embedded.shape[1], device=images.device)
        tokens = model.start(embedded + self.tables.index_select(0, rows))
        drop_blocks = drop_order(config)
        for index, block in enumerate(cast(Sequence[Block], model.blocks[: self.depth])):
            if config.reads_class_token_only and index == self.depth - 1:
                (tokens,) = block(tokens, 1)
            elif index in drop_blocks:
                kept: Any = keep[drop_blocks.index(index)].item()  # a symbol: int() would freeze it
                torch._check(kept > tokens.prefix)
                torch._check(kept <= tokens.values.shape[1])
                tokens = block.drop(tokens, kept)
            else:
                (tokens,) = block(tokens, tokens.values.shape[1])
        return model.forward_head(model.finish(tokens))


def drop_order(config: SuperViTConfig) -> list[int]:
    """The drop blocks in the order of the input `keep`."""
    return sorted(config.drop_blocks)


def keep_counts(config: SuperViTConfig, point: Complexity) -> Tensor:
    """The input `keep` (number of drop blocks) of an elastic graph at an operating point."""
    blocks = config.plan(point).blocks
    return torch.tensor([blocks[min(index, len(blocks) - 1)].tokens_kept for index in drop_order(config)], dtype=torch.long)


def depth_of(config: SuperViTConfig, points: Sequence[Complexity]) -> int:
    """How many blocks the graph of these operating points has.

    Raises:
        InputError: they stop after different blocks.
    """
    exits = {point.exit_block for point in points}
    if len(exits) > 1:
        raise InputError(
            f"one graph cannot stop after different blocks ({', '.join(map(str, points))}); export each exit on its own"
        )
    return exits.pop() or config.depth


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

    def size(self, point: Complexity) -> tuple[int, int]:
        """Height and width in pixels of the images at an operating point."""
        return self.config.pixels(point.grid_size)

    def image_size(self, point: Complexity) -> GridSize:
        """The same as a report says it: the side of a square, or both."""
        return side_of(self.size(point))

    def keep(self, point: Complexity) -> Tensor:
        """Tokens that survive each drop block at an operating point."""
        return keep_counts(self.config, point)

    def inputs(self, images: Tensor, point: Complexity) -> tuple[Tensor, ...]:
        """The inputs for images (B, C, H, W) of any size at an operating point."""
        images = resize_images(images, self.size(point), self.config.resize)
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
    depth = depth_of(model.config, asked)
    if len(asked) > 1 and not load_reducer(model.config.reducer).is_elastic:
        raise InputError(f"a model with reducer {model.config.reducer!r} exports one operating point at a time; name one")
    for name, tensor in model.state_dict().items():  # other libraries may make numbers of those that are none
        if not tensor.isfinite().all():
            raise InputError(f"the weights {name} are not all finite; load or train the model again")
    model = copy.deepcopy(model).float().cpu().eval().requires_grad_(False)
    part_projections(model, blocks_in_part(model.config, asked))
    config, batch = model.config, Dim("batch", min=1, max=_MOST_IMAGES)
    check_memory(config, max(asked), 2, torch.device("cpu"))
    grids = [point.grid_size for point in sorted({Complexity(point.grid_size) for point in asked})]
    images = torch.zeros(2, config.in_chans, *config.pixels(grids[-1]))
    image_dims: dict[int, Any] = {0: batch}
    with torch.no_grad():
        if len(asked) == 1:
            program = torch.export.export(StaticGraph(model, asked[0]), (images,), dynamic_shapes=(image_dims,))
            return Graph(config, asked, program)
        if len(grids) > 1:
            image_dims |= _sides_of(grids, config.patch_size)
        inputs = (images, keep_counts(config, asked[0]))
        program = torch.export.export(ElasticGraph(model, grids, depth), inputs, dynamic_shapes=(image_dims, {}))
    return Graph(config, asked, program)


def _sides_of(grids: Sequence[GridSize], patch_size: int) -> dict[int, Any]:
    """The sides of images of several grids as variables: the same one where all are square."""
    rows, columns = zip(*map(sides, grids), strict=True)
    names = ["grid", "grid"] if rows == columns else ["rows", "columns"]
    found: dict[int, Any] = {}
    for axis, (name, lengths) in enumerate(zip(names, (rows, columns), strict=True), start=2):
        if len({*lengths}) > 1:
            found[axis] = patch_size * Dim(name, min=min(lengths), max=max(lengths))
    return found


def calibration_feeds(graph: Graph, images: Tensor) -> list[Feed]:
    """Normalised images (N, C, S, S) as inputs of a graph by name, one image each; the operating points take turns."""
    for grid_size in {point.grid_size for point in graph.points}:
        check_images(images, graph.config.in_chans, grid_size)
    if not images.shape[0]:
        raise InputError("no calibration images were given; give some hundred of those to be classified")
    feeds = []
    for index in range(images.shape[0]):
        inputs = graph.inputs(images[index : index + 1].float().cpu(), graph.points[index % len(graph.points)])
        feeds.append({name: tensor.numpy() for name, tensor in zip(graph.input_names, inputs, strict=True)})
    return feeds
