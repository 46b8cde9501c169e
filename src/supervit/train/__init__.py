"""The training loop: one loop for every recipe."""

from typing import TYPE_CHECKING

from supervit._lazy import lazy
from supervit.train.config import TrainConfig

if TYPE_CHECKING:
    from supervit.train.loop import run_training
else:
    __getattr__, __dir__ = lazy(__name__, {"loop": ("run_training",)})

__all__ = ["TrainConfig", "run_training"]
