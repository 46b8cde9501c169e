"""Finds the best cascades: ladders and thresholds, from what every operating point said about a labelled set."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import ClassVar, Self

import torch
from torch import Tensor

from supervit import pareto
from supervit.cascade import Ladder, confidence_of
from supervit.complexity import Complexity, ComplexitySpace
from supervit.errors import InputError
from supervit.evaluate import standard_error
from supervit.options import SAFETY, Answering, Confidence
from supervit.progress import track
from supervit.runtimes import AnyModel, as_runtime, check_finite

_SETTINGS = 4096  # threshold settings tried per ladder, whatever its length


@dataclass(frozen=True)
class Answers:
    """Whether P operating points were right about N images, and how sure."""

    points: tuple[Complexity, ...]
    hits: Tensor
    """(P, N), whether the class was right."""
    confidences: Tensor
    """(P, N), in [0, 1]."""
    confidence: Confidence
    """What confidence is."""
    answer: ClassVar[Answering] = "last"

    @classmethod
    def of(cls, logits: Mapping[Complexity, Tensor], labels: Tensor, confidence: Confidence = "probability") -> Self:
        """The answers in the logits (N, K) of each operating point to images of known classes (N)."""
        hits = torch.stack([each.argmax(dim=1) == labels for each in logits.values()])
        confidences = torch.stack([confidence_of(each, confidence) for each in logits.values()])
        return cls(tuple(logits), hits.cpu(), confidences.cpu(), confidence)

    def __len__(self) -> int:
        return self.hits.shape[1]

    def __getitem__(self, images: Tensor) -> "Answers":
        """The answers about some of the images, by index or mask."""
        return Answers(self.points, self.hits[:, images], self.confidences[:, images], self.confidence)

    def of_rungs(self, rungs: Sequence[Complexity]) -> tuple[Tensor, Tensor]:
        """Hits and confidences (R, N) of some operating points."""
        rows = [self.points.index(rung) for rung in rungs]
        return self.hits[rows], self.confidences[rows]


@dataclass(frozen=True)
class MeanAnswers:
    """What P operating points said about N images, for rungs that answer by the mean of those below and their own.

    Takes 4 bytes for each point, image and class: 2.4 GB for twelve points and all of ImageNet's validation images.
    """

    points: tuple[Complexity, ...]
    probabilities: Tensor
    """(P, N, K), of the classes."""
    labels: Tensor
    """(N), right classes."""
    confidence: Confidence
    """What confidence is."""
    answer: ClassVar[Answering] = "mean"

    @classmethod
    def of(cls, logits: Mapping[Complexity, Tensor], labels: Tensor, confidence: Confidence = "probability") -> Self:
        """The answers in the logits (N, K) of each operating point to images of known classes (N)."""
        probabilities = torch.stack([each.float().softmax(dim=1).cpu() for each in logits.values()])
        return cls(tuple(logits), probabilities, labels.cpu(), confidence)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, images: Tensor) -> "MeanAnswers":
        """The answers about some of the images, by index or mask."""
        return MeanAnswers(self.points, self.probabilities[:, images], self.labels[images], self.confidence)

    def of_rungs(self, rungs: Sequence[Complexity]) -> tuple[Tensor, Tensor]:
        """Hits and confidences (R, N) of some operating points in the order in which images climb."""
        summed = torch.zeros(())
        logits = {}
        for count, rung in enumerate(rungs, start=1):
            summed = summed + self.probabilities[self.points.index(rung)]
            logits[rung] = (summed / count).log()
        answers = Answers.of(logits, self.labels, self.confidence)
        return answers.hits, answers.confidences

    def last(self) -> Answers:
        """The answers of each operating point by itself."""
        return Answers.of(dict(zip(self.points, self.probabilities.log(), strict=True)), self.labels, self.confidence)


def collect_answers(
    model: AnyModel,
    batches: Iterable[tuple[Tensor, Tensor]],
    complexities: Sequence[Complexity] | None = None,
    confidence: Confidence = "probability",
) -> MeanAnswers:
    """The answers of every operating point, from one pass of `forward_paths` over the data.

    Args:
        model: A model, which is in evaluation mode for the pass, or a runtime.
        batches: Normalised images (B, C, S, S) and class indices (B).
        complexities: Operating points; default: the menu.
        confidence: What confidence is.

    Raises:
        InputError: no images, or images or logits that are not finite.
    """
    runtime = as_runtime(model)
    points = list(dict.fromkeys(complexities or runtime.points))
    parts = []
    for images, labels in batches:
        check_finite(images, "pixels")
        logits = runtime.forward_paths(images, points)
        for point, each in zip(points, logits, strict=True):
            check_finite(each, f"logits at {point}")
        parts.append(MeanAnswers.of(dict(zip(points, logits, strict=True)), labels, confidence))
    if not parts:
        raise InputError("no images to calibrate on")
    probabilities, labels = torch.cat([part.probabilities for part in parts], dim=1), torch.cat([part.labels for part in parts])
    return MeanAnswers(tuple(points), probabilities, labels, confidence)


@dataclass(frozen=True)
class Outcome:
    """What a cascade makes of a set of images."""

    top1: float
    """Percent."""
    mean_macs: float
    """Multiply-accumulates per image that run, in the mean."""
    images: int

    @property
    def standard_error(self) -> float:
        """Of `top1`, in percentage points."""
        return standard_error(self.top1, self.images)


AnyAnswers = Answers | MeanAnswers
ClimbMacs = Callable[[Sequence[Complexity]], list[int]]
"""MACs per image that each rung adds: `functools.partial(climb_macs, config)`."""


def simulate(answers: AnyAnswers, ladder: Ladder, climb: ClimbMacs) -> Outcome:
    """What the cascade would make of the images, without running it again."""
    assert ladder.answer == answers.answer
    hits, confidences = answers.of_rungs(ladder.rungs)
    climbing = torch.ones(len(answers), dtype=torch.bool)
    right, total_macs = 0, 0
    for rung, added in enumerate(climb(ladder.rungs)):
        total_macs += added * int(climbing.sum())
        is_last = rung == len(ladder.rungs) - 1
        leaving = climbing if is_last else climbing & (confidences[rung] >= ladder.thresholds[rung])
        right += int((hits[rung] & leaving).sum())
        climbing = climbing & ~leaving
    return Outcome(100 * right / len(answers), total_macs / len(answers), len(answers))


@dataclass(frozen=True)
class Calibrated:
    """A cascade on the Pareto set of all that were tried."""

    ladder: Ladder
    calibration: Outcome
    """On the images that it was chosen by: optimistic."""
    held_out: Outcome
    """On images that had no part in the choice."""


def calibrate(
    answers: AnyAnswers,
    climb: ClimbMacs,
    *,
    max_rungs: int = 3,
    ladders: Iterable[Sequence[Complexity]] | None = None,
    seed: int = 0,
) -> list[Calibrated]:
    """The Pareto set of cascades by mean executed MACs and accuracy, cheapest first.

    Ladders and thresholds are chosen by a random half of the images; the other half says what they are worth.

    Args:
        answers: Of the model on data that it was not trained with; their kind says how the ladders answer.
        climb: What rungs cost.
        max_rungs: Operating points per ladder, at most; single operating points are ladders of one.
        ladders: The ladders to try; default: all of the answers' operating points in order of cost.
        seed: Seed of the halves.

    Raises:
        InputError: fewer than two images, or max_rungs under 1.
    """
    if len(answers) < 2 or max_rungs < 1:
        raise InputError(f"{len(answers)} images must be at least 2, max_rungs {max_rungs} at least 1")
    chosen_by, held_out = halves(len(answers), seed)
    seen, unseen = answers[chosen_by], answers[held_out]
    tried = list(_ladders(answers.points, climb, max_rungs) if ladders is None else ladders)
    tracked = track(tried, "search", len(tried), "ladder")
    candidates = [candidate for rungs in tracked for candidate in _pareto_of_ladder(seen, rungs, climb)]
    best = pareto.pareto_set(candidates, cost=lambda c: c[1].mean_macs, worth=lambda c: c[1].top1)
    return [Calibrated(ladder, outcome, simulate(unseen, ladder, climb)) for ladder, outcome in best]


def halves(images: int, seed: int) -> tuple[Tensor, Tensor]:
    """Indices of two random halves: the images to choose by and those held out."""
    order = torch.randperm(images, generator=torch.Generator().manual_seed(seed))
    return order[: images // 2].sort().values, order[images // 2 :].sort().values


def paper_ladder(space: ComplexitySpace) -> tuple[Complexity, Complexity]:
    """The paper's pair (its Figure 2), 8@0.5 then 14@0.7 on its own menu.

    On others: the cheapest operating point, then the largest grid at its highest keep rate below 1.
    """
    rate = space.keep_rates[-2] if len(space.keep_rates) > 1 else 1.0
    return Complexity(space.grid_sizes[0], space.keep_rates[0]), Complexity(space.grid_sizes[-1], rate)


def pick_cascade(
    curve: Sequence[Calibrated], target_top1: float | None = None, target_macs: float | None = None, safety: float = SAFETY
) -> Calibrated:
    """The cheapest cascade of at least this accuracy, or the most accurate one of at most this mean cost.

    Both by the images that the cascades were chosen by; `held_out` of the answer says what to expect. The best of very many
    is lucky there, so it has to do better than the target by a margin; where none does, the most accurate one is taken.

    Args:
        curve: From `calibrate`.
        target_top1: Percent.
        target_macs: Executed multiply-accumulates per image in the mean.
        safety: The margin on `target_top1`, in standard errors of the accuracy (measured in `docs/log.md`).

    Raises:
        InputError: not exactly one target, no cascade reaches it (the nearest one is named), or a negative `safety`.
    """
    if safety < 0:
        raise InputError(f"safety {safety:g} must be at least 0")
    if (target_top1 is None) == (target_macs is None):
        raise InputError(f"target_top1 {target_top1} and target_macs {target_macs}: give one of the two")
    if target_top1 is not None:
        reaching = [each for each in curve if each.calibration.top1 >= target_top1]
        if not reaching:
            raise InputError(f"no cascade reaches {target_top1:g} %; the best has {curve[-1].calibration.top1:.2f} %")
        safe = [each for each in reaching if each.calibration.top1 >= target_top1 + safety * each.calibration.standard_error]
        return safe[0] if safe else reaching[-1]
    within = [each for each in curve if each.calibration.mean_macs <= (target_macs or 0)]
    if not within:
        raise InputError(f"no cascade costs at most {target_macs:g} MACs; the cheapest {curve[0].calibration.mean_macs:.4g}")
    return within[-1]


def _ladders(points: Sequence[Complexity], climb: ClimbMacs, max_rungs: int) -> Iterator[tuple[Complexity, ...]]:
    by_cost = sorted(points, key=lambda point: climb([point]))
    for length in range(1, max_rungs + 1):
        yield from combinations(by_cost, length)


def _pareto_of_ladder(answers: AnyAnswers, rungs: Sequence[Complexity], climb: ClimbMacs) -> list[tuple[Ladder, Outcome]]:
    """The Pareto set of a ladder's threshold settings on a grid of quantiles.

    With Q quantiles, an image has a bin 0...Q-1 at each rung but the last and leaves rung k with setting i_k where its bin
    is at least i_k. Counts of hits per bins, summed up along each axis, then say for all Q^(R-1) settings at once how many
    images reach a rung and how many answers there are right.
    """
    hits, confidences = answers.of_rungs(rungs)
    axes, images = len(rungs) - 1, len(answers)
    quantiles = round(_SETTINGS ** (1 / max(axes, 1)))
    edges = confidences[:axes].sort(dim=1).values[:, torch.arange(quantiles) * images // quantiles].contiguous()
    bins = torch.searchsorted(edges, confidences[:axes].contiguous(), right=True) - 1
    right = total_macs = torch.zeros((), dtype=torch.double)
    for rung, added in enumerate(climb(rungs)):
        right = right + _count(bins, rung, rung + 1, quantiles, hits[rung])
        total_macs = total_macs + added * _count(bins, rung, rung, quantiles, torch.ones(images))
    kept = _pareto_indices(total_macs.flatten(), right.flatten())
    found = []
    for setting, macs, hit in zip(
        kept.tolist(), total_macs.flatten()[kept].tolist(), right.flatten()[kept].tolist(), strict=True
    ):
        at = [setting // quantiles ** (axes - 1 - axis) % quantiles for axis in range(axes)]
        thresholds = tuple(edges[range(axes), at].tolist())
        ladder = Ladder(tuple(rungs), thresholds, answers.confidence, answers.answer)
        found.append((ladder, Outcome(100 * hit / images, macs / images, images)))
    return found


def _count(bins: Tensor, climbed: int, read: int, quantiles: int, weights: Tensor) -> Tensor:
    """Summed weights of the images that climb the first rungs and, where one more is read, leave there, for all settings.

    Args:
        bins: Bins (R - 1, N) of the images at all rungs but the last.
        climbed: Rungs whose bin must be below the setting.
        read: Rungs that count; at those after `climbed` the bin must not be below the setting.
        quantiles: Bins per rung, Q.
        weights: Of the images (N).

    Returns:
        Sums (Q, ..., 1), one axis for each of the R - 1 rungs, of length 1 where its setting makes no difference.
    """
    axes = min(read, len(bins))
    cell = torch.zeros(bins.shape[1], dtype=torch.long)
    for axis in range(axes):
        cell = cell * quantiles + bins[axis]
    counts = torch.bincount(cell, weights.double(), quantiles**axes).view([quantiles] * axes)
    for axis in range(axes):
        below = counts.cumsum(axis) - counts
        counts = below if axis < climbed else counts.sum(axis, keepdim=True) - below
    return counts.view([quantiles] * axes + [1] * (len(bins) - axes))


def _pareto_indices(cost: Tensor, worth: Tensor) -> Tensor:
    """Indices of the items that none of equal or lower cost matches in worth, cheapest first."""
    order = worth.argsort(descending=True, stable=True)
    order = order[cost[order].argsort(stable=True)]
    best_before = torch.cat([torch.tensor([-torch.inf]), worth[order].cummax(0).values[:-1]])
    return order[worth[order] > best_before]
