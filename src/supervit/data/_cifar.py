"""What CIFAR-10 and CIFAR-100 share: torchvision reads, checks and fetches them."""

import numpy as np
from torchvision.datasets import CIFAR10

from supervit.data import SourceConfig, Split
from supervit.data._arrays import ArrayImages
from supervit.errors import InputError


def open_cifar(dataset: type[CIFAR10], config: SourceConfig, split: Split) -> ArrayImages:
    """The training images, or as held-out ones the test images, of one of the two.

    Raises:
        InputError: no root, the data not there, not as published (torchvision checks their digests) or not to be fetched.
    """
    config.refuse("class_list", "repository", "image_member")
    root = config.folder(f"with {dataset.base_folder}/")
    try:
        found = dataset(root, train=split == "train", download=config.download)
    except Exception as error:  # torchvision unpickles, but only what has the published digest
        reason = " ".join(str(error).split()).partition(". You can")[0]
        raise InputError(
            f"no {config.name} in {str(root)!r} ({reason}); unpack {dataset.filename} there, or fetch it with --data.download"
        ) from error
    return ArrayImages(found.data, np.array(found.targets, np.int64), list(found.classes))
