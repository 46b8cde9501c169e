"""Dataclasses from plain values, such as JSON has: every field checked against its annotation."""

import dataclasses
import math
import types
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from supervit.errors import InputError, printable, unknown_name

Made = TypeVar("Made")


@cache
def _hints(cls: Any) -> dict[str, Any]:
    return get_type_hints(cls)


def from_plain(cls: type[Made], values: Any) -> Made:
    """The dataclass with these values; lists become tuples, texts paths, and objects dataclasses where the fields are such.

    Raises:
        InputError: no object, a field that is unknown (with the near names) or missing, or a value of another type.
    """
    if not isinstance(values, Mapping):
        raise InputError(f"{_shown(values)} should be an object with the fields of {cls.__name__}")
    check_names(cls, values)
    fields = [field for field in dataclasses.fields(cls) if field.init]  # type: ignore[arg-type]
    missing = [field.name for field in fields if field.name not in values and _is_required(field)]
    if missing:
        raise InputError(f"{cls.__name__} lacks {', '.join(missing)}")
    hints = _hints(cls)  # type: ignore[arg-type]
    return cls(**{name: checked(hints[name], value, name) for name, value in values.items()})


def updated(made: Made, values: Any) -> Made:
    """A copy of a dataclass with some of its fields from plain values; an object changes fields of the dataclass in its place.

    Raises:
        InputError: as `from_plain`.
    """
    if not isinstance(values, Mapping):
        raise InputError(f"{_shown(values)} should be an object with fields of {type(made).__name__}")
    check_names(type(made), values)
    cls: Any = type(made)
    hints, changes = _hints(cls), dict[str, Any]()
    for name, value in values.items():
        old = getattr(made, name)
        is_part = dataclasses.is_dataclass(old) and isinstance(value, Mapping)
        changes[name] = updated(old, value) if is_part else checked(hints[name], value, name)
    replace = getattr(made, "replace", None)  # a dataclass may have its own: some fields follow from others
    changed: Made = replace(**changes) if replace else dataclasses.replace(made, **changes)  # type: ignore[type-var]
    return changed


def check_names(cls: type, values: Mapping[str, Any]) -> None:
    """Refuse keys that are not fields of a dataclass, with the near names."""
    names = [field.name for field in dataclasses.fields(cls)]
    for key in values:
        if key not in names:
            raise unknown_name(f"{cls.__name__} field", key, names)


def check_types(made: Any) -> None:
    """Check the fields of a frozen dataclass in its `__post_init__`, in place: lists become tuples.

    Raises:
        InputError: a value of another type than its field has.
    """
    for field in dataclasses.fields(made):
        value = checked(_hints(type(made))[field.name], getattr(made, field.name), field.name)  # type: ignore[arg-type]
        object.__setattr__(made, field.name, value)


def checked(hint: Any, value: Any, name: str) -> Any:
    """The value as an annotation wants it.

    Raises:
        InputError: it is of another type; the message names the field.
    """
    found = _as(hint, value, name)
    if found is _Wrong:
        if get_origin(hint) is Literal and isinstance(value, str):
            raise unknown_name(name, value, map(str, get_args(hint)))
        raise InputError(f"{name} {_shown(value)} is not usable; it must be of type {_name(hint)}")
    return found


class _Wrong:
    """What `_as` returns for a value that does not fit: None is a value."""


def _as(hint: Any, value: Any, name: str) -> Any:
    origin, arguments = get_origin(hint), get_args(hint)
    if hint is Any:
        return value
    if origin in (Union, types.UnionType):
        tried = (_as(each, value, name) for each in arguments)
        return next((found for found in tried if found is not _Wrong), _Wrong)
    if origin is Literal:
        return value if isinstance(value, str | int | bool) and value in arguments else _Wrong
    if origin is tuple:
        return _as_tuple(arguments, value, name)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return _as_mapping(arguments, value, name)
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return _as_dataclass(hint, value)
    return _as_plain(hint, value)


def _as_tuple(arguments: tuple[Any, ...], value: Any, name: str) -> Any:
    if not isinstance(value, list | tuple):
        return _Wrong
    hints = [arguments[0]] * len(value) if arguments[-1] is ... else list(arguments)
    items = [_as(hint, item, name) for hint, item in zip(hints, value, strict=False)]
    return _Wrong if len(hints) != len(value) or _Wrong in items else tuple(items)


def _as_mapping(arguments: tuple[Any, ...], value: Any, name: str) -> Any:
    if not isinstance(value, Mapping):
        return _Wrong
    items = {_as(arguments[0], key, name): _as(arguments[1], item, name) for key, item in value.items()}
    return _Wrong if _Wrong in items or _Wrong in items.values() else items


def _as_dataclass(cls: type, value: Any) -> Any:
    if isinstance(value, cls):
        return value
    if hasattr(cls, "of"):  # a value with a text form
        return cls.of(value)
    return from_plain(cls, value) if isinstance(value, Mapping) else _Wrong


def _as_plain(hint: Any, value: Any) -> Any:
    if hint is None or hint is type(None):
        return None if value is None else _Wrong
    if hint is Path:
        return Path(value) if isinstance(value, str | Path) and "\0" not in str(value) else _Wrong
    if isinstance(value, bool):
        return value if hint is bool else _Wrong
    if hint is float:
        is_number = isinstance(value, int | float) and abs(value) < 2**1023 and not math.isnan(value)
        return value if is_number else _Wrong
    return value if isinstance(hint, type) and isinstance(value, hint) else _Wrong


def _is_required(field: "dataclasses.Field[Any]") -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _shown(value: Any) -> str:
    return printable(repr(value), 80)


def _name(hint: Any) -> str:
    if isinstance(hint, type) and get_origin(hint) is None:
        return hint.__name__
    return str(hint).replace("typing.", "").replace("NoneType", "None")
