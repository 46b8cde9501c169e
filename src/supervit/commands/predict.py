"""`supervit predict`."""

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import tyro

from supervit.commands._answers import Form, printed
from supervit.commands._opening import Points, RunOptions, parse_points
from supervit.complexity import Complexity
from supervit.data import MAX_PIXELS
from supervit.errors import InputError, printable
from supervit.files import make_directory
from supervit.pictures import check_plotting
from supervit.progress import track

if TYPE_CHECKING:
    from supervit.predictor import Predictor


@dataclass(frozen=True)
class Predict:
    """Class, probability and cost of images, at any operating point."""

    model: tyro.conf.Positional[str]
    """Model directory, weights file (whatever `supervit.load` takes), or what `supervit export` wrote."""
    images: tyro.conf.Positional[tuple[Path, ...]]
    """Image files, or folders of them; where one cannot be read, the others are answered and the exit status is 1."""
    point: str | None = None
    """Operating point, such as 8@0.5 (default: the dearest one, the largest grid uncut where the artefact has it)."""
    ladder: Path | None = None
    """Instead of an operating point: the ladder.json of `supervit cascade`, by which sure images leave early."""
    form: Form = "table"
    """A table in the end, or a line of JSON or CSV for each image as soon as its batch is done."""
    top_k: int = 1
    """Classes that are named for each image, the most probable first."""
    batch_size: int = 16
    """Images per batch."""
    reduced_decoding: bool = True
    """Whether images for grids below the largest are read in one step, JPEGs decoded no further than the grid needs."""
    max_pixels: int = MAX_PIXELS
    """Most pixels of an image, checked before it is decoded; larger ones fail, JPEGs are decoded smaller."""
    exif_orientation: bool = True
    """Turn pictures as their EXIF data say."""
    draw: Path | None = None
    """Folder for a picture of each image with what operating points drop of it: png, svg and pdf."""
    draw_points: Points = ()
    """Operating points to draw (default: the one that answers, or the ladder's, and the cut ones of the extreme grids)."""
    run_by: RunOptions = field(default_factory=RunOptions)

    def run(self) -> None:
        """Print an answer for each image, in their order.

        Raises:
            SystemExit: with status 1, after all answers, if an image could not be read.
        """
        from supervit.cascade import Ladder
        from supervit.commands._drawing import draw_images
        from supervit.predictor import Failure, Predictor

        if self.point is not None and self.ladder is not None:
            raise InputError(f"point {self.point} and ladder {str(self.ladder)!r}: give one of the two")
        chosen = self.point if self.ladder is None else Ladder.load(self.ladder)
        how = (self.reduced_decoding, self.top_k, self.max_pixels, self.exif_orientation)
        predictor = Predictor(self.run_by.open(self.model), chosen, self.batch_size, *how)
        drawn = self._points_to_draw(predictor)
        images, failures = self._list_images(), 0
        answers = predictor.stream(images)
        if self.form == "table" or not sys.stdout.isatty():  # a bar and lines on the same terminal spoil each other
            answers = track(answers, "predict", len(images), "image")
        readable: list[Path] = []
        warned: dict[str, list[str]] = {}
        for image, answer in zip(images, printed(answers, self.form), strict=True):
            if isinstance(answer, Failure):
                failures += 1
            else:
                readable.append(image)
                if answer.warning is not None:
                    warned.setdefault(answer.warning, []).append(answer.source)
        for warning, sources in warned.items():
            print(printable(f"{len(sources)} of {len(images)} images: {warning}, such as {sources[0]}"), file=sys.stderr)
        if self.draw is not None:
            draw_images(predictor, readable, drawn, self.draw)
        if failures:
            print(f"{failures} of {len(images)} images could not be read", file=sys.stderr)
            raise SystemExit(1)

    def _points_to_draw(self, predictor: "Predictor") -> list[Complexity]:
        """The operating points of the pictures; refuses at once what could not be drawn in the end."""
        from supervit.pictures.dropped import check_traces, default_points

        if self.draw is None:
            if self.draw_points:
                raise InputError("draw_points are for pictures; name a folder for them: --draw FOLDER")
            return []
        check_plotting()
        check_traces(predictor.runtime)
        make_directory(self.draw)
        point = predictor.complexity
        answering = [point] if isinstance(point, Complexity) else point.ladder.rungs
        return parse_points(self.draw_points, default_points(predictor.config, answering))

    def _list_images(self) -> list[Path]:
        """The files, and those in the folders and below that have the name of an image, in alphabetical order."""
        from supervit.data import IMAGE_SUFFIXES, list_files, say_skipped

        found = []
        for path in self.images:
            if not path.is_dir():
                found.append(path)
                continue
            inside, others = list_files(path)
            say_skipped(path, others)
            if not inside:
                raise InputError(f"{str(path)!r} holds no images (*{', *'.join(IMAGE_SUFFIXES[:3])}, ...); name another folder")
            found += sorted(inside)
        if not found:
            raise InputError("no images; name at least one file or folder")
        return found
