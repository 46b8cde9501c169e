"""What every runtime is."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from supervit.complexity import Complexity
from supervit.config import SuperViTConfig
from supervit.errors import InputError
from supervit.export import Precision
from supervit.layers import check_images, resize_images


@dataclass(frozen=True, eq=False)
class RuntimeConfig:
    """How to run a model."""

    device: str = "cpu"
    """Torch device, such as cpu or cuda."""
    precision: Precision = "float32"
    """Arithmetic."""
    threads: int | None = None
    """CPU threads; default: the runtime's choice. PyTorch's runtimes set those of the process."""
    calibration: Tensor | None = None
    """Normalised images (N, C, S, S) that int8 is calibrated on, some hundred of those to be classified."""

    def __post_init__(self) -> None:
        if self.threads is not None and self.threads < 1:
            raise InputError(f"threads {self.threads} must be at least 1; leave it out for the runtime's choice")


@dataclass(frozen=True)
class Runtime:
    """A model that runs at any operating point; changing between points loads and compiles nothing."""

    name: str
    precision: Precision
    model_config: SuperViTConfig
    run: Callable[[Tensor, Complexity], Tensor]
    """Logits of float32 images on the CPU that have their grid's size."""

    def logits(self, images: Tensor, complexity: Complexity | str) -> Tensor:
        """Logits (B, K), float32 on the CPU.

        Args:
            images: Normalised images (B, C, S, S), float32; resized as the model does unless they have their grid's size.
            complexity: Operating point or its text, such as `"14@0.7"`.

        Raises:
            InputError: images of another shape, or an operating point that does not parse or that the runtime has not.
        """
        config, point = self.model_config, Complexity.of(complexity)
        check_images(images, config.in_chans)
        side = config.patch_size * point.grid_size
        with torch.inference_mode():
            images = resize_images(images.float().cpu(), side, config.resize).contiguous()
            return self.run(images, point).float().cpu()

    def prepare(self, points: Sequence[Complexity | str], batch_size: int) -> None:
        """Run each operating point once, so that whatever is done at a first use of a shape is done."""
        for point in map(Complexity.of, points):
            side = self.model_config.patch_size * point.grid_size
            self.logits(torch.zeros(batch_size, self.model_config.in_chans, side, side), point)
