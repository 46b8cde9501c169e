"""SuperViT: one vision transformer, trained once, that runs at any compute budget."""

from typing import TYPE_CHECKING

from supervit._lazy import lazy
from supervit._version import __version__
from supervit.errors import InputError, SuperViTError, TrainingError
from supervit.registry import register_with_timm

if TYPE_CHECKING:
    from supervit.checkpoints import load
    from supervit.complexity import Complexity, ComplexitySpace, sample_paths
    from supervit.config import SuperViTConfig
    from supervit.model import SuperViT, create_model
    from supervit.objective import distillation_loss, path_losses
    from supervit.plan import Plan
    from supervit.predictor import Predictor
    from supervit.trace import Trace
else:
    __getattr__, __dir__ = lazy(__name__, {
        "checkpoints": ("load",),
        "complexity": ("Complexity", "ComplexitySpace", "sample_paths"),
        "config": ("SuperViTConfig",),
        "model": ("SuperViT", "create_model"),
        "objective": ("distillation_loss", "path_losses"),
        "plan": ("Plan",),
        "predictor": ("Predictor",),
        "trace": ("Trace",),
    })  # fmt: skip

__all__ = [
    "Complexity",
    "ComplexitySpace",
    "InputError",
    "Plan",
    "Predictor",
    "SuperViT",
    "SuperViTConfig",
    "SuperViTError",
    "Trace",
    "TrainingError",
    "__version__",
    "create_model",
    "distillation_loss",
    "load",
    "path_losses",
    "sample_paths",
]

register_with_timm()
