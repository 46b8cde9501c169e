"""Image folders: ROOT/train/CLASS/* and ROOT/val/CLASS/*, of all files those with the name of an image (.jpg, .png, ...)."""

from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from supervit.data import Reading, SourceConfig, Split, read_image
from supervit.data._class_list import read_class_list
from supervit.data._listing import list_files, list_folders, say_skipped, split_folder
from supervit.errors import InputError


@dataclass(frozen=True)
class FolderImages:
    """The images of one split.

    Args:
        folder: Folder of the split.
        classes: Names of the classes, in index order.
        samples: Each image's path below the folder, and its class.
        reading: How they are read.
    """

    folder: Path
    classes: list[str]
    samples: list[tuple[str, int]]
    reading: Reading

    def __len__(self) -> int:
        return len(self.samples)

    def read(self, record: int) -> tuple[Image.Image, int]:
        """The decoded image and its class."""
        name, label = self.samples[record]
        return read_image(self.folder / name, self.reading), label

    def name_of(self, record: int) -> str:
        """The path below the split's folder: CLASS/FILE."""
        return self.samples[record][0]


def open_split(config: SourceConfig, split: Split) -> FolderImages:
    """The images of ROOT/SPLIT; hidden folders are no classes, and hidden files no images.

    Class indices are those of `class_list`, else of the sorted folders of train/ (of val/ where there is no train/).

    Raises:
        InputError: no root; a folder missing, empty or not in the list; a class that only one split has.
    """
    config.refuse("repository", "download", "image_member")
    root = config.folder("with train/CLASS/* and val/CLASS/*")
    folder = split_folder(root, split, "ROOT/train/CLASS/* and ROOT/val/CLASS/*")
    found = class_folders(folder)
    if config.class_list is not None:
        names = read_class_list(config.class_list)
    else:
        reference = root / "train"
        names = class_folders(reference) if reference.is_dir() else found
        if missing := sorted(set(names) - set(found)):
            raise InputError(
                f"{str(folder)!r} lacks class folders that train/ has: {_some(missing)}; add them, or pass class_list"
            )
    if unknown := sorted(set(found) - set(names)):
        where = f"the list {str(config.class_list)!r}" if config.class_list else "train/"
        raise InputError(f"{str(folder)!r} has class folders that {where} lacks: {_some(unknown)}")
    samples = class_images(folder, found, names)
    full = {label for _, label in samples}
    if config.class_list is None and (empty := [name for label, name in enumerate(names) if label not in full]):
        raise InputError(f"{str(folder)!r}: found no image for the classes {_some(empty)}; add images or remove the folders")
    return FolderImages(folder, names, samples, config.reading)


def class_images(folder: Path, found: list[str], names: list[str]) -> list[tuple[str, int]]:
    """The images of class folders, as paths below the folder of these, each with the index of its class.

    Args:
        folder: Of the split.
        found: Its class folders.
        names: Of all classes, in index order.

    Raises:
        InputError: there is none.
    """
    samples, skipped = [], []
    index_of = {name: index for index, name in enumerate(names)}
    for name in found:
        images, others = list_files(folder / name)
        samples += [(str(image.relative_to(folder)), index_of[name]) for image in images]
        skipped += others
    say_skipped(folder, skipped)
    if not samples:
        raise InputError(f"{str(folder)!r} holds no images in its class folders")
    return samples


def class_folders(folder: Path) -> list[str]:
    """The names of the class folders of a split, sorted.

    Raises:
        InputError: there are none.
    """
    names = list_folders(folder)
    if not names:
        raise InputError(f"{str(folder)!r} holds no class folders; image_folder expects one folder of images per class")
    return names


def _some(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
