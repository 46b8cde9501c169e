"""What can be chosen by name, and other options: apart from what they choose, so that help needs no PyTorch."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from supervit.errors import InputError

Precision = Literal["float32", "bfloat16", "int8"]
Teacher = Literal["own_grid", "larger_grid", "labels"]
Confidence = Literal["probability", "margin", "entropy"]
Answering = Literal["last", "mean"]

MAX_PIXELS = 50_000_000  # of an image that is decoded
MOST_WORKERS = 512  # processes: more are a slip of the finger, and can stop a machine
SAFETY = 1.0  # standard errors that a chosen cascade must be above a target accuracy


@dataclass(frozen=True)
class LabelConfig:
    """Which images to label, by which teacher, and how."""

    root: Path
    """Folder of the data, with SPLIT/CLASS/* inside."""
    out: Path
    """Folder for the label maps: OUT/CLASS/*.pt, one for each image; those that are there already are kept."""
    teacher: str
    """Name of a timm model that has been trained on the same classes in the same order."""
    checkpoint: Path | None = None
    """Weights of the teacher, with timm's names; default: timm's own, fetched from the Hugging Face hub."""
    split: str = "train"
    """Split to label: the folder below the root."""
    num_classes: int | None = None
    """Classes of the data; default: as many as the split has folders."""
    size: int = 18
    """Largest side of a label map in places: finer maps are averaged down to it, coarser ones kept (published: 18)."""
    top_k: int = 5
    """Classes kept at each place, the best ones; all where there are fewer (published: 5)."""
    batch_size: int = 64
    """Images per step."""
    workers: int = 2
    """Processes that load images; 0 loads in the main process."""
    device: str = "auto"
    """Where the teacher runs: auto (the GPU if there is one), cpu or cuda."""
    max_pixels: int = MAX_PIXELS
    """Most pixels of an image; larger ones are not read, JPEGs smaller."""
    exif_orientation: bool = True
    """Turn pictures as their EXIF data say; to be the same in training."""

    def __post_init__(self) -> None:
        for name, least in (("size", 1), ("top_k", 1), ("batch_size", 1), ("workers", 0), ("max_pixels", 1)):
            if getattr(self, name) < least:
                raise InputError(f"{name} {getattr(self, name)} must be at least {least}")
        if self.workers > MOST_WORKERS:
            raise InputError(f"workers {self.workers} must be at most {MOST_WORKERS}")
