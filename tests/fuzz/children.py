"""Cases in forked processes, so that a crash, a hang or a bomb ends one of them and is a fault like others."""

import ctypes
import json
import os
import resource
import select
import shutil
import signal
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from tests.fuzz.judge import Verdict, judge, listen
from tests.fuzz.kinds import ALONE, case
from tests.fuzz.workshop import Workshop

MOST_WAIT = 20.0  # seconds that a process computes, or sleeps, without a word; those in which others compute do not count
_LOOK = 2.0  # seconds between looks at a silent process
_BATCH = 100  # cases for one process
_MORE_MEMORY = 5 * 2**30  # bytes of address space that a process may take beyond what it has


def run(kind: str, numbers: Sequence[int], seed: int, workshop: Workshop, keep: Path | None = None) -> Iterator[Verdict]:
    """The verdicts on these cases, one for each door.

    Args:
        kind: One of `CASES`.
        numbers: Of the cases.
        seed: Of the whole run.
        workshop: Built, before anything is forked.
        keep: Folder for the files of cases with a fault.
    """
    left = list(numbers)
    while left:
        batch = left[: 1 if kind in ALONE else _BATCH]
        done = 0
        for number, verdict in _in_child(kind, batch, seed, workshop, keep):
            if verdict is None:
                done += 1
            else:
                yield verdict
                if verdict.outcome in ("crashed", "hung"):
                    done = batch.index(number) + 1
        left = left[max(done, 1) :]


def _in_child(
    kind: str, batch: list[int], seed: int, workshop: Workshop, keep: Path | None
) -> Iterator[tuple[int, Verdict | None]]:
    """(Number, verdict) as they come, None after the last of a case; where the process ends early, that is the last verdict."""
    reader, writer = os.pipe()
    process = os.fork()
    if process == 0:
        os.close(reader)
        _child(kind, batch, seed, workshop, keep, writer)
    os.close(writer)
    number, what, door, status = batch[0], "", "", ""
    try:
        for line in _lines(process, reader):
            message = json.loads(line)
            if "begins" in message:
                number, what, door = message["begins"]
            elif "ends" in message:
                yield message["ends"], None
            else:
                yield number, Verdict(**message)
    except TimeoutError:
        os.kill(process, signal.SIGKILL)
        status = "hung"
    except BaseException:  # of the caller, such as Ctrl-C
        os.kill(process, signal.SIGKILL)
        raise
    finally:
        os.close(reader)
        code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
        if code and not status:
            status = f"crashed with {signal.Signals(-code).name if code < 0 else code}"
        folder = _folder(workshop, process)
        if status and keep is not None and folder.exists():
            shutil.copytree(folder, keep / f"{kind}-{number}", symlinks=True, dirs_exist_ok=True, ignore=_no_special_files)
        shutil.rmtree(folder, ignore_errors=True)
    if status:
        yield number, Verdict(kind, number, what, door, status.split()[0], status, 0.0, 0.0)


def _lines(process: int, reader: int) -> Iterator[bytes]:
    """What a process writes, line by line, to the end.

    Raises:
        TimeoutError: it hangs: it computes or sleeps for long without a word.
    """
    rest, began, slept = b"", 0.0, 0.0
    while True:
        if select.select([reader], [], [], _LOOK)[0]:
            if not (found := os.read(reader, 65536)):
                return
            *lines, rest = (rest + found).split(b"\n")
            yield from lines
            began = slept = 0.0
            continue
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        computed = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        began = began or computed
        slept += _LOOK * (fields[0] in "SD")
        if computed - began > MOST_WAIT or slept > MOST_WAIT:
            raise TimeoutError


def _folder(workshop: Workshop, process: int) -> Path:
    return workshop.root / f"process-{process}"


def _child(kind: str, batch: list[int], seed: int, workshop: Workshop, keep: Path | None, writer: int) -> None:
    """Never returns."""
    try:
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: ends with its parent
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        size = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
        resource.setrlimit(resource.RLIMIT_AS, (size + _MORE_MEMORY,) * 2)
        nowhere = os.open(os.devnull, os.O_RDWR)
        for descriptor in (0, 1, 2):
            os.dup2(nowhere, descriptor)
        listen()
        with os.fdopen(writer, "w") as file:
            for number in batch:
                for message in _messages(kind, number, seed, workshop, keep):
                    file.write(json.dumps(message) + "\n")
                    file.flush()
    except BaseException:
        (workshop.root / "harness-error.txt").write_text(traceback.format_exc())
        os._exit(99)
    os._exit(0)


def _messages(kind: str, number: int, seed: int, workshop: Workshop, keep: Path | None) -> Iterator[dict[str, object]]:
    folder = _folder(workshop, os.getpid())
    here = folder / "here"
    here.mkdir(parents=True)
    os.environ["TMPDIR"] = str(here)
    os.chdir(here)
    yield {"begins": (number, "being made", "")}
    try:
        what, doors = case(kind, number, seed, here, workshop)
        what = _plain(what, workshop)
    except Exception:
        yield Verdict(kind, number, "being made", "", "harness", traceback.format_exc()[-2000:], 0.0, 0.0).to_dict()
        doors = []
    for door in doors:
        yield {"begins": (number, what, door[0])}
        verdict = judge(kind, number, what, door, here)
        verdict = replace(verdict, detail=_plain(verdict.detail, workshop))
        if verdict.is_fault and keep is not None:
            shutil.copytree(here, keep / f"{kind}-{number}", symlinks=True, dirs_exist_ok=True, ignore=_no_special_files)
        yield verdict.to_dict()
    os.chdir(workshop.root)
    shutil.rmtree(folder, ignore_errors=True)
    yield {"ends": number}


def _plain(text: str, workshop: Workshop) -> str:
    """A text without the folder of this run, and with what is no text as escapes."""
    return text.replace(str(workshop.root), "WORK").encode(errors="backslashreplace").decode()


def _no_special_files(folder: str, names: list[str]) -> list[str]:
    paths = [Path(folder) / name for name in names]
    return [path.name for path in paths if path.is_symlink() or not (path.is_file() or path.is_dir())]
