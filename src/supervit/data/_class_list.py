"""Class names from a text file."""

from pathlib import Path

from supervit.errors import InputError, reason_of

_MOST_BYTES = 16 * 2**20


def read_class_list(path: Path) -> list[str]:
    """The class names of a text file, one per line, in index order.

    Raises:
        InputError: unreadable, larger than 16 MiB, empty, or a name twice or not printable.
    """
    try:
        if path.exists() and not path.is_file():  # a pipe or a device might never end
            raise ValueError("no regular file")
        with path.open("rb") as file:
            text = file.read(_MOST_BYTES + 1)
        if len(text) > _MOST_BYTES:
            raise ValueError(f"larger than {_MOST_BYTES >> 20} MiB")
        names = [line.strip() for line in text.decode("utf-8-sig").splitlines() if line.strip()]
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read class_list {str(path)!r} ({reason_of(error)}); it must be text in UTF-8") from error
    if not names or len(set(names)) != len(names):
        raise InputError(f"class_list {str(path)!r} must hold one class name per line, each once")
    if odd := next((name for name in names if not name.isprintable()), None):
        raise InputError(f"class_list {str(path)!r} holds the name {odd!r}, which cannot be printed; write it in plain text")
    return names
