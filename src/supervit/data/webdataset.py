"""Shards in WebDataset's format: tar files of samples (KEY.jpg, KEY.cls), read from front to back.

ROOT/train/*.tar and ROOT/val/*.tar, or ROOT/train-*.tar and ROOT/val-*.tar; the class names, in index order, in
ROOT/classes.txt. How many samples each shard holds may stand beside the shards in sizes.json ({"SHARD.tar": 1000}, as
open_clip has it); without it the headers of all shards are walked once.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from types import ModuleType
from typing import Any

from PIL import Image

from supervit.data import IMAGE_SUFFIXES, DamagedImage, Reading, SourceConfig, Split, mix_seed, read_image
from supervit.data._class_list import read_class_list
from supervit.data._tar import Member, members, read_member
from supervit.errors import InputError, printable
from supervit.files import read_object, refusing

_BUFFER = 1000  # undecoded samples that wait to be drawn, per worker: about 100 MB of ImageNet
_MOST_SAMPLES = 2**40  # in a shard: more than any disk holds

Sample = dict[str, Any]  # as webdataset has it: __key__, __url__, and by suffix the bytes of each member (None: of no use)


@dataclass(frozen=True)
class TarShards:
    """The shards of one split.

    Args:
        shards: Their files.
        samples: Samples in all of them.
        classes: Names of the classes, in index order.
        reading: How the images are read.
        image_member: Suffix of the members that are the images; None: the only image of each sample.
    """

    shards: list[Path]
    samples: int
    classes: list[str]
    reading: Reading
    image_member: str | None = None

    def __len__(self) -> int:
        return self.samples

    def records(self, part: int, parts: int, seed: int | None = None) -> Iterator[Sample]:
        """The samples of every `parts`-th shard; with a seed, shards are shuffled, then samples in a buffer of 1,000.

        Raises:
            InputError: a shard is damaged.
        """
        if seed is None:
            return self._samples(self.shards[part::parts])
        shards = random.Random(seed).sample(self.shards, len(self.shards))[part::parts]
        # A buffer that is full before the first draw mixes the first batches as well as the later ones.
        shuffle = _import_webdataset().shuffle(_BUFFER, initial=_BUFFER, rng=random.Random(mix_seed(seed, part)))
        return iter(shuffle(self._samples(shards)))

    def read(self, record: Sample) -> tuple[Image.Image, int]:
        """The decoded image and the class of a sample.

        Raises:
            DamagedImage: no image or no class in the sample, or unreadable.
            InputError: several images in the sample, or a class index that has no name.
        """
        image = record.get(self._image_suffix(record))
        if image is None:
            raise DamagedImage(f"no image among its members ({', '.join(s for s in record if not s.startswith('__'))})")
        try:
            label = int(record.get("cls", b"")[:20])
        except ValueError as error:
            raise DamagedImage(f"no class index in .cls: {record.get('cls')!r}") from error
        if not 0 <= label < len(self.classes):
            raise InputError(
                f"{self.name_of(record)!r} is of class {label}, but {len(self.classes)} classes are listed; complete the list"
            )
        return read_image(image, self.reading), label

    def _image_suffix(self, record: Sample) -> str:
        if self.image_member is not None:
            return self.image_member
        found = [suffix for suffix in record if f".{suffix}" in IMAGE_SUFFIXES]
        if len(found) > 1:
            raise InputError(
                f"{self.name_of(record)!r} has several images ({', '.join(found)}); name the one that is the picture with "
                f"--data.image-member {found[-1]}"
            )
        return found[0] if found else ""

    def _samples(self, shards: list[Path]) -> Iterator[Sample]:
        """The samples of these shards, with the contents of what may be an image or a class.

        Raises:
            InputError: a shard is damaged, or has a member twice.
        """
        for shard in shards:
            for key, group in groupby(_keyed(shard), key=lambda keyed: keyed[0]):
                sample: Sample = {"__key__": key, "__url__": str(shard)}
                for _, suffix, member in group:
                    if suffix in sample:
                        raise InputError(
                            f"cannot read the shard {str(shard)!r} ({member.name!r} is there twice); write it anew"
                        )
                    is_read = f".{suffix}" in IMAGE_SUFFIXES or suffix in ("cls", self.image_member)
                    sample[suffix] = read_member(shard, member) if is_read else None
                yield sample

    def name_of(self, record: Sample) -> str:
        """The shard and key of a sample: SHARD.tar/KEY."""
        return f"{Path(record['__url__']).name}/{record['__key__']}"


def open_split(config: SourceConfig, split: Split) -> TarShards:
    """The shards of a split, counted.

    Class names are those of `class_list`, else of ROOT/classes.txt.

    Raises:
        InputError: no root, no shards, no class names, a damaged shard or sizes.json; or no webdataset.
    """
    config.refuse("repository", "download")
    root = config.folder("with train/*.tar and val/*.tar, or train-*.tar and val-*.tar")
    _import_webdataset()
    shards = sorted((root / split).glob("*.tar")) or sorted(root.glob(f"{split}-*.tar"))
    if not shards:
        raise InputError(f"no shards {split}/*.tar nor {split}-*.tar in {str(root)!r}; put them there")
    classes = read_class_list(config.class_list or root / "classes.txt")
    member = config.image_member and config.image_member.lower().lstrip(".")
    return TarShards([shard.absolute() for shard in shards], sum(_sizes(shards)), classes, config.reading, member)


def _import_webdataset() -> ModuleType:
    try:
        import webdataset
    except ImportError as error:
        raise InputError("shards need the package webdataset; pip install 'supervit[webdataset]'") from error
    return webdataset


def _keyed(shard: Path) -> Iterator[tuple[str, str, Member]]:
    """The members of a shard with their key and suffix, as webdataset splits names; without its own notes (__NAME__)."""
    split_name = _import_webdataset().tariterators.base_plus_ext
    for member in members(shard):
        key, suffix = split_name(member.name)
        if key and not key.startswith("__"):
            yield key, suffix.lower(), member


def _sizes(shards: list[Path]) -> list[int]:
    sidecar = shards[0].parent / "sizes.json"
    if not sidecar.is_file():
        return [_count(shard) for shard in shards]
    what = f"{str(sidecar)!r} must give the samples of each shard, such as {{'{shards[0].name}': 1000}}"
    with refusing(what, "correct it or remove it"):
        sizes = read_object(sidecar)
        if missing := [shard.name for shard in shards if shard.name not in sizes]:
            raise InputError(f"it lacks {missing[0]}")
        return [_checked_size(shard.name, sizes[shard.name]) for shard in shards]


def _checked_size(name: str, size: Any) -> int:
    if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size <= _MOST_SAMPLES:
        raise InputError(f"{name} has {printable(repr(size), 40)}, which is no number of samples")
    return size


def _count(shard: Path) -> int:
    """The samples of a shard, which are runs of members with one key; reads headers alone."""
    return sum(1 for _ in groupby(_keyed(shard), key=lambda keyed: keyed[0]))
