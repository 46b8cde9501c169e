"""Threads of PyTorch that compute on one core, whatever the others do."""

import ctypes
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import torch

Made = TypeVar("Made")

# Of the thread that calls, in what PyTorch computes with, by the names of their C functions: others take pointers.
_SETTERS = ("omp_set_num_threads", "MKL_Set_Num_Threads_Local")


def _start_on_one() -> None:
    """Set this new thread to one core, and nothing else.

    `torch.set_num_threads` would set the number of the process too, and threads that first compute before it is back would
    keep that of this one for ever. A build of PyTorch without such libraries leaves the thread with more: slower, not wrong.
    """
    torch.get_num_threads()  # takes the number of the process, once for all
    found = ctypes.CDLL(next(map(str, Path(torch.__file__).parent.glob("lib/libtorch_cpu.*")), None))
    for name in _SETTERS:
        if hasattr(found, name):
            getattr(found, name)(1)


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

    return run() if torch.get_num_threads() == 1 else _POOL[0].submit(run).result()
