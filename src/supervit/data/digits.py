"""1,797 real handwritten digits, 8x8 pixels, grey: they ship with scikit-learn, so they need no download.

Source: E. Alpaydin and C. Kaynak, "Optical Recognition of Handwritten Digits", UCI (the test part).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from supervit.data import SourceConfig, Split
from supervit.errors import InputError

_HELD_OUT = 5  # every fifth image is held out: 360 of 1,797, near 36 of each class


@dataclass(frozen=True)
class Digits:
    """One split of the digits."""

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    classes: list[str]

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, record: int) -> tuple[Image.Image, int]:
        """The image and its digit."""
        return Image.fromarray(self.images[record]), int(self.labels[record])

    def name_of(self, record: int) -> str:
        """The number of the image in its split."""
        return f"image {record}"


def open_split(config: SourceConfig, split: Split) -> Digits:
    """The 1,437 training or 360 held-out images."""
    if config.root or config.class_list:
        raise InputError("the digits ship with scikit-learn; leave out root and class_list, or use name=image_folder")
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise InputError("the digits need scikit-learn; pip install 'supervit[digits]'") from error
    digits = load_digits()
    chosen = (np.arange(len(digits.target)) % _HELD_OUT == 0) == (split == "val")
    images = (digits.images * (255 / 16)).round().astype(np.uint8)
    return Digits(images[chosen], digits.target[chosen].astype(np.int64), [str(name) for name in digits.target_names])
