"""CIFAR-10: 50,000 training and 10,000 test images of 10 classes, 32x32 pixels, RGB; the test images are the held-out ones.

Source: A. Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009.
"""

from torchvision.datasets import CIFAR10

from supervit.data import SourceConfig, Split
from supervit.data._arrays import ArrayImages
from supervit.data._cifar import open_cifar


def open_split(config: SourceConfig, split: Split) -> ArrayImages:
    """The images of a split, from ROOT/cifar-10-batches-py."""
    return open_cifar(CIFAR10, config, split)
