"""SuperViT: one vision transformer, trained once, that runs at any compute budget."""

from supervit._version import __version__
from supervit.checkpoints import load
from supervit.complexity import Complexity, ComplexitySpace, Plan, sample_paths
from supervit.config import SuperViTConfig
from supervit.errors import InputError, SuperViTError, TrainingError
from supervit.model import SuperViT, create_model
from supervit.objective import distillation_loss, path_losses
from supervit.predictor import Predictor
from supervit.registry import register_variants
from supervit.trace import Trace

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

register_variants()
