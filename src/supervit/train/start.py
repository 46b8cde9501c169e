"""The model that a run starts with: fresh, or made of given weights."""

import dataclasses

from supervit.checkpoints import is_ours, load
from supervit.config import SuperViTConfig
from supervit.errors import InputError
from supervit.model import SuperViT


def load_start(source: str, wanted: SuperViTConfig) -> SuperViT:
    """The model that given weights make, with the fields of `wanted` that differ from their defaults.

    Names of classes that other libraries write are not those of the data's folders, so they are left out: the classifier
    stays where the count fits.
    """
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


def give_classes(model: SuperViT, classes: list[str]) -> None:
    """Name a loaded model's classes; a classifier for others is replaced by a fresh one."""
    if model.num_classes != len(classes) or (model.config.class_names and model.config.class_names != tuple(classes)):
        model.reset_classifier(len(classes))
    model.config = model.config.replace(class_names=tuple(classes))
