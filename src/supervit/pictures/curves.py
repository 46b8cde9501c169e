"""How a training run went: loss, accuracy and learning rate, from its log."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from supervit.complexity import Complexity
from supervit.errors import InputError
from supervit.fields import from_plain
from supervit.files import read_json_lines, refusing
from supervit.pictures._canvas import picture

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MOST_PLACES = 400  # of a line; entries in between are averaged
Entry = TypeVar("Entry", bound="_Entry")

_FEW = 20  # log entries, below which they are drawn as points too


@dataclass(frozen=True)
class _Entry:
    step: int
    epoch: int

    def __post_init__(self) -> None:
        if not (0 <= self.step < 2**53 and 0 <= self.epoch < 2**53):
            raise InputError(f"step {self.step} of epoch {self.epoch} cannot be")


@dataclass(frozen=True)
class TrainEntry(_Entry):
    """Means over the steps since the entry before."""

    lr: float
    loss: float | None
    """Sum over the paths of a step; None where no step was finite."""
    losses: Mapping[Complexity, float | None]


@dataclass(frozen=True)
class EvaluateEntry(_Entry):
    """An evaluation."""

    top1: Mapping[Complexity, float]
    """Percent."""


@dataclass(frozen=True)
class RunHistory:
    """What the log of a run says, in the order of the steps."""

    train: Sequence[TrainEntry]
    evaluate: Sequence[EvaluateEntry]
    damaged: int
    """Lines that could not be read and were left out."""


def read_history(log: Path) -> RunHistory:
    """The content of a run's `log.jsonl`, also while it is being written.

    Raises:
        InputError: the file cannot be read or holds no entry of a training run.
    """
    train: list[TrainEntry] = []
    evaluations: list[EvaluateEntry] = []
    with refusing(f"{str(log)!r} is not the log of a training run", "name the directory of a run of supervit train"):
        values, damaged = read_json_lines(log)
        for value in values:
            try:
                event = value.get("event") if isinstance(value, dict) else None
                if event == "train":
                    train.append(_read(TrainEntry, value))
                elif event == "evaluate":
                    evaluations.append(_read(EvaluateEntry, value))
                elif not isinstance(event, str):
                    damaged += 1
            except InputError:
                damaged += 1
        if not train and not evaluations:
            raise InputError(f"it has no entries yet, {damaged} damaged lines" if damaged else "it has no entries yet")
    return RunHistory(train, evaluations, damaged)


def _read(cls: type[Entry], value: Mapping[str, Any]) -> Entry:
    return from_plain(cls, {field.name: value[field.name] for field in fields(cls) if field.name in value})


def draw_curves(log: Path, files: Sequence[Path]) -> RunHistory:
    """Draw a run's losses, the top-1 of its evaluations and its learning rate; what they were read from.

    The losses are those of the uncut path of each grid size with the sum over a step's paths, which is minimised; the mean of
    each grid's cut paths, whose losses are far smaller where the uncut path teaches them, has axes of its own. Of the
    accuracies, the cheapest and the dearest operating point and the mean stand out.

    Args:
        log: The `log.jsonl` of a run, which may still go on.
        files: Where to write the picture.

    Raises:
        InputError: as `read_history` and `picture`.
    """
    history = read_history(log)
    scale, unit = _epochs_of_steps(history)
    has_cuts = any(not point.is_uncut for entry in history.train for point in entry.losses)
    heights = [3, *([2] if has_cuts else []), 3, 1.2]
    with picture(files, 6.4, 0.75 * sum(heights)) as figure:
        uncut, *cut, accuracies, rates = figure.subplots(len(heights), 1, sharex=True, height_ratios=heights)
        uncut.plot(*_line(history.train, scale, lambda entry: entry.loss), color="0.2", linewidth=1.3, label="sum of all paths")
        for axes, is_uncut, title in zip([uncut, *cut], [True, False], ["loss, uncut paths", "loss, cut paths"], strict=False):
            _draw_losses(axes, history.train, scale, is_uncut)
            axes.set(ylabel=title, ylim=(0, None))
        _draw_accuracies(accuracies, history.evaluate, scale)
        rates.plot(*_line(history.train, scale, lambda entry: entry.lr), color="0.3", linewidth=1)
        rates.set(ylabel="learning rate", xlabel=unit, ylim=(0, None))
        rates.ticklabel_format(axis="y", style="sci", scilimits=(-2, 3), useMathText=False)
        for line in (line for axes in (uncut, *cut, rates) for line in axes.lines if len(line.get_xdata()) < _FEW):
            line.set(marker="o", markersize=2.5)  # a line of one point is not seen
        for axes in (uncut, *cut, accuracies):
            if axes.get_legend_handles_labels()[0]:
                axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
        figure.align_ylabels()
    return history


def _epochs_of_steps(history: RunHistory) -> tuple[float, str]:
    """What to multiply steps with to get epochs, from the last entry of an epoch; 1 where none has ended."""
    ended = [entry for entry in history.evaluate if entry.epoch > 0 and entry.step > 0]
    if ended:
        return ended[-1].epoch / ended[-1].step, "epoch"
    return 1.0, "step"


def _line(entries: Iterable[Entry], scale: float, value: Callable[[Entry], float | None]) -> tuple[list[float], list[float]]:
    """Places and values of a line; where there are very many, means of neighbours."""
    found = [(scale * entry.step, number) for entry in entries if (number := value(entry)) is not None]
    together = -(-len(found) // _MOST_PLACES) or 1
    groups = [found[first : first + together] for first in range(0, len(found), together)]
    xs = [sum(x for x, _ in group) / len(group) for group in groups]
    return xs, [sum(y for _, y in group) / len(group) for group in groups]


def _draw_losses(axes: "Axes", entries: Sequence[TrainEntry], scale: float, is_uncut: bool) -> None:
    """A line for each grid size: its uncut path, or the mean of its cut ones."""
    for index, whole in enumerate(sorted({point.uncut for entry in entries for point in entry.losses})):

        def mean(entry: TrainEntry, whole: Complexity = whole) -> float | None:
            wanted = [loss for p, loss in entry.losses.items() if (p.uncut, p.is_uncut) == (whole, is_uncut)]
            finite = [loss for loss in wanted if loss is not None]
            return sum(finite) / len(finite) if finite else None

        places, losses = _line(entries, scale, mean)
        if places:
            axes.plot(
                places, losses, color=f"C{index % 10}", linewidth=0.9, label="\u00d7".join(map(str, whole.grid)) + " tokens"
            )


def _draw_accuracies(axes: "Axes", entries: Sequence[EvaluateEntry], scale: float) -> None:
    axes.set(ylabel="top-1 accuracy (%)")
    points = sorted({point for entry in entries for point in entry.top1})
    if not points:
        axes.text(0.5, 0.5, "no evaluation yet", transform=axes.transAxes, ha="center", color="0.5")
        return
    marker = "o" if len(entries) <= 40 else ""
    style: dict[str, Any] = {"marker": marker, "markersize": 3}
    for point in points[1:-1]:
        axes.plot(*_line(entries, scale, lambda entry, point=point: entry.top1.get(point)), color="0.82", linewidth=0.7)  # type: ignore[misc]
    axes.plot(*_line(entries, scale, lambda entry: entry.top1.get(points[-1])), color="#1f4e79", label=f"{points[-1]}", **style)
    if len(points) > 1:
        mean = _line(entries, scale, lambda entry: sum(entry.top1.values()) / len(entry.top1) if entry.top1 else None)
        axes.plot(*mean, color="0.35", linestyle="--", label=f"mean of {len(points)}", **style)
        axes.plot(
            *_line(entries, scale, lambda entry: entry.top1.get(points[0])), color="#7fb2e5", label=f"{points[0]}", **style
        )
    if len(points) > 2:
        axes.plot([], [], color="0.82", linewidth=0.7, label="the others")
