"""Early exit over operating points: images that the model is sure of leave, the others climb to a dearer one."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any, Self, get_args

import torch
from torch import Tensor

from supervit.complexity import Complexity
from supervit.config import SuperViTConfig
from supervit.errors import InputError, unknown_name
from supervit.fields import from_plain
from supervit.files import make_directory, read_object, refusing, write_json
from supervit.macs import executed_macs, resumed_macs
from supervit.options import Answering, Confidence
from supervit.runtimes import AnyModel, as_runtime
from supervit.tokens import Tokens


def _probability(probabilities: Tensor) -> Tensor:
    return probabilities.amax(dim=1)


def _margin(probabilities: Tensor) -> Tensor:
    first, second = probabilities.topk(2, dim=1).values.unbind(dim=1)
    return first - second


def _entropy(probabilities: Tensor) -> Tensor:
    entropy = torch.special.entr(probabilities).sum(dim=1)
    return (1 - entropy / math.log(probabilities.shape[1])).clamp(0, 1)


_CONFIDENCES: dict[str, Callable[[Tensor], Tensor]] = {
    "probability": _probability,
    "margin": _margin,
    "entropy": _entropy,
}


ANSWERING: tuple[Answering, ...] = get_args(Answering)


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
    answer: Answering = "last"
    """Whose class and confidence count at a rung. `last`: its own, as in the paper. `mean`: those of the mean probabilities of
    all rungs climbed so far, which are there anyway."""
    model: str | None = None
    """Fingerprint of the model that the thresholds are for; None: of any."""

    def __post_init__(self) -> None:
        if not self.rungs or len(set(self.rungs)) < len(self.rungs):
            raise InputError(f"a ladder of {', '.join(map(str, self.rungs)) or 'no rungs'}; name each rung once")
        if len(self.thresholds) != len(self.rungs) - 1:
            raise InputError(f"{len(self.thresholds)} thresholds for {len(self.rungs)} rungs; every rung but the last has one")
        if not all(0 <= threshold <= 1 for threshold in self.thresholds):
            raise InputError(f"thresholds {self.thresholds} are not all in [0, 1]")
        if self.confidence not in _CONFIDENCES:
            raise unknown_name("confidence", self.confidence, _CONFIDENCES)
        if self.answer not in ANSWERING:
            raise unknown_name("answer", self.answer, ANSWERING)

    def save(self, file: Path) -> None:
        """Write the ladder as JSON, whole or not at all."""
        make_directory(file.parent)
        write_json(file, self.to_dict())

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain values for JSON."""
        return asdict(self) | {"rungs": [str(rung) for rung in self.rungs]}

    @classmethod
    def load(cls, file: str | Path) -> Self:
        """The ladder that `save` wrote.

        Raises:
            InputError: the file is missing or damaged, or holds something else.
        """
        with refusing(f"{str(file)!r} is not a ladder", "write one: supervit cascade"):
            values = read_object(Path(file))
            if values.keys() != {field.name for field in fields(cls)}:
                raise InputError("it must hold rungs, thresholds, confidence, answer and model, and nothing else")
            return from_plain(cls, values)


def climb_macs(config: SuperViTConfig, rungs: Sequence[Complexity], shares_prefixes: bool = True) -> list[int]:
    """MACs per image that each rung adds.

    Args:
        config: Of the model.
        rungs: Operating points in the order in which images climb.
        shares_prefixes: Whether the shared prefix of a rung on the grid of the one below is there already, as it is in PyTorch.
    """
    added = [executed_macs(config, rungs[0])]
    for below, rung in pairwise(rungs):
        is_resumed = shares_prefixes and rung.grid_size == below.grid_size and all(map(config.can_resume, (below, rung)))
        added.append(resumed_macs(config, rung) if is_resumed else executed_macs(config, rung))
    return added


@dataclass(frozen=True)
class Exits:
    """Where N images left a cascade and with what answer, in the order in which they came."""

    logits: Tensor
    """(N, K), of the rung where the image left; logarithms of the mean probabilities where these answer."""
    rungs: Tensor
    """(N), index of that rung in the ladder."""
    executed_macs: Tensor
    """(N), multiply-accumulates that the image took in all."""


@dataclass(frozen=True)
class _Group:
    """Images at one rung."""

    places: Tensor  # (B), where they stood in the input
    images: Tensor
    prefix: Tokens | None = None  # tokens of `encode_prefix` on the grid of this rung, where the rung below computed them
    summed: Tensor | None = None  # (B, K), probabilities of the rungs below, where their mean answers

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, which: slice | Tensor) -> "_Group":
        prefix = None if self.prefix is None else self.prefix.of_images(which)
        return _Group(self.places[which], self.images[which], prefix, None if self.summed is None else self.summed[which])

    def __add__(self, other: "_Group") -> "_Group":
        if not len(self):
            return other
        if self.images.shape[1:] != other.images.shape[1:]:
            sizes = f"{tuple(self.images.shape[1:])} and {tuple(other.images.shape[1:])}"
            raise InputError(f"images of shapes {sizes} do not fit into one batch; resize them to the same one")
        # At a rung, all images have them or none.
        prefix = None if self.prefix is None or other.prefix is None else self.prefix.joined(other.prefix)
        summed = None if self.summed is None or other.summed is None else torch.cat([self.summed, other.summed])
        return _Group(torch.cat([self.places, other.places]), torch.cat([self.images, other.images]), prefix, summed)


class Cascade:
    """Runs images up a ladder in full batches.

    Images that climb wait at the next rung until they fill a batch; less than two batches wait at any. In PyTorch, a rung
    on the grid of the one below starts from the tokens that the lower one left before its first drop block
    (`SuperViT.resume`); other runtimes compute each rung from the image.

    Args:
        model: A model, which is in evaluation mode while it runs, or a runtime.
        ladder: Rungs and thresholds, such as `calibrate` finds.
        batch_size: Images per batch at every rung.

    Raises:
        InputError: batch_size under 1, or a ladder for another model.
    """

    def __init__(self, model: AnyModel, ladder: Ladder, batch_size: int = 64):
        if batch_size < 1:
            raise InputError(f"batch_size {batch_size} must be at least 1")
        if ladder.model is not None and ladder.model != as_runtime(model).fingerprint():
            raise InputError(f"the ladder is for model {ladder.model}, not for this one; calibrate again: supervit cascade")
        self.runtime, self.ladder, self.batch_size = as_runtime(model), ladder, batch_size

    def predict(self, images: Tensor) -> Exits:
        """The answers for images (N, C, S, S), normalised as for `SuperViT.forward`."""
        return self.run([images])

    @torch.inference_mode()
    def run(self, batches: Iterable[Tensor]) -> Exits:
        """The answers for all images of batches (B, C, S, S) of whatever length, in their order.

        Raises:
            InputError: no images, images of different sizes, or as `SuperViT.forward`.
        """
        device = self.runtime.device
        nobody = _Group(torch.empty(0, dtype=torch.long), torch.empty(0))
        waiting = [nobody] * len(self.ladder.rungs)
        left: list[tuple[Tensor, Tensor, Tensor]] = []
        seen = 0
        with self.runtime.evaluating():
            for images in batches:
                places = torch.arange(seen, seen + len(images), device=device)
                seen += len(images)
                waiting[0] += _Group(places, self.runtime.place(images))
                self._climb(0, self.batch_size, waiting, left)
            for rung in range(len(waiting)):
                self._climb(rung, 1, waiting, left)
        if not left:
            raise InputError("no images to run")
        places, logits, rungs = (torch.cat(parts) for parts in zip(*left, strict=True))
        order = places.argsort()
        added = climb_macs(self.runtime.model_config, self.ladder.rungs, self.runtime.shares_prefixes)
        total_macs = torch.tensor(list(accumulate(added)), device=device)
        return Exits(logits[order], rungs[order], total_macs[rungs[order]])

    def _climb(self, rung: int, least: int, waiting: list[_Group], left: list[tuple[Tensor, Tensor, Tensor]]) -> None:
        """Run a rung while at least that many images wait there, and those above as soon as they have a full batch."""
        while len(waiting[rung]) >= least:
            group, waiting[rung] = waiting[rung][: self.batch_size], waiting[rung][self.batch_size :]
            point = self.ladder.rungs[rung]
            prefix, logits = self._run_rung(group, point)
            summed = None
            if self.ladder.answer == "mean":
                summed = logits.softmax(dim=1) + (0 if group.summed is None else group.summed)
                logits = (summed / (rung + 1)).clamp_min(torch.finfo(summed.dtype).tiny).log()
            if rung == len(waiting) - 1:
                left.append((group.places, logits, torch.full_like(group.places, rung)))
                continue
            is_sure = confidence_of(logits, self.ladder.confidence) >= self.ladder.thresholds[rung]
            places = group.places[is_sure]
            left.append((places, logits[is_sure], torch.full_like(places, rung)))
            following = self.ladder.rungs[rung + 1]
            is_reused = following.grid_size == point.grid_size and self.runtime.model_config.can_resume(following)
            climbing = replace(group, prefix=prefix if is_reused else None, summed=summed)[~is_sure]
            if len(climbing):
                waiting[rung + 1] += climbing
            self._climb(rung + 1, self.batch_size, waiting, left)

    def _run_rung(self, group: _Group, point: Complexity) -> tuple[Tokens | None, Tensor]:
        """The prefix of the operating point's grid, where the runtime has such, and the logits."""
        runtime = self.runtime
        if not runtime.shares_prefixes or not runtime.model_config.can_resume(point):
            return None, runtime.logits(group.images, point)
        prefix = runtime.encode_prefix(group.images, point.grid_size) if group.prefix is None else group.prefix
        return prefix, runtime.resume(prefix, point)
