"""Early exit over operating points: images that the model is sure of leave, the others climb to a dearer one."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Literal

import torch
from torch import Tensor

from supervit.complexity import Complexity
from supervit.config import SuperViTConfig
from supervit.errors import InputError, unknown_name
from supervit.evaluate import evaluation_mode
from supervit.macs import executed_macs, resumed_macs
from supervit.model import SuperViT

Confidence = Literal["probability", "margin", "entropy"]


def _probability(probabilities: Tensor) -> Tensor:
    return probabilities.amax(dim=1)


def _margin(probabilities: Tensor) -> Tensor:
    first, second = probabilities.topk(2, dim=1).values.unbind(dim=1)
    return first - second


def _entropy(probabilities: Tensor) -> Tensor:
    entropy = torch.special.entr(probabilities).sum(dim=1)
    return 1 - entropy / torch.tensor(probabilities.shape[1]).log()


_CONFIDENCES: dict[str, Callable[[Tensor], Tensor]] = {
    "probability": _probability,
    "margin": _margin,
    "entropy": _entropy,
}


def confidence_of(logits: Tensor, confidence: Confidence) -> Tensor:
    """How sure the logits (B, K) are, as (B) in [0, 1]; 1 is certain.

    Args:
        logits: Of at least two classes.
        confidence: `probability`: the highest one. `margin`: the highest one less the second. `entropy`: 1 less the
            entropy as a share of its maximum log(K).

    Raises:
        InputError: fewer than two classes, or a confidence of another name.
    """
    if confidence not in _CONFIDENCES:
        raise unknown_name("confidence", confidence, _CONFIDENCES)
    if logits.shape[1] < 2:
        raise InputError(f"confidence needs at least two classes, the model has {logits.shape[1]}")
    return _CONFIDENCES[confidence](logits.float().softmax(dim=1))


@dataclass(frozen=True)
class Ladder:
    """The operating points of a cascade and when an image leaves.

    Raises:
        InputError: no rungs, one twice, not one threshold less than rungs, or thresholds outside [0, 1].
    """

    rungs: tuple[Complexity, ...]
    """Operating points in the order in which images climb."""
    thresholds: tuple[float, ...]
    """Confidence from which an image leaves, for all rungs but the last, which answers all that reach it."""
    confidence: Confidence = "probability"
    """What confidence is."""

    def __post_init__(self) -> None:
        if not self.rungs or len(set(self.rungs)) < len(self.rungs):
            raise InputError(f"a ladder of {', '.join(map(str, self.rungs)) or 'no rungs'}; name each rung once")
        if len(self.thresholds) != len(self.rungs) - 1:
            raise InputError(f"{len(self.thresholds)} thresholds for {len(self.rungs)} rungs; every rung but the last has one")
        if not all(0 <= threshold <= 1 for threshold in self.thresholds):
            raise InputError(f"thresholds {self.thresholds} are not all in [0, 1]")
        if self.confidence not in _CONFIDENCES:
            raise unknown_name("confidence", self.confidence, _CONFIDENCES)


def climb_macs(config: SuperViTConfig, rungs: Sequence[Complexity]) -> list[int]:
    """MACs per image that each rung adds: on the grid of the rung below, the shared prefix is there already."""
    added = [executed_macs(config, rungs[0])]
    for below, rung in pairwise(rungs):
        is_resumed = rung.grid_size == below.grid_size
        added.append(resumed_macs(config, rung) if is_resumed else executed_macs(config, rung))
    return added


@dataclass(frozen=True)
class Answers:
    """What a cascade says about N images, in the order in which they came."""

    logits: Tensor
    """(N, K), of the rung where the image left."""
    rungs: Tensor
    """(N), index of that rung in the ladder."""
    executed_macs: Tensor
    """(N), multiply-accumulates that the image took in all."""


@dataclass(frozen=True)
class _Group:
    """Images at one rung."""

    places: Tensor  # (B), where they stood in the input
    images: Tensor
    prefix: Tensor | None  # tokens of `encode_prefix` on this rung's grid, if the rung below left them

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, which: slice | Tensor) -> "_Group":
        prefix = None if self.prefix is None else self.prefix[which]
        return _Group(self.places[which], self.images[which], prefix)

    def join(self, other: "_Group") -> "_Group":
        prefix = None
        if self.prefix is not None and other.prefix is not None:
            prefix = torch.cat([self.prefix, other.prefix])
        return _Group(torch.cat([self.places, other.places]), torch.cat([self.images, other.images]), prefix)


class Cascade:
    """Runs images up a ladder in full batches.

    Images that leave no answer at a rung wait there until they fill a batch for the next: at most two batches a rung are
    held. A rung on the grid of the one below goes on from the tokens before the first drop block instead of computing
    them again.

    Args:
        model: Where images are moved to; is put into evaluation mode while it runs.
        ladder: Rungs and thresholds, such as `calibrate` finds.
        batch_size: Images per batch at every rung.
    """

    def __init__(self, model: SuperViT, ladder: Ladder, batch_size: int = 64):
        if batch_size < 1:
            raise InputError(f"batch_size {batch_size} must be at least 1")
        self.model, self.ladder, self.batch_size = model, ladder, batch_size
        self._total_macs = torch.tensor(list(accumulate(climb_macs(model.config, ladder.rungs))))

    def predict(self, images: Tensor) -> Answers:
        """The answers for images (N, C, S, S)."""
        return self.run([images])

    @torch.inference_mode()
    def run(self, batches: Iterable[Tensor]) -> Answers:
        """The answers for all images of some batches (B, C, S, S) of any sizes, in their order.

        Raises:
            InputError: no images, or as `SuperViT.forward`.
        """
        like = next(self.model.parameters())
        waiting: list[_Group | None] = [None] * len(self.ladder.rungs)
        left: list[tuple[Tensor, Tensor, int]] = []  # places, logits, rung
        seen = 0
        with evaluation_mode(self.model):
            for batch in batches:
                places = torch.arange(seen, seen + len(batch), device=like.device)
                seen += len(batch)
                for part in places.split(self.batch_size):
                    ...
        return Answers()
