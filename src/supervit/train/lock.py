"""One directory, one run at a time."""

import fcntl
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from supervit.distributed import World
from supervit.errors import InputError, printable

_held: set[Path] = set()  # by this process, whose own second lock the system would grant
_guard = threading.Lock()


@contextmanager
def locked(directory: Path, world: World) -> Iterator[None]:
    """Within: no other process on any machine that shares the disk trains into the directory.

    The first process of several holds the lock, for all; the system takes it back when that process ends, however it ends.

    Raises:
        InputError: a run is being written there; says by which process.
    """
    path = directory.resolve() / ".lock"
    lock: int | str | None = _lock(path) if world.is_main else None
    refused = world.gather(lock if isinstance(lock, str) else None)[0]
    if refused is not None:
        raise InputError(refused)
    try:
        yield
    finally:
        if isinstance(lock, int):
            path.unlink(missing_ok=True)
            os.close(lock)
            _held.discard(path)


def _lock(path: Path) -> int | str:
    """The descriptor of the locked file, or why there is none."""
    with _guard:
        if path in _held:
            return _refusal(path, f"process {os.getpid()}, this one")
        while True:
            try:
                file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
            except OSError as error:
                return f"cannot lock {str(path)!r} ({error.strerror}); remove it, or name a directory that you may write"
            try:
                # Locks of processes: those of open files live on in the loader processes where a run was killed.
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if path.exists() and os.path.samestat(os.fstat(file), path.stat()):
                    os.truncate(file, 0)
                    os.write(file, f"process {os.getpid()} on {socket.gethostname()}".encode())
                    _held.add(path)
                    return file
            except (BlockingIOError, PermissionError):
                owner = printable(os.read(file, 200).decode(errors="replace"), 100)
                os.close(file)
                return _refusal(path, owner or "another process")
            except OSError as error:
                os.close(file)
                return f"cannot lock {str(path)!r} ({error.strerror}); make room, or name a directory on a disk that has locks"
            os.close(file)  # of a run that has ended meanwhile


def _refusal(path: Path, owner: str) -> str:
    return f"{str(path.parent)!r} is being written by another run ({owner}); wait for its end or name another directory"
