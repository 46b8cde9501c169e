"""Where images come from: options alone, no PyTorch."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from supervit.data._reading import Reading
from supervit.errors import InputError
from supervit.files import check_name
from supervit.options import MAX_PIXELS, MOST_WORKERS

Split = Literal["train", "val"]


@dataclass(frozen=True)
class SourceConfig:
    """Where images come from and how they are batched."""

    name: str = "image_folder"
    """Source: the name of a file in `supervit/data`, such as image_folder or digits."""
    root: Path | None = None
    """Folder of the data, where the source needs one (image_folder: with train/CLASS/* and val/CLASS/*)."""
    repository: str | None = None
    """Name of a data set on the Hugging Face hub, such as uoft-cs/cifar10 (source hugging_face, instead of `root`)."""
    class_list: Path | None = None
    """Text file with one class name per line in index order; image_folder: class folders, of which some may then be missing
    (default: sorted folders); webdataset: default ROOT/classes.txt."""
    download: bool = False
    """Fetch the data set into `root` if it is not there (cifar10, cifar100, fashion_mnist)."""
    batch_size: int = 256
    """Images per step and process (the global batch is this times the number of processes)."""
    workers: int = 2
    """Processes that load images, for each process that trains; 0 loads in that process."""
    max_damaged: float = 0.01
    """Share of the images that may be unreadable: up to it they are skipped, counted and named, beyond it the work stops."""

    image_member: str | None = None
    """Suffix of the members that are the images, such as jpg, where samples have several (webdataset)."""
    max_pixels: int = MAX_PIXELS
    """Most pixels of an image, checked before it is decoded; larger ones count as damaged. JPEGs are decoded smaller instead,
    and pixels of formats that take more memory count more often: WebP twice, JPEG 2000 three times, TIFF and AVIF 1.5 times."""
    exif_orientation: bool = True
    """Turn pictures as their EXIF data say."""

    def __post_init__(self) -> None:
        Reading(self.max_pixels)
        if self.batch_size < 1 or not 0 <= self.workers <= MOST_WORKERS:
            raise InputError(
                f"batch_size {self.batch_size} must be at least 1 and workers {self.workers} at least 0, at most {MOST_WORKERS}"
            )
        if not 0 <= self.max_damaged <= 1:
            raise InputError(f"max_damaged {self.max_damaged} is not in [0, 1]")

    @property
    def reading(self) -> Reading:
        """How the images are read."""
        return Reading(self.max_pixels, self.exif_orientation)

    @property
    def place(self) -> str:
        """What results say that they are of: the folder, or without one the name of the source."""
        return str(self.root or self.name)

    def folder(self, layout: str) -> Path:
        """The folder of the data, for sources that need one.

        Raises:
            InputError: none is given; says what it must hold (`layout`). Or no folder can have this name.
        """
        if self.root is None:
            raise InputError(f"{self.name} needs the folder of the data, --data.root ({layout})")
        return check_name(self.root)

    def refuse(self, *options: str) -> None:
        """Check that these options, for which a source has no use, are not set.

        Raises:
            InputError: one of them is.
        """
        for option in options:
            if value := getattr(self, option):
                raise InputError(f"{self.name} has no use for {option}={str(value)!r}; leave {option} out")


@dataclass(frozen=True)
class DataConfig(SourceConfig):
    """A source and its augmentation in training."""

    scale: tuple[float, float] = (0.08, 1.0)
    """Training: area of the random crop, as a share of the image."""
    ratio: tuple[float, float] = (0.75, 1.3333)
    """Training: aspect ratio of the random crop."""
    hflip: float = 0.5
    """Training: probability of a horizontal flip."""
    auto_augment: str | None = "rand-m9-mstd0.5-inc1"
    """Training: timm's augmentation policy, or None."""
    random_erasing: float = 0.25
    """Training: probability of erasing a box (per pixel noise)."""
    train_interpolation: Literal["random", "nearest", "bilinear", "bicubic"] | None = None
    """Training: how crops are resized (random: bilinear or bicubic); default: as in evaluation."""
    repeats: int = 1
    """Training: how often an image is drawn in a row, augmented anew each time; an epoch sees 1 / repeats of the images."""
    mixup: float = 0.0
    """Training: alpha of mixup, 0 for none."""
    cutmix: float = 0.0
    """Training: alpha of cutmix, 0 for none."""
    mix_prob: float = 1.0
    """Training: probability that a batch is mixed."""
    mix_switch_prob: float = 0.5
    """Training: probability of cutmix where both are on."""
    token_labels: Path | None = None
    """Training: folder of label maps (CLASS/FILE.pt; published, or made by `supervit label`), for LV-ViT."""
    mix_token: float = 0.0
    """Training: alpha of MixToken (LV-ViT: 1.0), which exchanges boxes of patch tokens; 0 for none."""
    limit: int | None = None
    """Training: use this many images, drawn once and for all; default: all."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.repeats < 1:
            raise InputError(f"repeats {self.repeats} must be at least 1")
        for name in ("hflip", "random_erasing", "mix_prob", "mix_switch_prob"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"{name} {getattr(self, name)} is not in [0, 1]")
        for name in ("mixup", "cutmix", "mix_token"):
            if not getattr(self, name) >= 0:
                raise InputError(f"{name} {getattr(self, name)} must be at least 0")
        if self.mixes and (self.mix_token or self.token_labels):
            raise InputError("mixup and cutmix mix pixels, which token labels and MixToken cannot follow; set both to 0")
        if self.mixes and self.batch_size % 2:
            raise InputError(f"batch_size {self.batch_size} is odd; mixup and cutmix pair the images, use an even one")

    @property
    def mixes(self) -> bool:
        """Whether batches are mixed (mixup, cutmix)."""
        return self.mixup > 0 or self.cutmix > 0
