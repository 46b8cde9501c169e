"""Evaluation mode, which is a state of the model, for callers in many threads at once."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from weakref import WeakKeyDictionary

from torch import nn


@dataclass
class _Stay:
    """Who is inside `evaluation_mode` of a model."""

    modules: list[nn.Module]
    """Those that were in training mode when the first came."""
    callers: int = 0


_STAYS: "WeakKeyDictionary[nn.Module, _Stay]" = WeakKeyDictionary()
_LOCK = threading.Lock()


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """The model in evaluation mode until the last of all callers has left, and as it was before the first afterwards."""
    with _LOCK:
        stay = _STAYS.get(model)
        if stay is None:
            stay = _STAYS[model] = _Stay([module for module in model.modules() if module.training])
            if stay.modules:
                model.eval()
        stay.callers += 1
    try:
        yield
    finally:
        with _LOCK:
            stay.callers -= 1
            if not stay.callers:
                del _STAYS[model]
                for module in stay.modules:
                    module.training = True
