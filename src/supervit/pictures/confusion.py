"""The confusion matrix: what a model takes the images of each class for."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from supervit.errors import printable
from supervit.pictures._canvas import picture

MOST_DRAWN = 50
"""Classes up to which a confusion matrix can be read as a picture."""
_MOST_WITH_NUMBERS = 20
_LONGEST_NAME = 24


def draw_confusion(matrix: Sequence[Sequence[int]], names: Sequence[str], files: Sequence[Path], title: str = "") -> None:
    """Draw a confusion matrix: a row for each class, in shares of its images, with their numbers where there is room.

    Args:
        matrix: Images by class (row) and answer (column); K x K with K from 1 to `MOST_DRAWN`.
        names: Of the K classes.
        files: Where to write the picture.
        title: Of the picture.

    Raises:
        InputError: as `picture`.
    """
    from matplotlib.colors import PowerNorm

    counts = np.asarray(matrix)
    shares = 100 * counts / counts.sum(axis=1, keepdims=True).clip(1)
    shown = [printable(name, _LONGEST_NAME) for name in names]
    cell = 0.34 if len(names) <= _MOST_WITH_NUMBERS else 0.17
    margin = 1.1 + 0.065 * max(map(len, shown))
    size = max(cell * len(names), 1.6)
    with picture(files, size + margin + 0.7, size + margin) as figure:
        axes = figure.add_subplot()
        norm = PowerNorm(0.5, 0, 100)  # a few percent of mistakes are to be seen beside the diagonal
        image = axes.imshow(shares, cmap="Blues", norm=norm)
        axes.set_xticks(range(len(names)), shown, rotation=90)
        axes.set_yticks(range(len(names)), shown)
        axes.tick_params(length=0, labelsize=7 if len(names) <= _MOST_WITH_NUMBERS else 6)
        axes.set(xlabel="answer", ylabel="class", title=title)
        axes.grid(visible=False)
        axes.set_xticks(np.arange(1, len(names)) - 0.5, minor=True)
        axes.set_yticks(np.arange(1, len(names)) - 0.5, minor=True)
        axes.tick_params(which="minor", length=0)
        axes.grid(visible=True, which="minor", color="0.9", linewidth=0.4)
        if len(names) <= _MOST_WITH_NUMBERS:
            for (row, column), images in np.ndenumerate(counts):
                if images:
                    color = "white" if shares[row, column] > 40 else "0.15"
                    axes.text(column, row, f"{images}", ha="center", va="center", fontsize=5.5, color=color)
        bar = figure.colorbar(image, shrink=0.7, ticks=[0, 1, 5, 10, 25, 50, 75, 100])
        bar.set_label("% of the images of the class")
        bar.outline.set_visible(False)
