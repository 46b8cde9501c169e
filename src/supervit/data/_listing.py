"""Which files of a folder are images: one list for training, evaluation, prediction and labelling."""

import logging
import os
from collections import Counter
from pathlib import Path

from supervit.data._opening import IMAGE_SUFFIXES
from supervit.errors import InputError, printable

_log = logging.getLogger("supervit")
_SPLIT_NAMES = ("train", "val", "validation", "valid", "test", "testing")
_MOST_SEARCHED = 100  # folders
_LAYOUT = "The root holds train/CLASS/* and val/CLASS/*"
_CONVERT = "pictures of other formats (HEIC, raw, ...) must be converted to JPEG or PNG"
_FOREIGN = "__MACOSX"  # what an archiver put beside the files


def is_hidden(name: str) -> bool:
    """Whether a file or folder of this name is none of the user's: `.ipynb_checkpoints`, `._cat.jpg`, `__MACOSX`."""
    return name.startswith(".") or name == _FOREIGN


def list_folders(folder: Path) -> list[str]:
    """The names of the folders in a folder, sorted, without hidden ones.

    Raises:
        InputError: there is no such folder.
    """
    if not folder.is_dir():
        raise InputError(f"no folder {str(folder)!r}; name one that is there")
    return sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not is_hidden(entry.name))


def split_folder(root: Path, split: str, layout: str) -> Path:
    """ROOT/SPLIT.

    Raises:
        InputError: there is no such folder; names the root that was probably meant, or the folder that is probably the split.
    """
    folder = root / split
    if folder.is_dir():
        return folder
    raise InputError(f"no folder {str(folder)!r}; {_probable(root, split) or f'expected {layout}'}")


def _probable(root: Path, split: str) -> str | None:
    """What is probably the matter with a root that lacks a split."""
    if not root.is_dir():
        return None
    folders = list_folders(root)
    inside = [root / name for name in folders[:_MOST_SEARCHED]]
    place = root.absolute()
    for above, below in ((place.parent, place), (place.parent.parent, place.parent)):
        if below.name in _SPLIT_NAMES and (above / split).is_dir():
            shown = above if root.is_absolute() else Path(os.path.relpath(above))
            return f"did you mean {str(shown)!r}? {_LAYOUT}"
    if found := next((folder for folder in inside if (folder / split).is_dir()), None):
        return f"did you mean {str(found)!r}? {_LAYOUT}"
    if found := next((folder for folder in inside if split == "val" and folder.name.lower() in _SPLIT_NAMES[2:]), None):
        return f"rename {str(found)!r} to val, or take some images of each class there from train/"
    if folders and not {*_SPLIT_NAMES} & {*folders}:
        some = ", ".join(folders[:3])
        return f"it has the folders {some}, ...: put most of the images of each below train/, the others below val/"
    return None


def list_files(folder: Path) -> tuple[list[Path], list[Path]]:
    """The images in a folder and below, by their suffix, and the files that are none; sorted within each folder.

    Hidden files and folders are in neither list; links to folders are followed, unless they lead to where they lie.
    """
    images: list[Path] = []
    others: list[Path] = []
    # The order of torchvision's ImageFolder: which image a number stands for decides what a run trains on.
    for place, names in sorted(_walk(folder)):
        for name in sorted(names):
            path = Path(place, name)
            (images if path.suffix.lower() in IMAGE_SUFFIXES else others).append(path)
    return images, others


def _walk(folder: Path) -> list[tuple[str, list[str]]]:
    """The folders from here down, each with its files; a link that leads back to a folder above is not followed."""
    found: list[tuple[str, list[str]]] = []
    waiting: list[tuple[Path, frozenset[Path]]] = [(folder, frozenset())]
    while waiting:
        place, above = waiting.pop()
        if (real := place.resolve()) in above:
            continue
        entries = [entry for entry in os.scandir(place) if not is_hidden(entry.name)]
        found.append((str(place), [entry.name for entry in entries if not entry.is_dir()]))
        waiting += [(Path(entry.path), above | {real}) for entry in entries if entry.is_dir()]
    return found


def say_skipped(where: Path, skipped: list[Path]) -> None:
    """Say, in one line of the log, how many files of a folder are left aside as they do not have the name of an image."""
    if not skipped:
        return
    counts = Counter(path.suffix.lower() or "no suffix" for path in skipped)
    kinds = ", ".join(f"{count} {suffix}" for suffix, count in counts.most_common(5))
    _log.warning(
        printable(
            f"skipped {len(skipped)} files in {str(where)!r} that are not named as images are ({kinds}"
            f"{', ...' if len(counts) > 5 else ''}), such as {str(skipped[0].relative_to(where))!r}; "
            f"images are *{', *'.join(IMAGE_SUFFIXES)}; {_CONVERT}"
        )
    )
