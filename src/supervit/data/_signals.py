"""Signals to a whole process group are for the process that trains, not for those that load its images."""

import multiprocessing
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
    """In a process that loads images: end when the process that trains asks, whoever else does.

    The two need not be child and parent of the system: with the start method forkserver, Python's default from 3.14 on, both a
    server and its first mask of signals lie between. It ends with its parent too: PyTorch's loop of a worker looks for it.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def wait() -> None:
        while True:
            signals = signal.sigwaitinfo(_SIGNALS)
            if signals.si_pid == parent.pid and signals.si_signo == signal.SIGTERM:
                os._exit(0)

    threading.Thread(target=wait, daemon=True).start()
