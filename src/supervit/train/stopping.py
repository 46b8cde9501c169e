"""Signals that ask a run to stop: it ends at the next good moment, with a checkpoint to go on from."""

import contextlib
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, Self

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_ONE_PRESS_S = 2.0  # a signal to the group often comes twice: `timeout` and `torchrun` pass on what the group has got


class StopRequest:
    """Whether a signal has asked this process to stop; within the block that is all that the signals do.

    Handlers that set a flag lose nothing: an exception raised in the midst of anything can be swallowed there. Who works within
    the block looks at `asked` between two pieces of work. A second Ctrl-C raises KeyboardInterrupt at once, but not under
    torchrun. Signals that were ignored before stay so (nohup). Outside of the main thread, which alone gets signals, nothing
    is done.
    """

    def __init__(self) -> None:
        self.signum = 0  # of the first signal; 0: none has come
        self._since = 0.0
        self._interrupts = False
        self._before: dict[int, Any] = {}

    @property
    def asked(self) -> bool:
        """Whether a signal has come."""
        return self.signum != 0

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for signum in _SIGNALS:
                if signal.getsignal(signum) != signal.SIG_IGN:
                    self._before[signum] = signal.signal(signum, self._ask)
        return self

    def __exit__(self, *_: object) -> None:
        for signum, handler in self._before.items():
            signal.signal(signum, handler if handler is not None else signal.SIG_DFL)

    @contextmanager
    def interrupting(self) -> Iterator[None]:
        """Within: a signal moreover raises KeyboardInterrupt, where there is nothing to save; under torchrun it does not."""
        self._interrupts = _is_alone()
        try:
            yield
        finally:
            self._interrupts = False

    def _ask(self, signum: int, _frame: FrameType | None) -> None:
        if not self.asked:
            self.signum, self._since = signum, time.monotonic()
            if self._interrupts:
                raise KeyboardInterrupt
            again = "; Ctrl-C once more ends it at once, without" if signum == signal.SIGINT and _is_alone() else ""
            _tell(f"{signal.Signals(signum).name}: the run saves a checkpoint and ends{again}")
        elif signum == signal.SIGINT and _is_alone() and time.monotonic() - self._since > _ONE_PRESS_S:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # PyTorch's would complain of the loader processes
            for child in multiprocessing.active_children():
                child.kill()
            raise KeyboardInterrupt


def _is_alone() -> bool:
    return "WORLD_SIZE" not in os.environ


def _tell(text: str) -> None:
    """Write a line to the terminal from within a signal handler, where Python's own streams may be in use."""
    if os.environ.get("RANK", "0") == "0":
        with contextlib.suppress(OSError):  # the terminal may be gone, which is what SIGHUP says
            os.write(2, f"\n{text}\n".encode())
