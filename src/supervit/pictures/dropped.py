"""What an operating point drops: the picture as the model sees it, its patches faded by the block that dropped them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from supervit.complexity import Complexity, GridSize
from supervit.config import SuperViTConfig
from supervit.errors import InputError, printable
from supervit.layers import resize_images
from supervit.pictures._canvas import picture
from supervit.runtimes import Runtime

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_ROWS = 8
"""Images in one figure."""
_MOST_COLUMNS = 8
_PANEL = 1.75  # inches
_PAPER = np.array([0.965, 0.965, 0.965])  # what dropped patches fade to
_KEPT_OF_FIRST, _KEPT_OF_LAST = 0.06, 0.42  # how much of a patch is still seen, by the block that drops it
_LEGEND_WIDTH = 1.8  # inches of an entry
_OUTLINE = "#e8590c"


@dataclass(frozen=True)
class Look:
    """What a model saw of an image at one operating point, what it dropped, and what it answered."""

    complexity: Complexity
    pixels: np.ndarray
    """(side, side, 3), in [0, 1], as the model saw them."""
    dropped: np.ndarray
    """(g, g), the 0-based block that dropped each patch, -1 for those that were kept to the end."""
    answer: str
    probability: float


def check_traces(runtime: Runtime) -> None:
    """Refuse a runtime that cannot tell what it drops."""
    if not runtime.traces:
        raise InputError(
            f"{runtime.name} does not tell which patches it drops, PyTorch's runtimes alone do; give the model itself, "
            "without --runtime or with --runtime eager"
        )


def look(runtime: Runtime, images: Tensor, complexities: Sequence[Complexity]) -> list[list[Look]]:
    """What a model makes of each image at several operating points, in their order.

    Args:
        runtime: One of PyTorch's.
        images: Normalised images (B, C, S, S), as in evaluation.
        complexities: Operating points.

    Raises:
        InputError: another runtime, or as `SuperViT.forward`.
    """
    check_traces(runtime)
    config = runtime.model_config
    logits, traces = runtime.traced_paths(images, complexities)
    looks: list[list[Look]] = [[] for _ in images]
    for point, scores, trace in zip(complexities, logits, traces, strict=True):
        probabilities, indices = scores.softmax(dim=1).max(dim=1)
        seen = _seen(images, config, point.grid_size)
        found = zip(seen, trace.drop_map().cpu().numpy(), indices.tolist(), probabilities.tolist(), strict=True)
        for row, (pixels, dropped, index, probability) in zip(looks, found, strict=True):
            answer = config.class_names[index] if config.class_names else f"class {index}"
            row.append(Look(point, pixels, dropped, answer, probability))
    return looks


def _seen(images: Tensor, config: SuperViTConfig, grid_size: GridSize) -> np.ndarray:
    """Pictures (B, height, width, 3) in [0, 1] of normalised images (B, C, H, W) at a grid's size."""
    resized = resize_images(images.detach().float().cpu(), config.pixels(grid_size), config.resize)
    mean, std = (torch.tensor(values).view(1, -1, 1, 1) for values in (config.mean, config.std))
    return (resized * std + mean).clamp(0, 1).expand(-1, 3, -1, -1).permute(0, 2, 3, 1).numpy()


def default_points(config: SuperViTConfig, answering: Sequence[Complexity] = ()) -> list[Complexity]:
    """The operating points worth a look: those that answer, then what the largest and the smallest grid drop."""
    config = config.view(answering)
    grids = dict.fromkeys((config.grid_sizes[-1], config.grid_sizes[0]))
    cut = [point for grid in grids for point in reversed(config.space.cuts(grid))]
    return list(dict.fromkeys([*answering, *cut]))[:_MOST_COLUMNS]


def draw_dropped(rows: Sequence[Sequence[Look]], names: Sequence[str], depth: int, files: Sequence[Path]) -> None:
    """Draw a row for each image: the picture as the model sees it, then each operating point with what it drops.

    The earlier a patch is dropped the more it is faded; what is kept to the end is outlined. Class and probability stand
    below.

    Args:
        rows: For each of 1 to `MOST_ROWS` images the same operating points, from `look`.
        names: Of the images.
        depth: Blocks of the model.
        files: Where to write the picture.

    Raises:
        InputError: more images, or as `picture`.
    """
    if not 1 <= len(rows) <= MOST_ROWS or not all(rows):
        raise InputError(f"{len(rows)} images do not fit in a figure; draw 1 to {MOST_ROWS} at a time")
    blocks = sorted({int(block) for row in rows for each in row for block in np.unique(each.dropped)} - {-1})
    columns = 1 + len(rows[0])
    with picture(files, _PANEL * columns, (_PANEL + 0.28) * len(rows) + 0.6) as figure:
        grid: Any = figure.subplots(len(rows), columns, squeeze=False)
        for index, (row, name, panels) in enumerate(zip(rows, names, grid, strict=True)):
            largest = max(row, key=lambda each: len(each.pixels))
            _show(panels[0], largest.pixels, "as the model sees it" if index == 0 else "", _short(name))
            for each, axes in zip(row, panels[1:], strict=True):
                kept = int((each.dropped == -1).sum())
                title = f"{each.complexity}: {kept} of {each.dropped.size} patches" if index == 0 else ""
                _show(axes, _faded(each, blocks), title, f"{_short(each.answer)}\n{100 * each.probability:.1f} %")
                _outline_kept(axes, each)
        _explain(figure, blocks, depth)


def _short(text: str) -> str:
    return printable(text, 26)


def _show(axes: "Axes", pixels: np.ndarray, title: str, below: str) -> None:
    axes.imshow(pixels, extent=(0, 1, 1, 0), interpolation="nearest")
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)
    axes.set_title(title, fontsize=7.5)
    axes.set_xlabel(below, fontsize=7, color="0.15")


def _remains(blocks: Sequence[int]) -> dict[int, float]:
    """How much is still to be seen of a patch, by the block that dropped it."""
    return dict(zip(blocks, np.linspace(_KEPT_OF_FIRST, _KEPT_OF_LAST, len(blocks)).tolist(), strict=True)) | {-1: 1.0}


def _faded(each: Look, blocks: Sequence[int]) -> np.ndarray:
    """The picture (side, side, 3) with its dropped patches grey and faded."""
    remains = _remains(blocks)
    side = len(each.pixels) // len(each.dropped)
    share = np.vectorize(remains.__getitem__, otypes=[float])(each.dropped)
    share = np.kron(share, np.ones((side, side)))[..., None]
    grey = each.pixels @ np.array([0.299, 0.587, 0.114])
    faded = share * grey[..., None] + (1 - share) * _PAPER
    return np.where(share == 1, each.pixels, faded)


def _outline_kept(axes: "Axes", each: Look) -> None:
    """A line between what is kept to the end and what is not."""
    from matplotlib.collections import LineCollection

    kept = np.pad(each.dropped == -1, 1)
    if not (each.dropped != -1).any():
        return
    lines = []
    for row, column in zip(*np.nonzero(kept[1:, :-1] != kept[1:, 1:]), strict=True):
        lines.append([(column, row), (column, row + 1)])
    for row, column in zip(*np.nonzero(kept[:-1, 1:] != kept[1:, 1:]), strict=True):
        lines.append([(column, row), (column + 1, row)])
    outline = LineCollection(list(np.array(lines) / len(each.dropped)), colors=_OUTLINE, linewidths=0.8, capstyle="round")
    outline.set_clip_on(False)
    axes.add_collection(outline, autolim=False)


def _explain(figure: Any, blocks: Sequence[int], depth: int) -> None:
    """The legend below: which fading is which block."""
    from matplotlib.patches import Patch

    remains = _remains(blocks)
    handles = [Patch(facecolor="white", edgecolor=_OUTLINE, label="kept to the end")]
    for block in reversed(blocks):
        shade = remains[block] * 0.25 + (1 - remains[block]) * _PAPER
        handles.append(Patch(facecolor=tuple(shade), edgecolor="0.8", label=f"dropped in block {block + 1} of {depth}"))
    columns = min(max(int(figure.get_figwidth() / _LEGEND_WIDTH), 1), len(handles))
    figure.legend(handles=handles, loc="outside lower center", ncols=columns)
