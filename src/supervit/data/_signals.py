"""Signals to a whole process group are for the process that trains, not for those that load its images."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextmanager
def signals_held() -> Iterator[None]:
    """Within: signals that ask to stop wait; processes and threads that start here never get them."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def heed_parent_alone(_worker: int) -> None:
    """In a process that was started within `signals_held`: end when its parent asks, whoever else does.

    It ends with its parent too: PyTorch's loop of a worker looks for it.
    """
    parent = os.getppid()

    def wait() -> None:
        while True:
            signals = signal.sigwaitinfo(_SIGNALS)
            if signals.si_pid == parent and signals.si_signo == signal.SIGTERM:
                os._exit(0)

    threading.Thread(target=wait, daemon=True).start()
