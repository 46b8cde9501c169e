"""Loader processes heed the process that trains alone, however Python starts them."""

import multiprocessing
import os
import signal
import subprocess
import time

import pytest

from supervit.data._signals import heed_parent_alone, signals_held


def wait_for_signals(started):
    heed_parent_alone(0)
    started.set()
    time.sleep(60)


@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
def test_a_loader_ends_when_the_process_that_trains_asks_and_nobody_else(method):
    context = multiprocessing.get_context(method)
    context.Process(target=os.getpid).start()  # brings up the server of forkserver, while no signals are held
    started = context.Event()
    loader = context.Process(target=wait_for_signals, args=(started,))
    with signals_held():
        loader.start()
    assert started.wait(60)
    for name in ("INT", "TERM", "HUP"):
        subprocess.run(["kill", f"-{name}", str(loader.pid)], check=True)
    os.kill(loader.pid, signal.SIGINT)
    loader.join(0.2)
    assert loader.is_alive()
    loader.terminate()
    loader.join(30)
    assert loader.exitcode == 0
