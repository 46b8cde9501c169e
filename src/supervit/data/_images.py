"""From a file to a tensor: decoding that tells damage from mistakes, evaluation and training transforms."""

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError
from torchvision.datasets.folder import IMG_EXTENSIONS

from supervit.errors import InputError

IMAGE_SUFFIXES = (*IMG_EXTENSIONS, ".avif", ".gif", ".jfif", ".jp2")
LONGEST = 4  # times the short side: a centre crop never looks further


class DamagedImage(InputError):
    """One image cannot be read; a run skips it and counts it."""


@contextmanager
def naming_damage() -> Iterator[None]:
    """A block in which Pillow reads an image.

    Raises:
        DamagedImage: instead of whatever the block raises; says why the image cannot be read.
    """
    try:
        yield
    except UnidentifiedImageError as error:  # whose text names a file object
        raise DamagedImage("not an image of a known format") from error
    # Pillow's decoders answer garbage with nearly any error: struct.error, IndexError, zlib.error, ...
    except Exception as error:
        raise DamagedImage(" ".join(str(error).split()) or type(error).__name__) from error


def open_image(file: Path | bytes) -> Image.Image:
    """The image of a file, or of a file's bytes, not decoded yet; a context that closes the file.

    Raises:
        DamagedImage: missing, unreadable, larger than Pillow takes, or not an image; says why.
    """
    with naming_damage():
        return Image.open(io.BytesIO(file) if isinstance(file, bytes) else file)


def read_image(file: Path | bytes) -> Image.Image:
    """The decoded image (of an animation its first frame) of a file, or of a file's bytes.

    Raises:
        DamagedImage: missing, unreadable, truncated, larger than Pillow takes, or not an image; says why.
    """
    with open_image(file) as image, naming_damage():
        image.load()
        return image


@dataclass(frozen=True)
class InMode:
    """A transform of images in one PIL mode; a class so that worker processes can be handed it.

    Args:
        mode: `L` or `RGB`.
        transform: From an image of that mode to a tensor, or to a tuple that starts with one.
        crops_centre: Whether the transform looks at the image's centre alone, so that far ends may be cut off first:
            resizing a picture of 20,000 x 1 pixels to 256 on its short side would take gigabytes.
    """

    mode: str
    transform: Callable[[Image.Image], Any]
    crops_centre: bool = False

    def __call__(self, image: Image.Image) -> Any:
        image = _to_8_bits(image).convert(self.mode)
        return self.transform(_cut_ends(image) if self.crops_centre else image)


def _to_8_bits(image: Image.Image) -> Image.Image:
    """The image with 8 bits a channel; Pillow's own conversion of 16-bit images clips instead of scaling."""
    if image.mode.startswith("I"):
        return Image.fromarray((np.asarray(image).astype(np.int64).clip(0, 65535) // 257).astype(np.uint8))
    if image.mode == "F":
        raise DamagedImage("floating-point pixels have no known range; save it with 8 or 16 bits a channel")
    return image


def _cut_ends(image: Image.Image) -> Image.Image:
    """The middle of a very long image, cut by the same number of pixels on both ends."""
    width, height = image.size
    longest = LONGEST * min(width, height)
    if max(width, height) <= longest:
        return image
    left, top = (max(0, side - longest) // 2 for side in (width, height))
    return image.crop((left, top, width - left, height - top))
