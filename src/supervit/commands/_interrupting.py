"""Ctrl-C and SIGTERM while a command works: what was begun is tidied up, and one line says what is kept."""

import os
import signal
import sys
from pathlib import Path
from types import FrameType

from supervit.errors import printable
from supervit.files import Output

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def exit_at_signals() -> None:
    """From here on SIGINT and SIGTERM end the process at once, with the status that shells give them: nothing is begun yet.

    KeyboardInterrupt gives tracebacks while modules are imported, or is swallowed there. Signals that are ignored stay so.
    """
    for signum in _SIGNALS:
        if signal.getsignal(signum) != signal.SIG_IGN:
            signal.signal(signum, _exit)


def raise_at_signals(output: Output) -> None:
    """From here on the first SIGINT or SIGTERM raises KeyboardInterrupt with its number; the next one ends the process.

    Args:
        output: What the command writes.
    """

    def stop(signum: int, frame: FrameType | None) -> None:
        for each in _SIGNALS:
            if signal.getsignal(each) is stop:
                signal.signal(each, _exit_untidy)
        if _is_importing(frame):
            output.remove_empty()
            _exit(signum, frame, kept=what_is_kept(output))
        raise KeyboardInterrupt(signum)

    for signum in _SIGNALS:
        if signal.getsignal(signum) is _exit:
            signal.signal(signum, stop)


def report_interrupt(interrupt: KeyboardInterrupt, output: Output) -> int:
    """Say that a command was interrupted; the exit status."""
    print(f"supervit: interrupted; {what_is_kept(output)}", file=sys.stderr)
    return 128 + (interrupt.args[0] if interrupt.args else signal.SIGINT)


def what_is_kept(output: Output) -> str:
    """What an interrupted command leaves, in words."""
    written = [str(path.absolute().parent) for path in output.files if path.exists()]
    if not written:
        return "nothing was written"
    directory = Path(os.path.relpath(os.path.commonpath(written)))
    shown = directory if not str(directory).startswith("..") else directory.absolute()
    return printable(f"what was written before is kept in {str(shown)!r}")


def _is_importing(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False


def _exit(signum: int, _frame: FrameType | None, kept: str = "nothing was written") -> None:
    try:
        os.write(2, f"\nsupervit: interrupted; {kept}\n".encode(errors="replace"))
    finally:  # the terminal may be gone
        os._exit(128 + signum)


def _exit_untidy(signum: int, frame: FrameType | None) -> None:
    _exit(signum, frame, kept="once more, so files may be left that were being written")
