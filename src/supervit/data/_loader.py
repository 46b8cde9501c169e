"""Batches: which images, in which order, on which process, with which random numbers.

All of it is a function of (seed, epoch, place in the epoch): order and augmentation depend neither on the epochs before nor on
the number of workers, so a run that goes on within an epoch starts at the right batch without loading those before it.
Of a stream each worker has a part of its own, so there the number of workers counts too.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import count, islice
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, default_collate, get_worker_info

from supervit.data._opening import DamagedImage
from supervit.data._signals import heed_parent_alone, signals_held
from supervit.data._sources import ImageDataset, Limited, is_stream, mix_seed
from supervit.distributed import World
from supervit.errors import InputError, naming_lost_workers, printable
from supervit.progress import track

Damage = dict[str, str]  # names of damaged images, and what is the matter with them
_Batch = Sequence[tuple[Any, int | None]]  # records, and the seeds of their augmentation (evaluation: None)
# A batch (None: all of it was damaged) and what was left out; or an error, handed over for this process to raise: one that a
# worker raises arrives as a traceback in words, and keeps PyTorch waiting seconds for that worker to end.
_Loaded = tuple[tuple[Any, ...] | None, Damage] | InputError


class EpochLoader:
    """Batches (images (B, C, S, S), class indices (B), ...) of a data set, or of this process's part of it.

    For training: shuffled, whole batches only, the same count on all processes (a data set smaller than one batch is one
    batch); a damaged image is replaced by another one of its batch. For evaluation: in order, each image once over all
    processes, the damaged ones left out. `damaged` says which these were.

    Args:
        dataset: From `open_dataset`.
        batch_size: Images per batch and process.
        workers: Processes that load, for each process that trains; 0 loads in that process.
        seed: Seed of order and augmentation; None for evaluation.
        repeats: How often an image is drawn in a row, augmented anew each time (repeated augmentation, Hoffer et al. 2020); an
            epoch then sees 1 / repeats of the images.
        world: This process among those that share the data.
        max_damaged: Share of the data set that may be damaged.
    """

    def __init__(
        self,
        dataset: ImageDataset,
        batch_size: int,
        workers: int,
        seed: int | None = None,
        repeats: int = 1,
        world: World | None = None,
        max_damaged: float = 0.0,
    ):
        self.dataset, self.batch_size, self.workers = dataset, batch_size, workers
        self.seed, self.repeats, self.max_damaged = seed, repeats, max_damaged
        self.world = world or World()
        self.damaged: Damage = {}
        if seed is not None and len(dataset) < self.world.size:
            raise InputError(f"{len(dataset)} training images cannot be shared by {self.world.size} processes; use fewer")
        if repeats > 1 and is_stream(dataset.source):
            raise InputError("repeated augmentation needs images in any order, a stream has one; set repeats to 1")

    def __len__(self) -> int:
        """Batches in an epoch of this process (evaluation of a stream: about, as its parts differ in length)."""
        images, size = len(self.dataset), self.world.size
        if self.seed is not None:
            return max(images // (self.batch_size * size), 1)
        return len(range(0, len(range(self.world.rank, images, size)), self.batch_size))

    def epoch(self, epoch: int = 0, first_batch: int = 0) -> Iterator[tuple[Any, ...]]:
        """The batches of one epoch, from `first_batch` on.

        Raises:
            InputError: more than `max_damaged` of the images are damaged, or all of a training batch; a transform fails; or a
                process that loads is lost.
        """
        parts: Any
        if is_stream(self.dataset.source):
            parts = {"dataset": _StreamedBatches(self, epoch, first_batch)}
        else:
            parts = {"dataset": _IndexedBatches(self.dataset), "sampler": self._batches(epoch, first_batch)}
        loader: DataLoader[_Loaded] = DataLoader(
            **parts,
            batch_size=None,
            num_workers=self.workers,
            pin_memory=torch.cuda.is_available(),
            worker_init_fn=heed_parent_alone,
        )
        with signals_held():  # which the workers are born with
            batches = iter(loader)
        is_shown = self.seed is None  # training has a bar of its own
        try:
            with naming_lost_workers():
                for loaded in track(batches, "images", len(self) - first_batch, "batch") if is_shown else batches:
                    if isinstance(loaded, InputError):
                        raise loaded
                    batch, damage = loaded
                    self.note(damage)
                    if batch is not None:
                        yield batch
        finally:  # the workers end now: an error keeps this frame, and they would be waited for when garbage is collected
            del batches

    def _batches(self, epoch: int, first_batch: int) -> Iterator[_Batch]:
        """The (image, seed of its augmentation) of each batch of this process."""
        images, rank, size = len(self.dataset), self.world.rank, self.world.size
        if self.seed is None:
            mine = range(rank, images, size)
            for at in range(first_batch * self.batch_size, len(mine), self.batch_size):
                yield [(image, None) for image in mine[at : at + self.batch_size]]
            return
        shuffled = torch.randperm(images, generator=torch.Generator().manual_seed(mix_seed(self.seed, epoch)))
        order = shuffled.repeat_interleave(self.repeats)[:images].tolist()
        together = min(self.batch_size * size, images // size * size)
        for batch in range(first_batch, len(self)):
            places = range(batch * together, (batch + 1) * together)[rank::size]
            yield [(order[place], mix_seed(self.seed, epoch, place)) for place in places]

    def note(self, damage: Damage) -> None:
        """Count damaged images, also those that other processes have found.

        Raises:
            InputError: they are more than `max_damaged` of the data set.
        """
        self.damaged |= damage
        if len(self.damaged) > self.max_damaged * len(self.dataset):
            some = "; ".join(f"{name!r} ({reason})" for name, reason in list(self.damaged.items())[:3])
            raise InputError(
                f"{len(self.damaged)} of {len(self.dataset)} images cannot be read, more than max_damaged = "
                f"{self.max_damaged:g} allows: {some}{', ...' if len(self.damaged) > 3 else ''}; "
                "replace them or raise max_damaged"
            )


class _IndexedBatches:
    """A data set whose keys are batches: lists of (image, seed)."""

    def __init__(self, dataset: ImageDataset):
        self.dataset = dataset

    def __getitem__(self, batch: _Batch) -> _Loaded:
        try:
            return _load(self.dataset, batch)
        except InputError as error:
            return error


class _StreamedBatches(IterableDataset[_Loaded]):
    """The batches of a stream, whose parts are shared out over processes and their workers.

    A worker that reaches the end of its part starts over in another order, so that every process has as many batches.
    """

    def __init__(self, loader: EpochLoader, epoch: int, first_batch: int):
        self.dataset, self.batch_size, self.count = loader.dataset, loader.batch_size, len(loader)
        self.world, self.seed, self.epoch, self.first_batch = loader.world, loader.seed, epoch, first_batch

    def __iter__(self) -> Iterator[_Loaded]:
        try:
            yield from self._batches()
        except InputError as error:
            yield error

    def _batches(self) -> Iterator[_Loaded]:
        info = get_worker_info()
        worker, workers = (info.id, info.num_workers) if info else (0, 1)
        lane = (worker + self.first_batch) % workers  # batches go round the workers: who is first now was not at the start
        part, parts = self.world.rank * workers + lane, self.world.size * workers
        source: Any = self.dataset.source
        if self.seed is None:
            records = ((record, None) for record in source.records(part, parts))
            while batch := list(islice(records, self.batch_size)):
                yield _load(self.dataset, batch)
            return
        done = len(range(lane, self.first_batch, workers))
        left = len(range(lane, self.count, workers)) - done
        endless = self._endless(part, parts, self.seed)
        for _ in range(done * self.batch_size):  # read past, but neither decoded nor augmented
            next(endless)
        for place in range(done, done + left):
            seeds = (mix_seed(self.seed, self.epoch, part, place, i) for i in range(self.batch_size))
            yield _load(self.dataset, [(next(endless), seed) for seed in seeds])

    def _endless(self, part: int, parts: int, seed: int) -> Iterator[Any]:
        source: Any = self.dataset.source
        for turn in count():
            is_empty = True
            # One seed for all parts: they are dealt from one shuffled whole.
            for record in source.records(part, parts, mix_seed(seed, self.epoch, turn)):
                is_empty = False
                yield record
            if is_empty:
                raise InputError(
                    f"no shard is left for part {part + 1} of {parts} of the training stream: each of the {self.world.size} "
                    f"processes x {parts // self.world.size} workers needs one; set workers lower or write more, smaller shards"
                )


def _load(dataset: ImageDataset, batch: _Batch) -> _Loaded:
    """Load and collate; what is damaged is left out in evaluation, else replaced by another image of the batch."""
    damage: Damage = {}
    good, samples, lost = [], [], []
    for record, seed in batch:
        try:
            samples.append(dataset.load(record, seed))
            good.append(record)
        except DamagedImage as error:
            damage[printable(dataset.source.name_of(record))] = str(error)
            lost.append(seed)
    is_training = batch[0][1] is not None
    if not good:
        if is_training:
            name, reason = next(iter(damage.items()))
            raise InputError(f"every image of a batch is damaged, such as {name!r} ({reason}); check the data")
        return None, damage
    if is_training:
        samples += [dataset.load(good[i % len(good)], seed) for i, seed in enumerate(lost)]
    return default_collate(samples), damage


def batches_of(loader: EpochLoader, images: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches (images (B, C, S, S), class indices (B)) of some images of a data set for evaluation, in order.

    Args:
        loader: Of the data set; notes the damaged ones, which are left out.
        images: Their indices (N), ascending. A stream is read as a whole, and its damaged images have none.

    Raises:
        InputError: as `EpochLoader.epoch`.
    """
    dataset = loader.dataset
    if not is_stream(dataset.source):
        part = replace(dataset, source=Limited(dataset.source, images.tolist()))
        reading = EpochLoader(part, loader.batch_size, loader.workers, max_damaged=1.0)
        yield from (batch[:2] for batch in reading.epoch())
        loader.note(reading.damaged)
        return
    first = 0
    for batch in loader.epoch():
        here = images[(images >= first) & (images < first + len(batch[1]))] - first
        first += len(batch[1])
        if len(here):
            yield batch[0][here], batch[1][here]


def draw_images(loader: EpochLoader, count: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Some images (N, C, S, S) of a data set in memory, and their class indices (N).

    Args:
        loader: Of the data set; loads them, and notes the damaged ones, which are left out.
        count: How many; fewer where there are not so many, or some are damaged.
        seed: Seed of the draw; of a stream the first images are taken.

    Raises:
        InputError: count under 1, no images, or as `EpochLoader.epoch`.
    """
    if count < 1:
        raise InputError(f"{count} images cannot be drawn; draw at least 1")
    dataset = loader.dataset
    if not is_stream(dataset.source):
        order = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(seed))[:count]
        dataset = replace(dataset, source=Limited(dataset.source, order.tolist()))
    drawing = EpochLoader(dataset, loader.batch_size, loader.workers, max_damaged=loader.max_damaged)
    images, labels, seen = [], [], 0
    for batch in drawing.epoch():
        images.append(batch[0])
        labels.append(batch[1])
        seen += len(batch[1])
        if seen >= count:
            break
    loader.damaged |= drawing.damaged
    if not seen:
        raise InputError(f"none of {len(dataset)} images can be drawn; give a data set with images")
    return torch.cat(images)[:count], torch.cat(labels)[:count]
