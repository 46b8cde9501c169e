"""What comes out of a door: an answer or a refusal in one plain line, in bounded time and memory, with nothing done besides."""

import os
import sys
import time
import traceback
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from supervit.errors import SuperViTError
from supervit.predictor import Failure, Prediction
from tests.fuzz.commands import Refused
from tests.fuzz.workshop import Door

MOST_SECONDS = 5.0  # of CPU, for one input
MOST_MIB = 600.0  # of memory at the peak beyond what was there before
MOST_CHARACTERS = 600
_STARTS = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.startfile", "pty.spawn")
_CONNECTS = ("socket.connect", "socket.getaddrinfo", "socket.sendto")
_UNPICKLED = ("numpy", "torch", "collections", "_codecs", "builtins")
_heard: list[str] = []


@dataclass(frozen=True)
class Verdict:
    """What a door did with a case."""

    kind: str
    number: int
    what: str
    door: str
    outcome: str
    """answered, refused, or a fault: exception, message, mistaken, slow, memory, started, left; of a process crashed, hung."""
    detail: str
    seconds: float
    mib: float

    @property
    def is_fault(self) -> bool:
        """Whether it is none of the two that may be."""
        return self.outcome not in ("answered", "refused")

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain values."""
        return asdict(self)


def listen() -> None:
    """From now on, what Python does in this process is heard: programs started, connections, classes unpickled, code loaded."""
    sys.addaudithook(_hear)


def _hear(event: str, arguments: tuple[Any, ...]) -> None:
    if event in _STARTS or event in _CONNECTS:
        _heard.append(f"{event} {arguments[:2]!r}"[:200])
        if event in _CONNECTS:
            raise OSError("no network here")
    elif event == "pickle.find_class" and str(arguments[0]).split(".")[0] not in _UNPICKLED:
        _heard.append(f"unpickled {arguments!r}"[:200])
    elif event == "ctypes.dlopen" and str(arguments[0]).startswith(str(Path.cwd())):
        _heard.append(f"loaded {arguments!r}"[:200])


def judge(kind: str, number: int, what: str, door: Door, folder: Path) -> Verdict:
    """Go through a door and say what came out."""
    name, call = door
    before, is_command = set(_files(folder)), kind == "commands"
    _heard.clear()
    resident = _reset_peak()
    began = time.process_time()
    outcome, detail = _outcome(call)
    seconds, mib = time.process_time() - began, (_status("VmHWM") - resident) / 1024
    left = [file for file in set(_files(folder)) - before if not is_command or file.endswith(".tmp") or ".write-test" in file]
    left = [file for file in left if not file.startswith(("run/", "saved.json")) or file.endswith(".tmp")]
    if outcome == ("refused" if what.startswith("right: ") else "answered" if what.startswith("wrong: ") else ""):
        outcome = "mistaken"
    if outcome in ("answered", "refused"):
        if _heard:
            outcome, detail = "started", "; ".join(_heard[:3])
        elif any(Path(file).name == "executed" for file in _files(folder)) or left:
            outcome, detail = "left", ", ".join(sorted(left)[:5]) or "executed"
        elif seconds > MOST_SECONDS:
            outcome, detail = "slow", f"{seconds:.1f} s; {detail}"
        elif mib > MOST_MIB:
            outcome, detail = "memory", f"{mib:.0f} MiB; {detail}"
        elif outcome == "refused" and (fault := fault_of_message(detail)):
            outcome, detail = "message", f"{fault}: {detail}"
    return Verdict(kind, number, what, name, outcome, detail[:3000], round(seconds, 3), round(mib, 1))


def _outcome(call: Any) -> tuple[str, str]:
    try:
        found = call()
    except (SuperViTError, Refused) as error:
        return "refused", str(error)
    except BaseException as error:  # whatever it is, it is a fault
        return "exception", f"{type(error).__name__}: {error}\n{''.join(traceback.format_tb(error.__traceback__)[-8:])}"
    failures = [answer.reason for answer in found if isinstance(answer, Failure)] if isinstance(found, list) else []
    for answer in found if isinstance(found, list) else ():
        if isinstance(answer, Prediction) and not 0 <= answer.probability <= 1:
            return "exception", f"an answer of probability {answer.probability}"
    return ("refused", failures[0]) if failures else ("answered", "")


def fault_of_message(message: str) -> str:
    """What is the matter with an error's text; nothing where it is one plain line."""
    if len(message) > MOST_CHARACTERS + 40:
        return f"{len(message)} characters"
    if not message.strip():
        return "empty"
    if "\x1b" in message or not message.isprintable():
        return "unprintable"
    for advice in (
        "weights_only=False",
        "weights_only = False",
        "weights_only=True",
        "add_safe_globals",
        "trust_remote_code",
        "allow_pickle",
        "can still be loaded",
        "Weights only load failed",
    ):
        if advice in message:
            return f"advises {advice}"
    for word in ("MemoryError", "can't allocate", "bad_alloc", "not enough memory", "<_io.", "object at 0x", "Traceback"):
        if word in message:
            return f"says {word}"
    return ""


def _files(folder: Path) -> Iterator[str]:
    for parent, directories, files in os.walk(folder):
        for name in (*directories, *files):
            yield os.path.relpath(os.path.join(parent, name), folder)  # noqa: PTH118 - names may be odd


def _status(name: str) -> int:
    """KiB of a line of this process's status."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1])
    return 0


def _reset_peak() -> int:
    """Forget the peak of memory; the memory now, in KiB."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:  # not on this system: growth of the whole process's peak is what is left
        return _status("VmHWM")
    return _status("VmRSS")
