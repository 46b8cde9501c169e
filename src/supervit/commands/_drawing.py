"""What `supervit predict --draw` writes: a picture for each image of what the operating points drop."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from supervit.complexity import Complexity
from supervit.errors import printable
from supervit.pictures import picture_files
from supervit.progress import track

if TYPE_CHECKING:
    from supervit.predictor import Predictor

_LONGEST_STEM = 50  # characters; of up to four bytes, of which a name may have 255


def draw_images(predictor: "Predictor", images: Sequence[Path], points: Sequence[Complexity], folder: Path) -> None:
    """Write FOLDER/NAME.{png,svg,pdf} for each image; images of one name are numbered, and no image is written over.

    Raises:
        InputError: the folder cannot be written, or the predictor's runtime has no trace.
    """
    from supervit.data import DamagedImage
    from supervit.pictures.dropped import draw_dropped, look

    depth = predictor.config.depth
    names = picture_names(images, folder)
    for image, name in track(zip(images, names, strict=True), "draw", len(images), "image"):
        try:
            pixels = predictor.pixels(image, points)
        except DamagedImage as error:  # in a part that was not needed for the answer
            print(f"cannot draw {printable(str(image))} ({error})", file=sys.stderr)
            continue
        rows = look(predictor.runtime, pixels.unsqueeze(0), points)
        draw_dropped(rows, [image.name], depth, picture_files(folder, name))


def picture_names(images: Sequence[Path], folder: Path) -> list[str]:
    """A name for the picture of each image, its own if that is free: neither another picture's nor that of an image itself."""
    originals = {image.resolve() for image in images}
    taken: set[str] = set()
    names = []
    for image in images:
        stem, number = image.stem[:_LONGEST_STEM], 1
        name = stem
        while name.casefold() in taken or any(file.resolve() in originals for file in picture_files(folder, name)):
            number += 1
            name = f"{stem}_{number}"
        taken.add(name.casefold())
        names.append(name)
    return names
