"""The door for images: every file, every byte string and every picture of a caller comes in here, and nowhere else.

What may come in is a short list of formats, none of which runs a program (EPS would start Ghostscript), of a bounded number
of pixels, checked before anything is decoded. Whatever Pillow raises on the way is a `DamagedImage`.
"""

import errno
import io
import math
import os
import re
import stat
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any, cast

from PIL import Image, ImageFile, UnidentifiedImageError

from supervit.data._reading import Reading
from supervit.errors import InputError, reason_of

IMAGE_SUFFIXES = (
    ".jpg", ".jpeg", ".jfif", ".png", ".ppm", ".pgm", ".bmp", ".tif", ".tiff", ".webp", ".avif", ".gif", ".jp2", ".j2k",
)  # fmt: skip
_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF", "JPEG2000")  # a JPEG may turn out to be an MPO
_JPEG = ("JPEG", "MPO")
# Pixels count so often, as decoders hold copies of the image: measured 8 bytes a pixel, 12, 16 and 25.
_WEIGHTS = {"AVIF": 1.5, "TIFF": 1.5, "WEBP": 2.0, "JPEG2000": 3.0}
_PROGRESSIVE = 1.5
_LONGEST_WEBP = 16383  # pixels a side, of each frame; a canvas may claim more, and takes long to be laid out
_BYTES = 4  # of a file, for each pixel allowed: some decoders read all of a file at once
_START = 16  # bytes by which formats know their files
_CONVERT = "convert it to JPEG or PNG"
_OTHER_FORMATS = (
    (8, b"avif", "AVIF"),
    (8, b"avis", "AVIF"),
    (4, b"ftyp", "HEIC or a video"),
    (4, b"jP", "JPEG 2000"),
    (0, b"\xffO\xffQ", "JPEG 2000"),
    (0, b"\xff\n", "JPEG XL"),
    (4, b"JXL ", "JPEG XL"),
    (0, b"8BPS", "Photoshop"),
    (0, b"%!PS", "EPS"),
    (0, b"%PDF", "PDF"),
    (0, b"<svg", "SVG"),
)  # what stands where in the first bytes
_ORIENTATION = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_BACK = {6: 8, 8: 6}  # the other turns undo themselves
SIGNIFICANT_BITS = "significant bits"  # of a sample of a PNG, under this name in `info`
_WHERE_TURNS_STAND = ("exif", "Raw profile type exif", "xmp", "XML:com.adobe.xmp")


class DamagedImage(InputError):
    """One image cannot be read; a run skips it and counts it."""


@contextmanager
def naming_damage() -> Iterator[None]:
    """A block in which Pillow reads or converts an image.

    Raises:
        DamagedImage: instead of whatever the block raises; says why the image cannot be read.
    """
    try:
        yield
    except DamagedImage:
        raise
    except UnidentifiedImageError as error:  # whose text names a file object
        raise DamagedImage("not an image of a known format") from error
    # Pillow's decoders answer garbage with nearly any error: struct.error, IndexError, zlib.error, ...
    except Exception as error:
        raise DamagedImage(getattr(error, "strerror", None) or " ".join(str(error).split()) or reason_of(error)) from error


def open_image(file: Path | bytes, reading: Reading = Reading()) -> Image.Image:  # noqa: B008, it is frozen
    """The image of a file, or of a file's bytes, not decoded yet; a context that closes the file.

    Raises:
        DamagedImage: missing, unreadable, not of a format that is taken, or with more pixels than may be; says why.
    """
    with naming_damage():
        if isinstance(file, Path):
            _check_file(file, reading)
        if reading.max_pixels > (Image.MAX_IMAGE_PIXELS or math.inf):  # allowed by our user, and asked again at each crop
            Image.MAX_IMAGE_PIXELS = reading.max_pixels
        image = _open(file)
    try:
        check_size(image, reading)
    except DamagedImage:
        image.close()
        raise
    return image


def _open(file: Path | bytes) -> Image.Image:
    """As `Image.open`, without Pillow's own limit of pixels, which is one of the whole process; ours is checked next."""
    with io.BytesIO(file) if isinstance(file, bytes) else file.open("rb") as stream:
        start = stream.read(_START)
    for name in _formats():
        make, accept = Image.OPEN[name]
        is_of_it = accept is None or accept(start)
        if is_of_it and not isinstance(is_of_it, str):  # a text: why this Pillow cannot read it
            with suppress(SyntaxError, IndexError, TypeError, struct.error):  # not of this format after all, as Pillow has it
                # Any: by its types it takes streams alone, but who is given a path also closes the file
                return cast(Any, make)(io.BytesIO(file) if isinstance(file, bytes) else str(file))
    if kind := next((kind for place, mark, kind in _OTHER_FORMATS if start.startswith(mark, place)), None):
        raise DamagedImage(f"not an image of a known format, but {kind}; {_CONVERT}")
    raise UnidentifiedImageError


def check_size(image: Image.Image, reading: Reading) -> None:
    """Refuse an image with more pixels than may be decoded, or of a format that is not decoded here.

    Raises:
        DamagedImage: it is one of these.
    """
    with naming_damage():
        if _is_lazy(image) and image.format not in (*_formats(), *_JPEG):
            raise DamagedImage(f"an image of format {image.format} is not decoded here; {_CONVERT}")
        width, height = image.size
        if _is_lazy(image) and image.format == "WEBP" and max(image.size) > _LONGEST_WEBP:
            raise DamagedImage(f"{width} x {height} pixels are more a side than the {_LONGEST_WEBP} that WebP has")
        if width * height > reading.max_pixels / _weight(image) and not _reduction(image, reading):
            raise DamagedImage(_too_large(f"{width} x {height} pixels ({image.format or image.mode})", reading))


def decode(image: Image.Image, reading: Reading = Reading()) -> Image.Image:  # noqa: B008, it is frozen
    """The decoded image (of an animation its first frame), upright; the one given, which is decoded too, or a turned copy.

    Raises:
        DamagedImage: truncated or otherwise unreadable; says why.
    """
    with naming_damage():
        if _is_lazy(image) and (scale := _reduction(image, reading)):
            width, height = image.size
            image.draft(None, (width // scale, height // scale))
        if image.format == "PNG" and _is_lazy(image) and (bits := _significant_bits(image)):
            image.info[SIGNIFICANT_BITS] = bits
        before = _orientation(image) if image.format == "TIFF" and _is_lazy(image) else 1
        image.load()
        turn = _orientation(image)
        if not reading.exif_orientation:
            turn = _BACK.get(before, before) if turn == 1 else 1  # Pillow itself turns what is in TIFF files
        if turn == 1:
            return image
        turned = image.transpose(_TURNS[turn])
        turned.format = image.format  # which says how its numbers are meant
        for key in _WHERE_TURNS_STAND:
            turned.info.pop(key, None)
        return turned


def read_image(file: Path | bytes, reading: Reading = Reading()) -> Image.Image:  # noqa: B008, it is frozen
    """The decoded image (of an animation its first frame) of a file, or of a file's bytes, upright.

    Raises:
        DamagedImage: missing, unreadable, truncated, not an image or with more pixels than may be; says why.
    """
    with open_image(file, reading) as image:
        return decode(image, reading)


def undecoded_jpeg(image: Image.Image) -> bool:
    """Whether the image is a JPEG that can still be decoded at a reduced scale."""
    return image.format in _JPEG and bool(getattr(image, "tile", None))  # a file's tiles are what is still to be decoded


def orientation_of(image: Image.Image) -> int:
    """How the picture is to be turned, as EXIF counts: 1 (not at all) to 8; of a JPEG nothing is decoded for it.

    Raises:
        DamagedImage: the file ends or changes meanwhile.
    """
    with naming_damage():
        return _orientation(image)


def _orientation(image: Image.Image) -> int:
    try:
        turn = image.getexif().get(_ORIENTATION, 1)
    except (SyntaxError, ValueError, TypeError, KeyError, IndexError, AttributeError, OSError, OverflowError, re.error):
        return 1  # damaged EXIF data tell nothing, the picture may be sound
    return int(turn) if turn in _TURNS else 1


@cache
def _formats() -> tuple[str, ...]:
    """The formats that this Pillow can open, of those that are taken."""
    Image.init()
    return tuple(name for name in _FORMATS if name in Image.OPEN)


def _check_file(file: Path, reading: Reading) -> None:
    """Refuse what is no file, which might never end, and files larger than an image that may be is in any format."""
    status = file.stat()
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(file))
    if not stat.S_ISREG(status.st_mode):
        raise DamagedImage("a device or a pipe, not a file")
    if status.st_size > max(_BYTES * reading.max_pixels, 2**20):
        raise DamagedImage(_too_large(f"a file of {status.st_size >> 20} MiB", reading))


def _too_large(what: str, reading: Reading) -> str:
    return f"{what}, larger than max_pixels = {reading.max_pixels} allows; raise it if there is memory"


def _is_lazy(image: Image.Image) -> bool:
    """Whether the image comes from a file and is not decoded yet."""
    return isinstance(image, ImageFile.ImageFile) and (bool(image.tile) or getattr(image, "_im", None) is None)


def _weight(image: Image.Image) -> float:
    if not _is_lazy(image):
        return 1.0
    if image.format in _JPEG and not _is_sequential(image):
        return _PROGRESSIVE
    return _WEIGHTS.get(image.format or "", 1.0)


def _is_sequential(image: Image.Image) -> bool:
    """Whether a JPEG comes in one scan, of which a decoder holds some lines; of several it holds all coefficients."""
    components = getattr(image, "layers", 0)
    header = bytes([0, 6 + 2 * components, components])  # of the first scan, of all components; the file stands behind it
    file = getattr(image, "fp", None)
    if file is None or image.info.get("progressive"):
        return False
    place = file.tell()
    file.seek(max(place - header[1], 0))
    found = file.read(len(header))
    file.seek(place)
    return found == header


def _significant_bits(image: Image.Image) -> int | None:
    """The bits that a PNG's chunk sBIT says its samples had, which Pillow passes over."""
    file, found = getattr(image, "fp", None), 0
    if file is None:
        return None
    place = file.tell()
    file.seek(8)  # behind the signature
    while len(head := file.read(8)) == 8 and head[4:] != b"IDAT":
        length = int.from_bytes(head[:4])
        if head[4:] == b"sBIT" and 0 < length <= 4:
            found = file.read(1)[0]
            break
        file.seek(length + 4, os.SEEK_CUR)  # with its check sum
    file.seek(place)
    return found if 0 < found <= 16 else None


def _reduction(image: Image.Image, reading: Reading) -> int:
    """By what a JPEG's sides are divided so that it fits; 0: not at all, or nothing would do."""
    width, height = image.size
    weight = _weight(image)
    is_small = width * height <= reading.max_pixels / weight
    if is_small or not undecoded_jpeg(image) or (weight > 1 and width * height > reading.max_pixels):
        return 0
    fitting = (scale for scale in (2, 4, 8) if width * height <= reading.max_pixels * scale**2)
    return next(fitting, 0)
