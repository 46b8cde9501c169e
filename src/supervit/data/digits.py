"""1,797 real handwritten digits, 8x8 pixels, grey: they ship with scikit-learn, so they need no download.

Source: E. Alpaydin and C. Kaynak, "Optical Recognition of Handwritten Digits", UCI (the test part).
"""

import numpy as np

from supervit.data import SourceConfig, Split
from supervit.data._arrays import ArrayImages
from supervit.errors import InputError

_HELD_OUT = 5  # every fifth image is held out: 360 of 1,797, near 36 of each class


def open_split(config: SourceConfig, split: Split) -> ArrayImages:
    """The 1,437 training or 360 held-out images.

    Raises:
        InputError: an option that the digits have no use for, or no scikit-learn.
    """
    config.refuse("root", "class_list", "repository", "download", "image_member")
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise InputError("the digits need scikit-learn; pip install 'supervit[digits]'") from error
    digits = load_digits()
    chosen = (np.arange(len(digits.target)) % _HELD_OUT == 0) == (split == "val")
    images = (digits.images * (255 / 16)).round().astype(np.uint8)
    return ArrayImages(images[chosen], digits.target[chosen].astype(np.int64), [str(name) for name in digits.target_names])
