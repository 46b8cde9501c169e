"""What a run starts with: its data, and a model that is fresh or made of given weights."""

import dataclasses
from dataclasses import dataclass

from supervit.checkpoints import is_ours, load
from supervit.config import SuperViTConfig
from supervit.data import ImageDataset, open_dataset, seed_everything
from supervit.distributed import World
from supervit.errors import InputError
from supervit.model import SuperViT
from supervit.progress import progress_bar
from supervit.train.config import TrainConfig

_MOST_POINTS = 16  # that are named


@dataclass(frozen=True)
class Start:
    """What a run starts with."""

    model: SuperViT
    """On the CPU; knows its classes."""
    init: str | None
    """Fingerprint of the weights that it was made of; None: fresh."""
    train_set: ImageDataset
    val_set: ImageDataset
    replaced_classes: int | None = None
    """Classes of the classifier that a new one has replaced, if any."""

    def describe(self, config: TrainConfig, steps_per_epoch: int, processes: int) -> str:
        """What is trained on what, in two lines for people."""
        model, points, epochs = self.model.config, list(map(str, config.points)), config.all_epochs
        weights = "fresh weights" if config.init is None else f"weights of {config.init!r}"
        if self.replaced_classes is not None:
            weights += f", its classifier ({self.replaced_classes} classes) replaced by a new one for the data's classes"
        millions = sum(parameter.numel() for parameter in self.model.parameters()) / 1e6
        return (
            f"{len(self.train_set):,} training and {len(self.val_set):,} validation images of {model.num_classes:,} classes; "
            f"{epochs:,} epochs of {steps_per_epoch:,} steps of {config.data.batch_size * processes:,} images: "
            f"{epochs * steps_per_epoch:,} steps\n"
            f"{model.family} of width {model.embed_dim} and {model.depth} blocks, {millions:.1f} million parameters, {weights}"
            f"; {len(points)} operating points: {' '.join(points[:_MOST_POINTS])}{' ...' if len(points) > _MOST_POINTS else ''}"
        )


def make_start(config: TrainConfig, world: World) -> Start:
    """Open the data, then load or draw the weights.

    Raises:
        InputError: the config, the data or the weights cannot be used.
    """
    data = config.data
    with progress_bar("open weights and data", 3, "part") as advance:
        loaded = load_start(config.init, config.model) if config.init is not None else None
        init = loaded.fingerprint() if loaded is not None else None
        model_config = config.model if loaded is None else loaded.config
        advance(1)
        if data.download:  # one process fetches, the others find it there
            if world.is_main:
                open_dataset(data, "val", model_config)
            world.gather(None)
        train_set = open_dataset(data, "train", model_config, augmentation=data)
        advance(1)
        val_set = open_dataset(data, "val", model_config)
        advance(1)
    seed_everything("weights", config.seed)
    replaced = None
    if loaded is None:
        loaded = SuperViT(with_classes(config.model, train_set.classes))
    else:
        replaced = give_classes(loaded, train_set.classes)
    if data.token_labels is not None and not loaded.config.dense_head:
        raise InputError("token labels teach patch tokens, for which this model has no classifier; use an LV-ViT")
    return Start(loaded, init, train_set, val_set, replaced)


def load_start(source: str, wanted: SuperViTConfig) -> SuperViT:
    """The model that given weights make, with the fields of `wanted` that differ from their defaults.

    Names of classes that other libraries write are not those of the data's folders, so they are left out: the classifier
    stays where the count fits.

    Raises:
        InputError: no weights are named, or as `supervit.load`.
    """
    if not source:
        raise InputError(
            "this recipe starts from pretrained weights; name them with --init: a file or directory that supervit.load takes "
            "(from scratch: the recipe image_folder)"
        )
    defaults = type(wanted)(in_chans=wanted.in_chans)
    given = {field.name: getattr(wanted, field.name) for field in dataclasses.fields(wanted)}
    given = {name: value for name, value in given.items() if name not in ("family", "num_classes", "class_names")}
    changed = {name: value for name, value in given.items() if value != getattr(defaults, name)}
    if wanted.in_chans != type(wanted)().in_chans:
        changed["in_chans"] = wanted.in_chans
    return load(source, **changed, **({} if is_ours(source) else {"class_names": ()}))


def with_classes(model: SuperViTConfig, classes: list[str]) -> SuperViTConfig:
    """The config of a fresh model for these classes.

    Raises:
        InputError: the config asks for another class count.
    """
    if model.num_classes not in (0, len(classes)):
        raise InputError(f"num_classes {model.num_classes}, but the data have {len(classes)} classes; leave num_classes at 0")
    return model.replace(num_classes=len(classes)).replace(class_names=tuple(classes))


def give_classes(model: SuperViT, classes: list[str]) -> int | None:
    """Name a loaded model's classes; a classifier for others is replaced by a fresh one: how many classes it had."""
    before = model.num_classes
    is_other = before != len(classes) or (model.config.class_names and model.config.class_names != tuple(classes))
    if is_other:
        model.reset_classifier(len(classes))
    model.config = model.config.replace(class_names=tuple(classes))
    return before if is_other else None
