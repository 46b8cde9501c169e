"""What one step computes: the losses of its paths in one forward, which is what a wrapper for many GPUs has to see."""

import random
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import groupby, repeat
from typing import NamedTuple

import torch
import torch.nn.functional as F
from timm.data import Mixup
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from supervit.complexity import Complexity, sample_paths
from supervit.distributed import World
from supervit.model import SuperViT
from supervit.objective import path_losses
from supervit.token_labels import MixBox, TokenLabels, token_label_loss, token_targets
from supervit.train.config import TrainConfig

_AUTOCAST = {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}

Paths = tuple[Complexity, ...]


def step_paths(config: TrainConfig, step: int) -> Paths:
    """The operating points that a step runs, the same on every process."""
    if config.paths == ("all",):
        return tuple(config.model.space)
    return tuple(map(Complexity.of, config.paths)) or sample_paths(config.model.space, config.seed, step)


class Targets(NamedTuple):
    """What teaches a batch."""

    classes: Tensor
    """Class indices (B) or probabilities (B, K)."""
    tokens: TokenLabels | None = None
    """Labels of the patches, for models with a dense head."""
    box: MixBox | None = None
    """Which patch tokens images exchange (MixToken); the targets are not mixed yet."""

    def chunk(self, parts: int) -> Iterator["Targets"]:
        """The targets of each part of a batch, as `Tensor.chunk` parts it."""
        tokens: Iterator[TokenLabels | None] = repeat(None)
        if self.tokens is not None:
            tokens = map(TokenLabels._make, zip(*(field.chunk(parts) for field in self.tokens), strict=True))
        return map(Targets, self.classes.chunk(parts), tokens, repeat(self.box))


class PathLosses(nn.Module):
    """The losses (P) of P paths, from images (B, C, S, S) and their `Targets`.

    Where there are token labels, they teach the class token and the patch tokens of the uncut path of the largest grid.

    Args:
        model: The model in training.
        config: Of the run: arithmetic and objective.
    """

    def __init__(self, model: SuperViT, config: TrainConfig):
        super().__init__()
        self.model, self.teacher = model, config.teacher
        self.dtype = _AUTOCAST[config.precision]
        self.smoothing = config.label_smoothing
        self.mixes_pixels = config.data.mixes

    def forward(self, images: Tensor, targets: Targets, paths: Paths) -> Tensor:
        """The losses, in the order of the paths; each is a mean over the batch."""
        box, model = targets.box, self.model
        with torch.autocast(images.device.type, self.dtype, enabled=self.dtype is not None):
            encoded = model.encode(images, paths, mix=box.mix if box is not None else None)
            logits = [model.forward_head(path.tokens).float() for path in encoded]
        classes, smoothing = targets.classes, 0.0 if self.mixes_pixels else self.smoothing  # mixed pixels: smoothed already
        if box is not None:
            classes = box.mix_targets(F.one_hot(classes, model.num_classes).float(), box.grid_size)
        losses = path_losses(logits, paths, classes, smoothing, self.teacher)
        if targets.tokens is not None and model.config.space.largest in paths:
            row = paths.index(model.config.space.largest)
            losses[row] = self._token_label_loss(encoded[row].tokens, targets.tokens, box)
        penalties = [0.0 if path.penalty is None else path.penalty for path in encoded]
        return torch.stack([loss + penalty for loss, penalty in zip(losses, penalties, strict=True)])

    def _token_label_loss(self, tokens: Tensor, labels: TokenLabels, box: MixBox | None) -> Tensor:
        model = self.model
        crop, dense = token_targets(labels, model.num_classes, label_smoothing=self.smoothing)
        if box is not None:
            crop, dense = box.mix_targets(crop, box.grid_size), box.mix(dense, box.grid_size)
        with torch.autocast(tokens.device.type, self.dtype, enabled=self.dtype is not None):
            patches = tokens[:, model.num_prefix_tokens :]
            class_logits, dense_logits = model.head(tokens[:, 0]).float(), model.aux_head(patches).float()
        return token_label_loss(class_logits, dense_logits, crop, dense)


@dataclass(frozen=True)
class _Part:
    """A piece of a step that is run forward and backward on its own."""

    images: Tensor
    targets: Targets
    paths: Paths
    rows: list[int]  # of its paths among those of the step
    share: float  # of the batch


class GradientStep:
    """Forward and backward of one step: one reduction of gradients over the processes, however many parts it is run in.

    Args:
        model: The model in training, on its device.
        config: Of the run.
        world: The processes that train together.
        scaler: Loss scaler of float16.
    """

    def __init__(self, model: SuperViT, config: TrainConfig, world: World, scaler: torch.amp.GradScaler):
        self.config, self.scaler = config, scaler
        self.losses: nn.Module = PathLosses(model, config)
        self.mix = _mixer(config, model.num_classes)
        if world.size > 1:  # the position tables of grids that a step does not draw have no gradient
            self.losses = DistributedDataParallel(self.losses, find_unused_parameters=True, gradient_as_bucket_view=True)

    def __call__(self, images: Tensor, labels: Tensor, tokens: TokenLabels | None, paths: Paths) -> Tensor:
        """Add the gradients of the summed losses; the losses (P), detached."""
        box, alpha = None, self.config.data.mix_token
        if self.mix is not None:
            pairs = len(images) // 2 * 2  # a data set smaller than a batch may leave an image without partner
            images, labels = self.mix(images[:pairs], labels[:pairs])
        elif alpha:
            box = MixBox.draw(self.config.model.grid_sizes[-1], random.Random(random.getrandbits(64)), alpha)
        total = torch.zeros(len(paths), device=images.device)
        parts = list(self._parts(images, Targets(labels, tokens, box), paths))
        for index, part in enumerate(parts):
            with self._reduction(is_last=index == len(parts) - 1):
                losses = self.losses(part.images, part.targets, part.paths) * part.share
                self.scaler.scale(losses.sum()).backward()
            total[part.rows] += losses.detach()
        return total

    def _parts(self, images: Tensor, targets: Targets, paths: Paths) -> Iterator[_Part]:
        """Micro-batches, and of each the grid sizes one after the other where memory is short."""
        rows: Sequence[list[int]] = [list(range(len(paths)))]
        if self.config.backward == "per_grid":
            by_grid = sorted(rows[0], key=lambda row: paths[row].uncut)
            rows = [list(group) for _, group in groupby(by_grid, key=lambda row: paths[row].grid_size)]
        chunks = self.config.micro_batches
        for part_images, part_targets in zip(images.chunk(chunks), targets.chunk(chunks), strict=False):
            for group in rows:
                yield _Part(part_images, part_targets, tuple(paths[i] for i in group), group, len(part_images) / len(images))

    def _reduction(self, is_last: bool) -> AbstractContextManager[None]:
        """Gradients of all but the last part stay on their process."""
        if is_last or not isinstance(self.losses, DistributedDataParallel):
            return nullcontext()
        context: AbstractContextManager[None] = self.losses.no_sync()
        return context


def compile_blocks(model: SuperViT) -> None:
    """Compile each block in place, with token counts as variables of its graphs: a few graphs serve all operating points."""
    # Cost: the limit counts the graphs of Block.forward, which all blocks share; past it PyTorch falls back silently.
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, 8 * len(model.blocks))
    for block in model.blocks:
        block.compile(dynamic=True)


def _mixer(config: TrainConfig, num_classes: int) -> Mixup | None:
    """Mixup and cutmix of whole batches (timm's), or None."""
    data = config.data
    if not data.mixes:
        return None
    return Mixup(
        mixup_alpha=data.mixup,
        cutmix_alpha=data.cutmix,
        prob=data.mix_prob,
        switch_prob=data.mix_switch_prob,
        mode="batch",
        label_smoothing=config.label_smoothing,
        num_classes=num_classes,
    )
