"""Image folders: ROOT/train/CLASS/* and ROOT/val/CLASS/*, of all files those with the name of an image (.jpg, .png, ...)."""

from pathlib import Path

from PIL import Image
from torchvision.datasets import DatasetFolder

from supervit.data import SourceConfig, Split, read_image
from supervit.data._class_list import read_class_list
from supervit.data._images import IMAGE_SUFFIXES
from supervit.errors import InputError


class _ListedImageFolder(DatasetFolder):
    """An image folder whose class indices come from a list instead of from the folders that happen to be there."""

    def __init__(self, root: Path, names: list[str], allow_missing: bool):
        self._names = names
        super().__init__(str(root), read_image, IMAGE_SUFFIXES, allow_empty=allow_missing)

    def find_classes(self, directory: str) -> tuple[list[str], dict[str, int]]:
        """The listed classes, whatever the directory holds."""
        return self._names, {name: index for index, name in enumerate(self._names)}

    def read(self, record: int) -> tuple[Image.Image, int]:
        """The decoded image and its class."""
        path, label = self.samples[record]
        return read_image(Path(path)), label

    def name_of(self, record: int) -> str:
        """The path below the split's folder: CLASS/FILE."""
        return str(Path(self.samples[record][0]).relative_to(self.root))


def open_split(config: SourceConfig, split: Split) -> _ListedImageFolder:
    """The images of ROOT/SPLIT.

    Class indices are those of `class_list`, else of the sorted folders of train/ (of val/ where there is no train/).

    Raises:
        InputError: no root; a folder missing, empty or not in the list; a class that only one split has.
    """
    config.refuse("repository", "download")
    root = config.folder("with train/CLASS/* and val/CLASS/*")
    folder = root / split
    found = _class_folders(folder)
    if config.class_list is not None:
        names = read_class_list(config.class_list)
    else:
        reference = root / "train"
        names = _class_folders(reference) if reference.is_dir() else found
        if missing := sorted(set(names) - set(found)):
            raise InputError(
                f"{str(folder)!r} lacks class folders that train/ has: {_some(missing)}; add them, or pass class_list"
            )
    if unknown := sorted(set(found) - set(names)):
        where = f"the list {str(config.class_list)!r}" if config.class_list else "train/"
        raise InputError(f"{str(folder)!r} has class folders that {where} lacks: {_some(unknown)}")
    try:
        dataset = _ListedImageFolder(folder, names, allow_missing=config.class_list is not None)
    except FileNotFoundError as error:
        raise InputError(
            f"{str(folder)!r}: {str(error).partition('. Supported')[0]}; add images or remove the folders"
        ) from error
    if not dataset.samples:
        raise InputError(f"{str(folder)!r} holds no images in its class folders")
    return dataset


def _class_folders(folder: Path) -> list[str]:
    if not folder.is_dir():
        raise InputError(f"no folder {str(folder)!r}; image_folder expects ROOT/train/CLASS/* and ROOT/val/CLASS/*")
    names = sorted(entry.name for entry in folder.iterdir() if entry.is_dir())
    if not names:
        raise InputError(f"{str(folder)!r} holds no class folders; image_folder expects one folder of images per class")
    return names


def _some(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
