"""Errors that a user can mend: one line that says the value, what is allowed and the fix."""

import difflib
import sys
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

_MOST_CHARACTERS = 600  # of a message: what came from a file may be a megabyte


def printable(text: str, most: int = _MOST_CHARACTERS) -> str:
    """A text from anywhere on one line, without what a terminal would obey, cut in the middle where it is very long."""
    line = " ".join("".join(char if char.isprintable() else " " for char in text[: 100 * most]).split())
    if len(line) <= most:
        return line
    tail = most // 3
    return f"{line[: most - tail - 5]} ... {line[-tail:]}"


class SuperViTError(Exception):
    """Base of the errors that the command line prints as one line instead of a traceback."""

    def __init__(self, message: str = "") -> None:
        super().__init__(printable(str(message)))


class InputError(SuperViTError, ValueError):
    """A value from outside (argument, file, data) cannot be used."""


class TrainingError(SuperViTError, RuntimeError):
    """A training run had to stop; the newest good checkpoint is kept."""


class AssumptionWarning(UserWarning):
    """Something was assumed that no file and no option says; the answers depend on it."""


def warn_assumed(message: str) -> None:
    """Warn of an assumption, at the line of the program that called this package."""
    level, frame = 1, sys._getframe()
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] == __package__:
        level, frame = level + 1, frame.f_back
    warnings.warn(printable(message), AssumptionWarning, stacklevel=level)


def unknown_name(kind: str, name: str, allowed: Iterable[str]) -> InputError:
    """The error for a name that is not in a list: near names first, else the whole list."""
    allowed = sorted(allowed)
    name = printable(str(name), 60)
    near = difflib.get_close_matches(name, allowed, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(allowed)}"
    return InputError(f"unknown {kind} {name!r}; {hint}")


def reason_of(error: BaseException) -> str:
    """Why, to be said in another message: the first line of what an error says, the last where the first announces it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    line = lines[-1] if lines[0].endswith(":") else lines[0]
    return printable(line if " " in line else f"{type(error).__name__}: {line}", 200)


@contextmanager
def naming_lost_workers() -> Iterator[None]:
    """A block that reads images from worker processes, or uses them: PyTorch tells wherever the program is that one is gone.

    Raises:
        InputError: one was killed; instead of PyTorch's `RuntimeError`, says what to do.
    """
    try:
        yield
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise InputError(
            f"a process that loads images was killed ({reason_of(error)}), mostly as memory ran out; use fewer workers (0 "
            "loads without), a smaller batch_size, or more shared memory (/dev/shm; in docker --shm-size)"
        ) from error
