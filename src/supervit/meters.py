"""What this process may use of the machine, and what a call takes besides time: memory and energy, where the machine tells."""

import ctypes
import importlib.util
import math
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

CGROUPS = Path("/sys/fs/cgroup")
POWERCAP = Path("/sys/class/powercap")
_MIB = 2**20


def usable_cpus(cgroups: Path = CGROUPS) -> float:
    """Processors that this process may use: those it is bound to, and no more than the quota of its control group."""
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quotas = [float(bound)]
    for group in _own_groups(cgroups, "cpu"):
        quota, period = _first_line(group / "cpu.max").split() if (group / "cpu.max").exists() else (
            _first_line(group / "cpu.cfs_quota_us"), _first_line(group / "cpu.cfs_period_us"))  # fmt: skip
        if quota.isdigit() and period.isdigit():  # else "max", -1 or no such file
            quotas.append(round(int(quota) / int(period), 2))
    return min(quotas)


def free_memory_bytes(device: torch.device, cgroups: Path = CGROUPS) -> int | None:
    """Bytes that this process can still get; None where the system does not tell."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    lines = _lines(Path("/proc/meminfo"))
    found = [1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")]
    for group in _own_groups(cgroups, "memory"):
        limits = [_first_line(group / name) for name in ("memory.max", "memory.limit_in_bytes")]
        used = [_first_line(group / name) for name in ("memory.current", "memory.usage_in_bytes")]
        cache = [line.split()[1] for line in _lines(group / "memory.stat") if line.split()[0] in ("inactive_file", "file")]
        for limit, held in zip(limits, used, strict=True):
            if limit.isdigit() and held.isdigit():
                found.append(int(limit) - int(held) + max(map(int, cache), default=0))  # the cache of files makes room
    return max(min(found), 0) if found else None


def _own_groups(cgroups: Path, controller: str) -> list[Path]:
    """The directories of this process's control group and those above it: of version 2, and of a controller's version 1."""
    groups = [cgroups, cgroups / controller]
    for line in _lines(Path("/proc/self/cgroup")):
        _, controllers, path = line.split(":", 2)
        root = cgroups / controller if controller in controllers.split(",") else cgroups if not controllers else None
        if root is not None:
            parts = [part for part in path.split("/") if part not in ("", "..")]
            groups += [root.joinpath(*parts[:count]) for count in range(1, len(parts) + 1)]
    return groups


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text().splitlines()
    except OSError:  # not Linux, or not for us
        return []


def _first_line(file: Path) -> str:
    return next(iter(_lines(file)), "")


def peak_memory_mib(call: Callable[[], Any], device: torch.device) -> float | None:
    """MiB that a call holds at its peak beyond what was held before it; None where the system does not tell.

    On a GPU, what PyTorch allocates. On a CPU, the resident memory of the process as Linux counts it. Warm up first: what a
    first call sets up for good counts too.
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        held = torch.cuda.memory_allocated(device)
        call()
        return (torch.cuda.max_memory_allocated(device) - held) / _MIB
    _give_back_freed_memory()
    try:
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from here
    except OSError:  # not Linux, or a sandbox that does not allow it
        return None
    held = _status_kib("VmRSS")
    call()
    return max(_status_kib("VmHWM") - held, 0) * 1024 / _MIB


def _give_back_freed_memory() -> None:
    """Return freed memory to the system, which glibc keeps for the next call: else that call would seem to need none."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)


def _status_kib(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


@dataclass(frozen=True)
class EnergyCounter:
    """A counter of joules that only grows, but may start again from 0."""

    read_j: Callable[[], float]
    range_j: float = math.inf
    """Where it starts again."""


def energy_counters(device: torch.device, powercap: Path = POWERCAP) -> list[EnergyCounter]:
    """The counters of a device: NVML's of a GPU, RAPL's of all processor packages; none where they cannot be read.

    RAPL is often readable by the administrator alone; NVML needs the package nvidia-ml-py.
    """
    return _nvml_counters(device) if device.type == "cuda" else _rapl_counters(powercap)


def measure_energy_j(call: Callable[[], Any], counters: Sequence[EnergyCounter]) -> float | None:
    """Joules that the device uses during a call, idle power included; None without a counter.

    The counters tick every 1 ms (RAPL) to 100 ms (NVML): let the call last a second.
    """
    if not counters:
        return None
    before = [counter.read_j() for counter in counters]
    call()
    after = [counter.read_j() for counter in counters]
    return sum((end - start) % counter.range_j for counter, start, end in zip(counters, before, after, strict=True))


def _rapl_counters(powercap: Path) -> list[EnergyCounter]:
    counters = []
    for zone in sorted(powercap.glob("intel-rapl:*")):  # AMD's are called so too
        if zone.name.count(":") > 1 or not (zone / "name").read_text().startswith("package"):
            continue  # a part of a package, or the whole platform
        try:
            (zone / "energy_uj").read_text()
        except PermissionError:
            return []
        range_j = int((zone / "max_energy_range_uj").read_text()) / 1e6
        counters.append(EnergyCounter(lambda zone=zone: int((zone / "energy_uj").read_text()) / 1e6, range_j))  # type: ignore[misc]
    return counters


def _nvml_counters(device: torch.device) -> list[EnergyCounter]:
    if importlib.util.find_spec("pynvml") is None:
        return []
    import pynvml

    try:
        pynvml.nvmlInit()
        handle = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{torch.cuda.get_device_properties(device).uuid}")
        pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)
    except pynvml.NVMLError:  # a GPU or driver without this counter
        return []
    return [EnergyCounter(lambda: pynvml.nvmlDeviceGetTotalEnergyConsumption(handle) / 1e3)]
