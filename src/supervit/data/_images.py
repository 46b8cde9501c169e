"""From an image to a tensor: evaluation and training transforms."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from supervit.config import PILLOW_MODES
from supervit.data._opening import SIGNIFICANT_BITS, DamagedImage, naming_damage
from supervit.errors import InputError

LONGEST = 4  # times the short side: a centre crop never looks further
_ON_THE_WAY = {"La": "LA", "RGBa": "RGBA", "LAB": "RGB", "HSV": "RGB", "PA": "RGBA"}  # Pillow goes on from there alone
_WITH_ALPHA = ("LA", "La", "PA", "RGBA", "RGBa")
_DEPTHS = (8, 12, 16, 24, 31)  # bits
_DEPTHS_OF_PNG = (12, 16)  # of 8 bits and less it has forms of their own
_SCALED = ("PPM", "JPEG2000")  # Pillow scales their grey to 16 bits, whatever the file has
_BITS_PER_SAMPLE, _MAX_SAMPLE_VALUE, _SAMPLE_FORMAT, _S_MAX_SAMPLE_VALUE = 258, 281, 339, 341  # tags of TIFF
_UNSIGNED = 1
_BAND = 2**20  # pixels at a time


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

    @classmethod
    def of_channels(cls, in_chans: int, transform: Callable[[Image.Image], Any], crops_centre: bool = False) -> Self:
        """A transform of images with so many channels.

        Raises:
            InputError: neither grey nor RGB.
        """
        if in_chans not in PILLOW_MODES:
            raise InputError(f"image files cannot give in_chans={in_chans}; use 1 (grey) or 3 (RGB)")
        return cls(PILLOW_MODES[in_chans], transform, crops_centre)

    def __call__(self, image: Image.Image) -> Any:
        """What the transform makes of the image.

        Raises:
            DamagedImage: the image cannot be brought to the mode.
        """
        return self.transform(self.prepare(image))

    def prepare(self, image: Image.Image) -> Image.Image:
        """The image in the mode, which the transform is given.

        Raises:
            DamagedImage: the image cannot be brought to it.
        """
        image = to_mode(image, self.mode)
        return _cut_ends(image) if self.crops_centre else image


def to_mode(image: Image.Image, mode: str) -> Image.Image:
    """The decoded image in mode L or RGB: grey of more than 8 bits is scaled, alpha is dropped.

    Raises:
        DamagedImage: floating-point pixels, no pixels at all, or a mode that Pillow does not convert.
    """
    with naming_damage():
        if not all(image.size):
            raise DamagedImage("it has no pixels")
        if image.mode == "F":
            raise DamagedImage("floating-point pixels have no known range; save it with 8 or 16 bits a channel")
        if image.mode.startswith("I"):
            image = _to_8_bits(image)
        if image.mode in _ON_THE_WAY:
            image = image.convert(_ON_THE_WAY[image.mode])
        return image if image.mode == mode else image.convert(mode)


def conversion(image: Image.Image, mode: str) -> str | None:
    """What a picture loses or gains on its way to mode L or RGB, in words; None where it is of that kind."""
    kinds = {"L": "grey", "1": "grey", "LA": "grey", "La": "grey", "P": "RGB", "PA": "RGB", "RGBA": "RGB", "RGBa": "RGB"}
    kind = "grey" if image.mode.startswith("I") else kinds.get(image.mode, image.mode)
    expected = kinds.get(mode, mode)
    is_transparent = image.mode in _WITH_ALPHA or "transparency" in image.info
    if kind == expected:
        return f"the transparency of a picture in {kind} is dropped" if is_transparent else None
    return f"a picture in {kind} is seen as {expected}{', without its transparency' if is_transparent else ''}"


def _to_8_bits(image: Image.Image) -> Image.Image:
    """The image, grey with 16 or 32 bits, with 8: white is what the file says, else the depth that all pixels fit.

    A TIFF says it by MaxSampleValue or SMaxSampleValue, or by fewer than 16 BitsPerSample; a PNG by its chunk sBIT. Its
    standard has samples scaled to all 16 bits whatever sBIT is, but cameras' 12 are written as they are too: so its number of
    bits counts where all pixels fit it. Nor does any file count that has pixels beyond what it says.

    Few files say it, as 16 or 32 bits a sample are no more than the form, and a camera's 12 would come out nearly black: so
    white is the largest number of 8 (not in a PNG, which has a form for these), 12, 16, 24 or 31 bits, the first that no pixel
    exceeds. A picture of 16 bits in which nothing is brighter than a sixteenth of white comes out too bright thereby; sBIT or
    a tag prevents it. Negative pixels become black. A band of the image at a time: copies of the whole image with 64 bits a
    pixel would take gigabytes.
    """
    is_unsigned = image.mode == "I" and _is_unsigned(image)
    white = max(_white(image, is_unsigned), 1)
    grey = np.empty((image.height, image.width), np.uint8)
    for place, pixels in _parts(image, is_unsigned):
        grey[place] = pixels.astype(np.int64).clip(0, white) * 255 // white
    return Image.fromarray(grey)


def _parts(image: Image.Image, is_unsigned: bool) -> Iterator[tuple[tuple[slice, slice], NDArray[Any]]]:
    """Pairs of a place in the image and its pixels there, so that no other copy of all of them is made."""
    width, height = image.size
    lines = max(_BAND // width, 1)
    for top in range(0, height, lines):
        for left in range(0, width, _BAND):
            right, bottom = min(left + _BAND, width), min(top + lines, height)
            pixels: NDArray[Any] = np.asarray(image.crop((left, top, right, bottom)))
            yield (slice(top, bottom), slice(left, right)), pixels.view(np.uint32) if is_unsigned else pixels


def _is_unsigned(image: Image.Image) -> bool:
    """Whether Pillow, which has signed numbers alone, holds 32 bits without a sign."""
    return _told(image, _BITS_PER_SAMPLE) == 32 and _told(image, _SAMPLE_FORMAT) in (None, _UNSIGNED)


def _told(image: Image.Image, tag: int) -> int | None:
    """The first number of a tag of a TIFF file, if it is one that 32 bits can have."""
    value = getattr(image, "tag_v2", {}).get(tag)
    first = value[0] if isinstance(value, tuple) and value else value
    return int(first) if isinstance(first, int | float) and 0 <= first < 2**32 else None


def _white(image: Image.Image, is_unsigned: bool) -> int:
    """The value that stands for white."""
    if image.format in _SCALED:
        return 65535
    top = max(int(pixels.max()) for _, pixels in _parts(image, is_unsigned))
    bits = _told(image, _BITS_PER_SAMPLE) or 16
    bits = bits if bits < 16 else image.info.get(SIGNIFICANT_BITS, 0)
    told = [_told(image, _MAX_SAMPLE_VALUE) or 0, _told(image, _S_MAX_SAMPLE_VALUE) or 0, 2**bits - 1]
    depths = _DEPTHS_OF_PNG if image.format == "PNG" else (*_DEPTHS, 32)
    by_depth = (2**bits - 1 for bits in depths)
    return next(white for white in (*told, *by_depth) if white >= max(top, 1))


def _cut_ends(image: Image.Image) -> Image.Image:
    """The middle of a very long image, cut by the same number of pixels on both ends."""
    width, height = image.size
    longest = LONGEST * min(width, height)
    if max(width, height) <= longest:
        return image
    left, top = (max(0, side - longest) // 2 for side in (width, height))
    return image.crop((left, top, width - left, height - top))
