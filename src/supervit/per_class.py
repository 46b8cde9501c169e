"""Which classes a model gets wrong, and what it takes them for."""

import csv
import io
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from supervit.complexity import Complexity
from supervit.distributed import World
from supervit.evaluate import standard_error
from supervit.files import make_directory, write_text
from supervit.pictures import picture_files
from supervit.pictures.confusion import MOST_DRAWN, draw_confusion
from supervit.report import aligned_table, with_error

MOST_IN_MATRIX = 1000
"""Classes up to which a confusion matrix is written out: its size is the square of their number."""


class ClassCounts:
    """How many images of each class got which class, at each operating point.

    Pairs that do not occur take no memory, so it is bounded by the number of images, not by the square of the classes.

    Example:
        >>> counts = ClassCounts()
        >>> evaluate(model, batches, points, on_answers=counts.add)
        >>> counts.per_class(points[0], class_names)
    """

    def __init__(self) -> None:
        self.pairs: dict[Complexity, Counter[tuple[int, int]]] = {}
        """Images by operating point and (class, answer)."""

    def add(self, complexity: Complexity, labels: Tensor, answers: Tensor) -> None:
        """Count images by their class indices (B) and those that the model gave (B)."""
        self.pairs.setdefault(complexity, Counter()).update(zip(labels.tolist(), answers.tolist(), strict=True))

    def total(self, world: World) -> "ClassCounts":
        """The counts of all processes together; every process must ask."""
        whole = ClassCounts()
        for part in world.gather(self.pairs):
            for point, pairs in part.items():
                whole.pairs.setdefault(point, Counter()).update(pairs)
        return whole

    def matrix(self, complexity: Complexity, classes: int) -> list[list[int]]:
        """Images by class (row) and answer (column)."""
        rows = [[0] * classes for _ in range(classes)]
        for (label, answer), images in self.pairs[complexity].items():
            rows[label][answer] = images
        return rows

    def per_class(self, complexity: Complexity, names: Sequence[str]) -> list["ClassResult"]:
        """What an operating point makes of each class, in the order of the names."""
        images, right = [0] * len(names), [0] * len(names)
        mistakes: dict[int, tuple[int, int]] = {}  # images and answer, by class
        for (label, answer), count in sorted(self.pairs[complexity].items()):
            images[label] += count
            if label == answer:
                right[label] = count
            elif count > mistakes.get(label, (0, 0))[0]:
                mistakes[label] = (count, answer)
        rows = []
        for index, name in enumerate(names):
            mistaken, answer = mistakes.get(index, (0, index))
            mistake = names[answer] if mistaken else None
            rows.append(ClassResult(name, images[index], right[index], mistake, mistaken))
        return rows


@dataclass(frozen=True)
class ClassResult:
    """What an operating point makes of the images of one class."""

    name: str
    images: int
    right: int
    """Images that got their class."""
    mistake: str | None
    """The class that most of the others got; None where all are right."""
    mistaken: int
    """Images that got it."""

    @property
    def top1(self) -> float | None:
        """Percent; None where there are no images."""
        return 100 * self.right / self.images if self.images else None

    @property
    def standard_error(self) -> float | None:
        """Of `top1`, in percentage points; None where there are no images."""
        return None if self.top1 is None else standard_error(self.top1, self.images)


def write_per_class(counts: ClassCounts, names: Sequence[str], dearest: Complexity, directory: Path) -> list[str]:
    """Write tables of the classes, confusion matrices as CSV and, of up to 50 classes, a picture; the files' names.

    `classes.csv`: accuracy, images and most frequent mistake of each class at each operating point; `classes.md`: those of
    the dearest point, the worst class first; `confusion/POINT.csv` (as `Complexity.file_name`; up to 1,000 classes): images by
    class (row) and answer (column); `confusion.{png,svg,pdf}` of the dearest point.

    Args:
        counts: Of the evaluation.
        names: Of the classes, by index.
        dearest: The operating point that the picture and `classes.md` show.
        directory: Exists.

    Raises:
        InputError: a file cannot be written, or as `picture`.
    """
    write_text(directory / "classes.csv", _classes_csv(counts, names))
    write_text(directory / "classes.md", per_class_table(counts.per_class(dearest, names)))
    written = ["classes.csv", "classes.md"]
    if len(names) <= MOST_IN_MATRIX:
        folder = make_directory(directory / "confusion")
        for point in counts.pairs:
            matrix = counts.matrix(point, len(names))
            rows = ([name, *row] for name, row in zip(names, matrix, strict=True))
            write_text(folder / f"{point.file_name}.csv", _csv([["class", *names], *rows]))
        written.append("confusion/")
    if len(names) <= MOST_DRAWN:
        matrix, files = counts.matrix(dearest, len(names)), picture_files(directory, "confusion")
        draw_confusion(matrix, names, files, f"At operating point {dearest}")
        written.append("confusion.{png,svg,pdf}")
    return written


def per_class_table(results: Sequence[ClassResult]) -> str:
    """A table for people: classes that have images, the worst first."""
    cells = [["class", "top-1 %", "images", "most frequent mistake", "of images"]]
    for row in sorted((row for row in results if row.images), key=lambda row: row.top1 or 0.0):
        mistake = ["", ""] if row.mistake is None else [row.mistake, str(row.mistaken)]
        cells.append([row.name, with_error(row.top1 or 0.0, row.standard_error), str(row.images), *mistake])
    return aligned_table(cells)


def _classes_csv(counts: ClassCounts, names: Sequence[str]) -> str:
    rows: list[Sequence[object]] = [
        ["complexity", "class", "images", "top1", "top1_standard_error", "most_frequent_mistake", "mistaken_images"]
    ]
    for point in counts.pairs:
        for row in counts.per_class(point, names):
            rows.append([point, row.name, row.images, row.top1, row.standard_error, row.mistake, row.mistaken])
    return _csv(rows)


def _csv(rows: Iterable[Sequence[object]]) -> str:
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows(rows)
    return out.getvalue()
