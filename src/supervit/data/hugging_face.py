"""Data sets in the format of Hugging Face's `datasets`: a folder on disk, or a repository of the hub."""

from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from PIL import Image

from supervit.data import DamagedImage, Reading, SourceConfig, Split, naming_damage, read_image
from supervit.errors import InputError, reason_of
from supervit.files import check_regular, read_object, refusing

_SPLITS = {"train": ("train",), "val": ("validation", "val", "valid", "test")}  # the first that is there


@dataclass(frozen=True)
class HuggingFaceImages:
    """The rows of one split.

    Args:
        rows: A `datasets.Dataset`.
        image: Its column of undecoded images.
        label: Its column of class indices.
        classes: Names of the classes, in index order.
        reading: How the images are read.
    """

    rows: Any
    image: str
    label: str
    classes: list[str]
    reading: Reading

    def __len__(self) -> int:
        return len(self.rows)

    def read(self, record: int) -> tuple[Image.Image, int]:
        """The decoded image and its class."""
        with naming_damage():
            row = self.rows[record]
        image, label = row[self.image] or {}, row[self.label]
        if label is None or not 0 <= label < len(self.classes):
            raise DamagedImage(f"{self.label} is {label}")
        if image.get("bytes") is not None:
            return read_image(image["bytes"], self.reading), label
        if image.get("path") is not None:
            return read_image(Path(image["path"]), self.reading), label
        raise DamagedImage(f"{self.image} is empty")

    def name_of(self, record: int) -> str:
        """The number of the row in its split."""
        return f"row {record}"


def open_split(config: SourceConfig, split: Split) -> HuggingFaceImages:
    """The rows of a split; the held-out ones are those of the first split called validation, val, valid or test.

    Args:
        config: `root` is a folder that `save_to_disk` wrote or that `load_dataset` reads, or `repository` a name on the hub.
        split: Which one.

    Raises:
        InputError: neither root nor repository, or both; no such data or split; not one column of images and one of classes.
    """
    config.refuse("class_list", "download", "image_member")
    if (config.root is None) == (config.repository is None):
        raise InputError("hugging_face needs either the folder of the data, --data.root, or their name, --data.repository")
    datasets = _import_datasets()
    where = str(config.root or config.repository)
    try:
        splits = datasets.load_dataset(where) if config.root is None else _load_folder(datasets, config.root)
        if isinstance(splits, datasets.Dataset):
            splits = {str(splits.split): splits}
        found = next((name for name in _SPLITS[split] if name in splits), None)
        if found is None:
            raise InputError(f"{where!r} has the splits {', '.join(splits)}; {split} needs {' or '.join(_SPLITS[split])}")
        return _as_source(datasets, splits[found], where, config.reading)
    except InputError:
        raise
    except Exception as error:  # what is damaged is answered by datasets and what lies below it with nearly any error
        raise InputError(f"cannot load {where!r} ({reason_of(error)}); check the name, the files and the network") from error


def _as_source(datasets: ModuleType, rows: Any, where: str, reading: Reading) -> HuggingFaceImages:
    image, label = (_only_column(rows, kind, where) for kind in (datasets.Image, datasets.ClassLabel))
    # Undecoded, so that a damaged image is noticed by our reader; without a format that was saved along with the rows.
    rows = rows.select_columns([image, label]).with_format(None).cast_column(image, datasets.Image(decode=False))
    rows.data.table.validate(full=True)  # offsets of a damaged file would point to anywhere
    return HuggingFaceImages(rows, image, label, [str(name) for name in rows.features[label].names], reading)


def _import_datasets() -> ModuleType:
    try:
        import datasets
    except ImportError as error:
        raise InputError("hugging_face needs the package datasets; pip install 'supervit[hugging-face]'") from error
    return datasets


def _load_folder(datasets: ModuleType, root: Path) -> Any:
    if not root.is_dir():  # load_dataset would look for it on the hub
        raise InputError(f"no folder {str(root)!r}; hugging_face expects what save_to_disk wrote or load_dataset reads")
    with refusing(f"the data set {str(root)!r} is damaged", "write it anew"):
        for path in root.rglob("*"):
            if not path.is_dir():
                check_regular(path)
    config = datasets.config
    names = (config.DATASETDICT_JSON_FILENAME, config.DATASET_STATE_JSON_FILENAME)
    for path in sorted(root.glob("*.json")) + sorted(root.glob("*/*.json")):
        if path.name in (*names, config.DATASET_INFO_FILENAME):
            with refusing(f"{str(path)!r} is damaged", "write the data set anew with save_to_disk"):
                read_object(path)
    is_saved = any((root / name).is_file() for name in names)
    return datasets.load_from_disk(str(root)) if is_saved else datasets.load_dataset(str(root))


def _only_column(rows: Any, kind: type, where: str) -> str:
    found = [name for name, feature in rows.features.items() if isinstance(feature, kind)]
    if len(found) != 1:
        columns = ", ".join(f"{name}: {feature}" for name, feature in rows.features.items())
        raise InputError(
            f"{where!r} must have one column of type {kind.__name__}, not {len(found)} (columns: {columns}); "
            "remove or cast columns with datasets and save the result with save_to_disk"
        )
    return found[0]
