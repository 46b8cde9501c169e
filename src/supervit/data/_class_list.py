"""Class names from a text file."""

from pathlib import Path

from supervit.errors import InputError


def read_class_list(path: Path) -> list[str]:
    """The class names of a text file, one per line, in index order.

    Raises:
        InputError: unreadable, empty, or a name twice.
    """
    try:
        names = [line.strip() for line in path.read_text().splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read class_list {str(path)!r} ({error})") from error
    if not names or len(set(names)) != len(names):
        raise InputError(f"class_list {str(path)!r} must hold one class name per line, each once")
    return names
