"""What one step computes: the losses of its paths in one forward, which is what a wrapper for many GPUs has to see."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import groupby

import torch
from timm.data import Mixup
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from supervit.complexity import Complexity, sample_paths
from supervit.distributed import World
from supervit.model import SuperViT
from supervit.objective import path_losses
from supervit.train.config import TrainConfig

_AUTOCAST = {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}

Paths = tuple[Complexity, ...]


def step_paths(config: TrainConfig, step: int) -> Paths:
    """The operating points that a step runs, the same on every process."""
    if config.paths == ("all",):
        return tuple(config.model.space)
    return tuple(map(Complexity.of, config.paths)) or sample_paths(config.model.space, config.seed, step)


class PathLosses(nn.Module):
    """The losses (P) of P paths, from images (B, C, S, S) and class indices (B) or probabilities (B, K).

    Args:
        model: The model in training.
        config: Of the run: arithmetic and objective.
    """

    def __init__(self, model: SuperViT, config: TrainConfig):
        super().__init__()
        self.model, self.teacher = model, config.teacher
        self.dtype = _AUTOCAST[config.precision]
        self.label_smoothing = 0.0 if config.data.mixes else config.label_smoothing  # mixed targets are smoothed already

    def forward(self, images: Tensor, targets: Tensor, paths: Paths) -> Tensor:
        """The losses, in the order of the paths; each is a mean over the batch."""
        with torch.autocast(images.device.type, self.dtype, enabled=self.dtype is not None):
            logits = self.model(images, paths)
        logits = [path.float() for path in logits]
        return torch.stack(path_losses(logits, paths, targets, self.label_smoothing, self.teacher))


@dataclass(frozen=True)
class _Part:
    """A piece of a step that is run forward and backward on its own."""

    images: Tensor
    targets: Tensor
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

    def __call__(self, images: Tensor, labels: Tensor, paths: Paths) -> Tensor:
        """Add the gradients of the summed losses; the losses (P), detached."""
        targets = labels
        if self.mix is not None:
            pairs = len(images) // 2 * 2  # a data set smaller than a batch may leave an image without partner
            images, targets = self.mix(images[:pairs], labels[:pairs])
        total = torch.zeros(len(paths), device=images.device)
        parts = list(self._parts(images, targets, paths))
        for index, part in enumerate(parts):
            with self._reduction(is_last=index == len(parts) - 1):
                losses = self.losses(part.images, part.targets, part.paths) * part.share
                self.scaler.scale(losses.sum()).backward()
            total[part.rows] += losses.detach()
        return total

    def _parts(self, images: Tensor, targets: Tensor, paths: Paths) -> Iterator[_Part]:
        """Micro-batches, and of each the grid sizes one after the other where memory is short."""
        rows: Sequence[list[int]] = [list(range(len(paths)))]
        if self.config.backward == "per_grid":
            by_grid = sorted(rows[0], key=lambda row: paths[row].grid_size)
            rows = [list(group) for _, group in groupby(by_grid, key=lambda row: paths[row].grid_size)]
        chunks = self.config.micro_batches
        for part_images, part_targets in zip(images.chunk(chunks), targets.chunk(chunks), strict=True):
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
