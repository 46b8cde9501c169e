"""The door for tar files: their regular members one by one, with nothing unpacked, followed or believed.

Headers are read by the standard library, from a file that gives it no more than a header can take; contents by us, at once
bounded by what the file holds.
"""

import io
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from supervit.data._listing import is_hidden
from supervit.errors import InputError

_MOST_HEADER_BYTES = 2**20
_MOST_BYTES = 256 * 2**20  # of a member


class Member(NamedTuple):
    """A regular file in a tar file."""

    name: str
    offset: int
    size: int


class _Headers(io.FileIO):
    """A file of which little is read at once: a header may claim that gigabytes belong to it."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or not 0 <= size <= _MOST_HEADER_BYTES:
            raise tarfile.ReadError("a header that is too large")
        return super().read(size) or b""


def members(path: Path) -> Iterator[Member]:
    """The regular members of an uncompressed tar file, in order; hidden ones (`._cat.jpg`, __MACOSX) are left out.

    Raises:
        InputError: it cannot be read, is truncated, or is no tar file.
    """
    with _naming_damage(path):
        if not path.is_file():  # a pipe or a device might never end
            raise tarfile.ReadError("no regular file")
    with _naming_damage(path), _Headers(path) as file, tarfile.open(fileobj=file, mode="r:") as tar:
        length = path.stat().st_size
        while (found := tar.next()) is not None:
            tar.members.clear()  # type: ignore[attr-defined] # which would grow with the file
            if found.offset_data + (0 if found.issparse() else found.size) > length:
                raise tarfile.ReadError("unexpected end of data")
            parts = [part for part in found.name.split("/") if part not in ("", ".", "..")]
            if found.isreg() and not found.issparse() and not any(map(is_hidden, parts)):
                yield Member(found.name, found.offset_data, found.size)


def read_member(path: Path, member: Member) -> bytes:
    """The content of a member.

    Raises:
        InputError: it cannot be read, or is larger than 256 MiB.
    """
    with _naming_damage(path), path.open("rb") as file:
        if member.size > _MOST_BYTES:
            raise tarfile.ReadError(f"{member.name!r} has {member.size >> 20} MiB, more than {_MOST_BYTES >> 20}")
        file.seek(member.offset)
        content = file.read(member.size)
        if len(content) != member.size:
            raise tarfile.ReadError("unexpected end of data")
        return content


@contextmanager
def _naming_damage(path: Path) -> Iterator[None]:
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # garbage is answered with nearly any error
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise InputError(f"cannot read the shard {str(path)!r} ({reason}); write it anew") from error
