"""Files: written whole or not at all with the rights that the user's umask gives, and JSON from strangers."""

import errno
import hashlib
import json
import math
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from supervit.errors import InputError, printable, reason_of

_MOST_JSON_BYTES = 64 * 2**20


@dataclass(frozen=True)
class Output:
    """What has been written since it is recorded."""

    directories: list[Path] = field(default_factory=list)
    """Those that were made."""
    files: list[Path] = field(default_factory=list)
    """Those that were written whole."""

    def remove_empty(self) -> None:
        """Remove the directories that were made and hold nothing."""
        for directory in sorted(set(self.directories), key=lambda path: len(path.parts), reverse=True):
            with suppress(OSError):  # it holds something, or is gone
                directory.rmdir()


_output: ContextVar[Output | None] = ContextVar("output", default=None)


@contextmanager
def recording_output() -> Iterator[Output]:
    """A block that leaves no empty directory behind, however it ends; gives what is written in it."""
    output = Output()
    token = _output.set(output)
    try:
        yield output
    finally:
        _output.reset(token)
        output.remove_empty()


def make_directory(directory: Path) -> Path:
    """The directory, made if need be and checked to be writable.

    Raises:
        InputError: it cannot be made or written.
    """
    check_name(directory)
    try:
        missing = [path for path in (directory, *directory.parents) if not path.exists()]
        directory.mkdir(parents=True, exist_ok=True)
        if (output := _output.get()) is not None:
            output.directories.extend(missing)
        probe = directory / f".write-test-{_writer()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise InputError(
            f"cannot write to {str(directory)!r} ({error.strerror}); name a directory that you may write"
        ) from error
    return directory


def _writer() -> str:
    """A name of this thread, so that no other one writes into the same temporary file."""
    return f"{os.getpid()}-{threading.get_ident()}"


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A temporary file beside `path`, to be written within, that takes its name in the end: a reader sees old or new.

    The file gets the rights of the user's umask, whatever library writes it; where writing fails nothing is left.

    Raises:
        InputError: the disk is full, the directory cannot be written, or no file can have this name.
    """
    temporary = check_name(path).with_name(f".{path.name[:40]}.{_writer()}.tmp")  # no name may have more than 255 bytes
    try:
        temporary.touch()
        try:
            rights = temporary.stat().st_mode
            yield temporary
            temporary.chmod(rights)  # some writers replace the file by one that its owner alone may read
            temporary.replace(path)
            if (output := _output.get()) is not None:
                output.files.append(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise InputError(
            f"cannot write {str(path)!r} ({error.strerror or reason_of(error)}); make room or name another"
        ) from error


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all: a reader sees the old or the new content.

    Raises:
        InputError: as `whole_file`.
    """
    with whole_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write plain values as JSON, whole or not at all; NaN and infinities, which JSON has not, are an error of ours."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


@contextmanager
def refusing(what: str, fix: str) -> Iterator[None]:
    """A block whose `InputError`s get a frame: what is the matter, the reason in brackets, what to do.

    Args:
        what: Such as `'costs.json' is not a cost table`.
        fix: Such as `write one: supervit profile`.
    """
    try:
        yield
    except InputError as error:
        raise InputError(f"{what} ({error}); {fix}") from error


def check_name(path: Path) -> Path:
    """The path, where files can have such a name.

    Raises:
        InputError: it is too long, or holds a NUL or a surrogate, which JSON may hold and no file system takes.
    """
    try:
        os.lstat(path)
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise InputError(f"{printable(str(path), 100)!r} is too long for the name of a file; name another") from error
    except ValueError as error:
        raise InputError(f"{str(path)!r} holds characters that no file's name can have; name another") from error
    return path


def check_regular(path: Path) -> Path:
    """The path of an ordinary file; reading a pipe would wait for ever, reading a device never end.

    Raises:
        InputError: it is a folder, a pipe, a device or a socket; where nothing is there, reading says so.
    """
    if path.exists() and not path.is_file():
        raise InputError(f"{str(path)!r} is {'a folder' if path.is_dir() else 'no ordinary file'}; name a file")
    return path


def append_line(path: Path, line: str) -> None:
    """Add a line to a file, which is made if need be.

    Raises:
        InputError: the disk is full, or the file cannot be written.
    """
    try:
        with check_regular(path).open("a", encoding="utf-8") as file:
            file.write(line + "\n")
    except OSError as error:
        raise InputError(
            f"cannot write {str(path)!r} ({error.strerror or reason_of(error)}); make room, or move it away"
        ) from error


def read_json(path: Path) -> Any:
    """The content of a JSON file from anywhere; `refusing` says which file it was and what to do.

    Raises:
        InputError: why it cannot be read: missing, larger than 64 MiB, nested too deep, or no JSON, which has no NaN nor
            infinities.
    """
    return parse_json(read_bounded(path))


def read_json_lines(path: Path) -> tuple[list[Any], int]:
    """The values of a file with a JSON value on each line, and how many lines are damaged and left out.

    A last line that does not end is still being written: it is no value, nor damaged.

    Raises:
        InputError: why the file cannot be read: missing, or larger than 64 MiB.
    """
    values, damaged = [], 0
    for line in read_bounded(path).split(b"\n")[:-1]:
        try:
            values.append(parse_json(line))
        except InputError:
            damaged += 1
    return values, damaged


def read_bounded(path: Path, most_bytes: int = _MOST_JSON_BYTES) -> bytes:
    """The content of a small file from anywhere; `refusing` says which file it was and what to do.

    Raises:
        InputError: why it cannot be read: missing, no ordinary file, or larger than `most_bytes`.
    """
    try:
        with check_regular(check_name(path)).open("rb") as file:
            content = file.read(most_bytes + 1)
    except OSError as error:
        raise InputError(error.strerror or reason_of(error)) from error
    if len(content) > most_bytes:
        raise InputError(f"it is larger than the {most_bytes >> 20} MiB that such a file may have")
    return content


def parse_json(text: bytes) -> Any:
    """The value that a text in JSON stands for. Errors as of `read_json`."""
    try:
        return json.loads(text, parse_constant=_refuse_constant, parse_float=_finite)
    except RecursionError as error:
        raise InputError("it is nested too deep to be read as JSON") from error
    except ValueError as error:  # also of what is no text
        raise InputError(f"it is not JSON: {reason_of(error)}") from error


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is no number in JSON")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:20]} is beyond all numbers")
    return value


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file. Errors as of `read_json`; another kind of value is one too."""
    values = read_json(path)
    if not isinstance(values, dict):
        raise InputError("it holds no JSON object")
    return values


def file_digest(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal digits.

    Raises:
        InputError: it cannot be read, or is no ordinary file.
    """
    try:
        with check_regular(path).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"cannot read {str(path)!r} ({error.strerror})") from error


def flush_to_disk(directory: Path) -> None:
    """Wait until the files of a directory are on the disk, so that not even a power cut leaves empty ones."""
    for path in [*directory.iterdir(), directory]:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
