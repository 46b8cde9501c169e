"""The directory of a command's results: nothing of another model or other data in it is written over unasked."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from supervit.errors import InputError, printable
from supervit.files import read_object, refusing

if TYPE_CHECKING:
    from supervit.data import SourceConfig
    from supervit.runtimes import Runtime

_WAY_OUT = "name another --out, or write over it with --overwrite"
_WORDS = {"fingerprint": "model", "setup.model": "model"}


def check_output(out: Path | None, file: str, facts: Mapping[str, Any], *, overwrite: bool) -> None:
    """Refuse a directory that holds the results of something else.

    Args:
        out: The directory, which need not be there, or None for no results.
        file: The JSON file there that says what the results are of.
        facts: What these are of, by the names in the file, such as `fingerprint` or `setup.model`; None: not in the file.
        overwrite: Whether to take any directory.

    Raises:
        InputError: the file is of something else, or does not say of what.
    """
    if out is None or overwrite or not (out / file).exists():
        return
    with refusing(f"{str(out / file)!r} is there and does not say what it is of", _WAY_OUT):
        held = read_object(out / file)
    setup = held.get("setup")
    held |= {f"setup.{name}": value for name, value in setup.items()} if isinstance(setup, dict) else {}
    differing = {_WORDS.get(name, name.removeprefix("setup.")): name for name in facts if held.get(name) != facts[name]}
    if differing:
        each = "; ".join(f"{word} {_shown(held.get(name))}, now {_shown(facts[name])}" for word, name in differing.items())
        raise InputError(f"{str(out)!r} holds results of another {' and '.join(differing)} ({each}); {_WAY_OUT}")


def facts_of(runtime: "Runtime", data: "SourceConfig", split: str) -> dict[str, Any]:
    """What accuracies are of: model, data, runtime and precision."""
    ran = {"runtime": runtime.name, "precision": runtime.precision}
    return {"fingerprint": runtime.fingerprint(), "data": data.place, "split": split, **ran}


def _shown(value: Any) -> str:
    return "not named" if value is None else printable(repr(value), 60)
