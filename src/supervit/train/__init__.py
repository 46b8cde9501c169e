"""The training loop: one loop for every recipe."""

from supervit.train.config import TrainConfig
from supervit.train.loop import run_training

__all__ = ["TrainConfig", "run_training"]
