"""Threads of PyTorch that compute on one core, whatever the others do."""

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

Made = TypeVar("Made")

_LOCK = threading.Lock()


def _start_on_one() -> None:
    """Set this new thread to one core, and leave the number that later threads start with as it is.

    A thread of PyTorch takes the number of the process when it first computes and keeps it from then on;
    `torch.set_num_threads` sets that of the thread that calls it and that of the process.
    """
    with _LOCK:
        of_process = torch.get_num_threads()
        torch.set_num_threads(1)
        restoring = threading.Thread(target=torch.set_num_threads, args=(of_process,))
        restoring.start()
        restoring.join()


def _new_pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(thread_name_prefix="supervit-one-thread", initializer=_start_on_one)


_POOL = [_new_pool()]  # its threads start when they are first needed
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=lambda: _POOL.__setitem__(0, _new_pool()))  # threads do not live on in a fork


def on_one_thread(call: Callable[[], Made]) -> Made:
    """What a call returns that runs, without gradient, where PyTorch has one thread; other threads keep theirs.

    Cost: on several threads, small operations take longer than the work in them. A change of threads takes 0.05 ms.
    """

    def run() -> Made:
        with torch.no_grad():
            return call()

    with _LOCK:  # a thread that computes for the first time takes the number of the process, which must be its own then
        is_on_one = torch.get_num_threads() == 1
    return run() if is_on_one else _POOL[0].submit(run).result()
