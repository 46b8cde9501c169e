"""Progress bars on standard error: none in the library, one on all that takes seconds where a command asks for them."""

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

Item = TypeVar("Item")

_are_shown: ContextVar[bool] = ContextVar("bars_are_shown", default=False)


@contextmanager
def bars_shown() -> Iterator[None]:
    """A block within which bars are shown, if standard error is a terminal and this the first of the processes that train."""
    token = _are_shown.set(os.environ.get("RANK", "0") == "0")
    try:
        yield
    finally:
        _are_shown.reset(token)


@contextmanager
def progress_bar(what: str, total: int, unit: str) -> Iterator[Callable[[int], object]]:
    """A bar; the function that it gives is called with how many more are done.

    Args:
        what: What is being done, such as `time`.
        total: How many there are.
        unit: Of what, such as `image`.
    """
    from tqdm import tqdm

    shape = {"total": total, "desc": what, "unit": unit, "leave": False, "dynamic_ncols": True}
    with tqdm(**shape, mininterval=0.3, disable=None if _are_shown.get() else True) as bar:
        yield bar.update


def track(items: Iterable[Item], what: str, total: int, unit: str) -> Iterator[Item]:
    """The items, with a bar that counts those that have been worked on. Arguments as of `progress_bar`."""
    with progress_bar(what, total, unit) as advance:
        for item in items:
            yield item
            advance(1)
