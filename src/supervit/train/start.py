"""The model that a run starts with: fresh, or made of given weights."""

import dataclasses

from supervit.checkpoints import load
from supervit.config import SuperViTConfig
from supervit.errors import InputError
from supervit.model import SuperViT


def load_start(source: str, wanted: SuperViTConfig) -> SuperViT:
    """The model that given weights make, with the fields of `wanted` that differ from their defaults."""
    defaults = type(wanted)()
    ignored = ("family", "num_classes", "class_names")
    fields = [field.name for field in dataclasses.fields(wanted) if field.name not in ignored]
    return load(source, **{name: getattr(wanted, name) for name in fields if getattr(wanted, name) != getattr(defaults, name)})


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
