"""Draw the tree of `docs/idea.md`: what the four paths of a training step share.

    python docs/images/prefix_tree.py

A bar is a block, its height the number of token rows that the block computes; all numbers come from the plan of DeiT-S. The
photograph ships with scikit-learn.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from PIL import Image
from sklearn.datasets import load_sample_image

from supervit.backbones import variant_config
from supervit.files import whole_file
from supervit.macs import executed_macs
from supervit.pictures._canvas import picture
from supervit.plan import Branch, grow_tree

PATHS = ("14", "14@0.7", "8", "8@0.5")
TEACHERS = {"14@0.7": "14", "8@0.5": "8"}
COLOURS = {14: "#2f6f9f", 8: "#c2570c"}
TALL = 0.74  # of a lane, for the most tokens


def main() -> None:
    """Write the picture, by default prefix_tree.png beside this file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".png"))
    options = parser.parse_args()
    config = variant_config("deit_small")
    plans = [config.plan(path) for path in PATHS]
    with picture([options.out], 8.6, 4.0) as figure:
        figure.set_layout_engine("none")
        axes = figure.add_axes((0.16, 0.13, 0.67, 0.84))
        axes.set(xlim=(0.4, config.depth + 0.6), ylim=(len(PATHS) - 0.4, -0.6), yticks=[])
        blocks = range(1, config.depth + 1)
        axes.set_xticks(blocks, [f"{block}\ndrops" if block - 1 in config.drop_blocks else f"{block}" for block in blocks])
        axes.set_xlabel("block")
        axes.grid(visible=False)
        axes.spines["left"].set_visible(False)
        for branch in grow_tree(plans):
            draw_branch(axes, branch, max(plan.blocks[0].tokens_in for plan in plans))
            middle = axes.transData.transform((0, float(np.mean(leaves(branch)))))
            bottom = figure.transFigure.inverted().transform(middle)[1] - 0.16
            draw_photograph(figure.add_axes((0.005, bottom, 0.15, 0.32)), int(str(branch.grid_size)))
        for lane, path in enumerate(PATHS):
            draw_end(axes, lane, path, executed_macs(config, path))
    with Image.open(options.out) as drawn:
        few = drawn.convert("RGB").quantize(128, dither=Image.Dither.NONE)
    with whole_file(options.out) as temporary:
        few.save(temporary, "png", optimize=True)


def leaves(branch: Branch) -> list[int]:
    """The paths of a branch and of all that follows it."""
    return [*branch.paths, *(path for _, child in branch.children for path in leaves(child))]


def draw_branch(axes: Axes, branch: Branch, most: int, shown: int = 0) -> None:
    """The bars of a branch at the mean height of its paths, then what follows it; `shown`: rows that the bar before has."""
    lane = float(np.mean(leaves(branch)))
    for step in branch.steps:
        height = max(TALL * step.tokens_out / most, 0.02)
        place = (step.block + 1 - 0.36, lane - height / 2)
        axes.add_patch(Rectangle(place, 0.72, height, color=COLOURS[int(str(branch.grid_size))], alpha=0.9, linewidth=0))
        if step.tokens_out != shown:
            axes.text(step.block + 1, lane - height / 2 - 0.03, str(step.tokens_out), ha="center", va="bottom", fontsize=7)
        shown = step.tokens_out
    forks = len(branch.children) > 1
    for _, child in branch.children:
        if forks:
            right = branch.steps[-1].block + 1.42
            axes.plot([right, right + 0.16], [lane, float(np.mean(leaves(child)))], color="0.55", linewidth=1.2)
        draw_branch(axes, child, most, 0 if forks else shown)


def draw_photograph(axes: Any, grid: int) -> None:
    """The photograph as the model sees it at a grid, with the lines between the patches."""
    pixels = load_sample_image("flower.jpg")
    left = (pixels.shape[1] - pixels.shape[0]) // 2
    square = Image.fromarray(pixels[:, left : left + pixels.shape[0]])
    axes.imshow(square.resize((16 * grid, 16 * grid), Image.Resampling.BILINEAR))
    edges = 16 * np.arange(1, grid) - 0.5
    axes.set(xticks=[], yticks=[])
    axes.set_title(f"{grid}x{grid} = {grid * grid} patches", fontsize=7.5)
    axes.hlines(edges, -0.5, 16 * grid - 0.5, color="white", linewidth=0.5)
    axes.vlines(edges, -0.5, 16 * grid - 0.5, color="white", linewidth=0.5)
    axes.grid(visible=False)
    for spine in axes.spines.values():
        spine.set_visible(False)


def draw_end(axes: Axes, lane: int, path: str, macs: int) -> None:
    """The text of a path and who teaches it."""
    right = axes.get_xlim()[1]
    teacher = TEACHERS.get(path)
    taught = "learns from the labels" if teacher is None else f"imitates {teacher}"
    axes.text(right + 0.05, lane, path, va="center", fontsize=10, weight="bold")
    axes.text(right + 0.05, lane + 0.22, f"{taught}\n{macs / 1e9:.2f} GMACs alone", va="top", fontsize=7, color="0.25")


if __name__ == "__main__":
    main()
