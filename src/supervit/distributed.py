"""The processes that train one model together, as `torchrun` starts them; one process alone is a world of size 1."""

import os
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from supervit.errors import InputError


@dataclass(frozen=True)
class World:
    """A process among those that train together.

    Args:
        rank: Number of this process, from 0.
        size: Processes in all.
        local_rank: Number of this process on its machine: which GPU it takes.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    @classmethod
    def join(cls, device: str) -> tuple["World", str]:
        """The world that the environment of `torchrun` describes, and this process's device.

        Args:
            device: Torch device; auto takes the GPU of the local rank if there is one.

        Raises:
            InputError: several processes are to share one named GPU.
        """
        if "WORLD_SIZE" not in os.environ:  # not started by torchrun
            return cls(), device
        world = cls(*(int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK")))
        if device.startswith("cuda:") and world.size > 1:
            raise InputError(f"device {device!r} cannot serve {world.size} processes; use auto or cuda: each takes its own GPU")
        on_gpu = device.startswith("cuda") or (device == "auto" and torch.cuda.is_available())
        if on_gpu:
            device = f"cuda:{world.local_rank}"
            torch.cuda.set_device(world.local_rank)
        if not dist.is_initialized():
            store, _, _ = next(rendezvous("env://"))
            # torchrun's workers meet in the same store again after a restart, where keys of the lost ones would mislead them.
            attempt = PrefixStore(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"), store)
            backend = "cpu:gloo,cuda:nccl" if on_gpu else "gloo"
            dist.init_process_group(backend, store=attempt, rank=world.rank, world_size=world.size)
        return world, device

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and talks."""
        return self.rank == 0

    def total(self, values: Tensor) -> Tensor:
        """The sum of all processes' values; every process must ask."""
        if self.size > 1:
            dist.all_reduce(values)
        return values

    def any(self, flag: bool) -> bool:
        """Whether the flag is set in any process; every process must ask. Runs on the CPU: no device waits for it."""
        return flag if self.size == 1 else bool(self.total(torch.tensor(int(flag))))

    def gather(self, value: Any) -> list[Any]:
        """Every process's value, by rank; every process must ask."""
        values = [value] * self.size
        if self.size > 1:
            dist.all_gather_object(values, value)
        return values

    def leave(self) -> None:
        """End the work together."""
        if dist.is_initialized():
            dist.destroy_process_group()
