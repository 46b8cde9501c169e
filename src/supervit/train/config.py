"""What a training run does."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from supervit.complexity import Complexity
from supervit.config import SuperViTConfig
from supervit.data import DataConfig
from supervit.errors import InputError
from supervit.options import Teacher

_NO_TRAJECTORY = {
    "out", "init", "resume", "device", "log_every", "save_every", "save_minutes", "eval_every", "keep_checkpoints", "plot",
    "tensorboard", "wandb", "throughput_batch_size", "throughput_repeats",
    "throughput_seconds", "data.root", "data.class_list", "data.download", "data.workers", "data.max_damaged",
}  # fmt: skip


@dataclass(frozen=True)
class TrainConfig:
    """One training run; recipes are functions that return one."""

    model: SuperViTConfig
    """The model; num_classes 0 takes the class count from the data, another one must be theirs."""
    data: DataConfig
    """The data."""
    out: Path = Path("runs/train")
    """Directory of the run: checkpoints, log, final model, table and plot."""
    init: str | None = None
    """Weights to start from, whatever `supervit.load` takes. They tell the architecture; of `model`, the fields that differ
    from their defaults are used (mean, std, num_heads, grid_sizes, drop_path_rate, ...). Other classes get a new classifier.
    None trains from scratch; empty, in a recipe: to be named by whoever runs it."""
    resume: bool = False
    """Go on from the newest checkpoint in `out` (start anew if there is none)."""
    seed: int = 0
    """Seed of weights, order, augmentation and paths."""
    device: str = "auto"
    """Torch device; auto takes the GPU if there is one."""
    epochs: int = 300
    """Passes over the training data."""
    cooldown_epochs: int = 0
    """Further passes at the lowest learning rate."""
    lr: float = 1e-3
    """Peak learning rate."""
    lr_batch_size: int | None = None
    """Global batch size that `lr` is meant for: the peak is lr * global batch / this; default: lr as it is."""
    lr_per_epoch: bool = False
    """Change the learning rate once an epoch, as DeiT does, instead of each step."""
    min_lr: float = 1e-5
    """Learning rate at the end of the cosine."""
    warmup_lr: float = 1e-6
    """Learning rate at the start of the warm-up."""
    warmup_epochs: float = 5
    """Epochs of linear warm-up."""
    weight_decay: float = 0.05
    """Decoupled weight decay; none on biases, norms and the class token."""
    decay_positions: bool = True
    """Whether position tables are decayed (as in the released recipes)."""
    label_smoothing: float = 0.1
    """Share of the target spread over all classes."""
    clip_grad: float | None = None
    """Largest norm of the whole gradient, applied once per step; None for no clipping."""
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    """Arithmetic of the forward pass (autocast; weights stay float32). float16 scales the loss, skips overflows."""
    micro_batches: int = 1
    """Parts of a batch that are run one after the other to save memory (gradient accumulation); the step stays the same."""
    grad_checkpointing: bool = False
    """Recompute the blocks in the backward pass instead of keeping their activations."""
    paths: tuple[str, ...] = ()
    """Operating points of every step, such as 8@0.5, or all; default: the paper's four, drawn anew in each step."""
    teacher: Teacher = "own_grid"
    """Who teaches: labels the uncut points and these their cut ones (own_grid); moreover the largest grid the smaller ones
    (larger_grid); or labels everywhere."""
    backward: Literal["joint", "per_grid"] = "joint"
    """One backward pass over all paths, or one per grid size, which keeps the activations of one grid at a time."""
    compile: bool = False
    """Compile the blocks (`torch.compile`, one dynamic graph for all token counts); the first steps take minutes."""
    ema_decay: float | None = None
    """Decay of the averaged weights, or None."""
    ema_warmup: bool = True
    """Average over fewer steps at the start."""
    evaluate_ema: bool = True
    """Evaluate and keep the averaged weights (if there are such) as the model; else they are kept beside it (model_ema)."""
    log_every: int = 50
    """Steps between log entries and checks that losses and gradients are finite."""
    tensorboard: bool = False
    """Write the log for TensorBoard too, into `out`/tensorboard (needs tensorboard)."""
    wandb: str | None = None
    """Send the log to this project of Weights & Biases too (needs wandb)."""
    save_every: int = 1
    """Epochs between checkpoints; the last epoch always writes one."""
    save_minutes: float = 30
    """Minutes between checkpoints within an epoch; 0 for none."""
    keep_checkpoints: int = 2
    """Newest checkpoints that are kept."""
    eval_every: int = 10
    """Epochs between evaluations of all operating points; the last epoch always is evaluated."""
    plot: bool = True
    """Draw accuracy over cost, and the curves of the run, at the end (needs matplotlib)."""
    throughput_batch_size: int = 64
    """Images per batch when images/s are measured at the end (paper: 512)."""
    throughput_repeats: int = 10
    """Timed batches per operating point at the end (paper: 50); 0 leaves images/s out."""
    throughput_seconds: float = 60
    """Limit of that measurement, beyond which fewer batches are timed, at least one at each operating point; a tenth of
    the training's time where that is less; 0 for none."""

    def __post_init__(self) -> None:
        counts = (
            "epochs",
            "log_every",
            "save_every",
            "eval_every",
            "keep_checkpoints",
            "throughput_batch_size",
            "micro_batches",
        )
        for name in ("lr", *counts):
            if not getattr(self, name) > 0:
                raise InputError(f"{name} {getattr(self, name)!r} must be more than 0")
        unsigned = (
            "min_lr",
            "warmup_lr",
            "warmup_epochs",
            "cooldown_epochs",
            "weight_decay",
            "throughput_repeats",
            "throughput_seconds",
            "save_minutes",
        )
        for name in unsigned:
            if not getattr(self, name) >= 0:
                raise InputError(f"{name} {getattr(self, name)!r} must be at least 0")
        if not 0 <= self.label_smoothing <= 1:
            raise InputError(f"label_smoothing {self.label_smoothing} is not in [0, 1]")
        if self.ema_decay is not None and not 0 <= self.ema_decay < 1:
            raise InputError(f"ema_decay {self.ema_decay} is not in [0, 1); leave it out for no average")
        if self.clip_grad is not None and not self.clip_grad > 0:
            raise InputError(f"clip_grad {self.clip_grad} must be more than 0; leave it out for no clipping")
        if self.lr_batch_size is not None and self.lr_batch_size < 1:
            raise InputError(f"lr_batch_size {self.lr_batch_size} must be at least 1; leave it out for lr as it is")
        self._check_paths()

    def _check_paths(self) -> None:
        if self.paths != ("all",):
            points = [Complexity.of(path) for path in self.paths]
            for point in points:
                if point.grid_size not in self.model.grid_sizes and self.init is None:
                    raise InputError(f"path {point} is not of the model's grid sizes {self.model.grid_sizes}; add it there")
                if self.teacher != "labels" and point.uncut not in points:
                    raise InputError(f"path {point} has no teacher; add {point.uncut} to paths, or set teacher to labels")
            if len(set(points)) != len(points):
                raise InputError(f"paths {self.paths!r} must not name a point twice")
        if self.backward == "per_grid" and self.teacher == "larger_grid":
            raise InputError("backward per_grid forgets the larger grid before the smaller ones; set backward to joint")

    @property
    def all_epochs(self) -> int:
        """Epochs with the cooldown."""
        return self.epochs + self.cooldown_epochs

    @property
    def points(self) -> tuple[Complexity, ...]:
        """The operating points that are evaluated: those of `paths` where these are given, else the menu."""
        return tuple(self.model.space) if self.paths in ((), ("all",)) else tuple(map(Complexity.of, self.paths))

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain values for JSON."""

        def plain(value: Any) -> Any:
            if isinstance(value, dict):
                return {key: plain(item) for key, item in value.items()}
            if isinstance(value, Path):
                return str(value)
            return list(value) if isinstance(value, tuple) else value

        return {key: plain(value) for key, value in dataclasses.asdict(self).items()}

    def trajectory(self) -> dict[str, Any]:
        """The fields that decide where a run ends, by dotted name; the others may change when it is resumed."""
        flat: dict[str, Any] = {}
        for key, value in self.to_dict().items():
            flat |= {f"{key}.{name}": item for name, item in value.items()} if isinstance(value, dict) else {key: value}
        return {key: value for key, value in flat.items() if key not in _NO_TRAJECTORY}
