"""Image data sets: one file is one source, found by its name.

A source file has one function `open_split(config, split)` that returns a `Source` (images by number) or a `Stream` (images
in an order of their own); both decode images and know their classes. What is done to the images is not theirs.
"""

from typing import TYPE_CHECKING

from supervit._lazy import lazy
from supervit.data._config import DataConfig, SourceConfig, Split
from supervit.data._reading import Reading
from supervit.options import MAX_PIXELS

if TYPE_CHECKING:
    from supervit.data._dataset import evaluation_transform, open_dataset
    from supervit.data._for_grid import read_for_grid
    from supervit.data._images import InMode, conversion
    from supervit.data._listing import list_files, say_skipped, split_folder
    from supervit.data._loader import EpochLoader, batches_of, draw_images
    from supervit.data._opening import (
        IMAGE_SUFFIXES,
        DamagedImage,
        check_size,
        decode,
        naming_damage,
        open_image,
        read_image,
        undecoded_jpeg,
    )
    from supervit.data._sources import ImageDataset, Source, Stream, is_stream, mix_seed, seed_everything
else:
    __getattr__, __dir__ = lazy(__name__, {
        "_dataset": ("evaluation_transform", "open_dataset"),
        "_for_grid": ("read_for_grid",),
        "_images": ("InMode", "conversion"),
        "_listing": ("list_files", "say_skipped", "split_folder"),
        "_loader": ("EpochLoader", "batches_of", "draw_images"),
        "_opening": (
            "IMAGE_SUFFIXES", "DamagedImage", "check_size", "decode", "naming_damage", "open_image", "read_image",
            "undecoded_jpeg",
        ),
        "_sources": ("ImageDataset", "Source", "Stream", "is_stream", "mix_seed", "seed_everything"),
    })  # fmt: skip

__all__ = [
    "IMAGE_SUFFIXES", "MAX_PIXELS", "DamagedImage", "DataConfig", "EpochLoader", "ImageDataset", "InMode", "Reading", "Source",
    "SourceConfig", "Split", "Stream", "batches_of", "check_size", "conversion", "decode", "draw_images",
    "evaluation_transform", "is_stream", "list_files", "mix_seed", "naming_damage", "open_dataset", "open_image",
    "read_for_grid", "read_image", "say_skipped", "seed_everything", "split_folder", "undecoded_jpeg",
]  # fmt: skip
