"""How images are read; apart from the code that does it, so that options are cheap to import."""

from dataclasses import dataclass

from supervit.errors import InputError
from supervit.options import MAX_PIXELS


@dataclass(frozen=True)
class Reading:
    """How images are read.

    Args:
        max_pixels: Most pixels of an image; those of WebP count twice, of AVIF, TIFF and progressive JPEG one and a half
            times, of JPEG 2000 three times, as their decoders hold copies. Larger JPEGs are decoded at a half, a quarter or
            an eighth of their size, so that they fit. At the default no image takes more than 600 MiB.
        exif_orientation: Whether the picture is turned as its EXIF data say.
    """

    max_pixels: int = MAX_PIXELS
    exif_orientation: bool = True

    def __post_init__(self) -> None:
        if self.max_pixels < 1:
            raise InputError(f"max_pixels {self.max_pixels} must be at least 1")
