"""Data sets that are small enough to be held in memory."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image


@dataclass(frozen=True)
class ArrayImages:
    """The images of one split.

    Args:
        images: (N, H, W) grey or (N, H, W, 3) RGB, 0 to 255.
        labels: Class indices (N).
        classes: Names of the classes, in index order.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    classes: list[str]

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, record: int) -> tuple[Image.Image, int]:
        """The image and its class."""
        return Image.fromarray(self.images[record]), int(self.labels[record])

    def name_of(self, record: int) -> str:
        """The number of the image in its split."""
        return f"image {record}"
