import os
import sys
from types import SimpleNamespace

import pytest
import torch

from supervit.meters import (
    EnergyCounter,
    energy_counters,
    free_memory_bytes,
    measure_energy_j,
    peak_memory_mib,
    usable_cpus,
)

CPU = torch.device("cpu")


def powercap_zone(root, name, label, energy_uj, range_uj=1_000_000_000):
    zone = root / name
    zone.mkdir()
    for file, content in (("name", label), ("energy_uj", energy_uj), ("max_energy_range_uj", range_uj)):
        (zone / file).write_text(f"{content}\n")
    return zone / "energy_uj"


def test_energy_is_that_of_all_packages_and_of_nothing_twice(tmp_path):
    first = powercap_zone(tmp_path, "intel-rapl:0", "package-0", 5_000_000)
    second = powercap_zone(tmp_path, "intel-rapl:1", "package-1", 999_000_000)
    part = powercap_zone(tmp_path, "intel-rapl:0:0", "core", 0)
    platform = powercap_zone(tmp_path, "intel-rapl:2", "psys", 0)

    def work():
        first.write_text("7500000")
        second.write_text("1000000")  # started again from 0
        part.write_text("2000000")
        platform.write_text("9000000")

    assert measure_energy_j(work, energy_counters(CPU, tmp_path)) == pytest.approx(2.5 + 2.0)


def test_a_machine_without_counters_tells_nothing(tmp_path):
    assert energy_counters(CPU, tmp_path / "nowhere") == []
    assert measure_energy_j(lambda: None, []) is None


def test_counters_that_the_user_may_not_read_tell_nothing(tmp_path, monkeypatch):
    file = powercap_zone(tmp_path, "intel-rapl:0", "package-0", 0)
    read = type(file).read_text

    def refuse(path):
        if path == file:
            raise PermissionError
        return read(path)

    monkeypatch.setattr(type(file), "read_text", refuse)
    assert energy_counters(CPU, tmp_path) == []


def test_a_gpu_is_asked_by_its_own_name(monkeypatch):
    asked = []
    energy_mj = iter([0, 1000, 4500])  # the first reading only asks whether there is a counter
    nvml = SimpleNamespace(
        nvmlInit=lambda: None,
        nvmlDeviceGetHandleByUUID=lambda uuid: asked.append(uuid) or uuid,
        nvmlDeviceGetTotalEnergyConsumption=lambda handle: next(energy_mj),
        NVMLError=RuntimeError,
        __spec__=SimpleNamespace(name="pynvml"),
    )
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(uuid="abc"))
    counters = energy_counters(torch.device("cuda:0"))
    assert asked == ["GPU-abc"]
    assert measure_energy_j(lambda: None, counters) == 3.5


def test_a_counter_without_range_never_starts_again():
    values = iter([1.0, 4.0])
    assert measure_energy_j(lambda: None, [EnergyCounter(lambda: next(values))]) == 3.0


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells the peak of a process")
def test_peak_memory_sees_what_a_call_frees_again():
    peak = peak_memory_mib(lambda: torch.ones(64, 1024, 1024, dtype=torch.uint8), CPU)
    if peak is None:
        pytest.skip("this system does not let a process reset its peak")
    assert 60 < peak < 80
    assert peak_memory_mib(lambda: None, CPU) < 2


def group(root, **files):
    root.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (root / name.replace("__", ".")).write_text(f"{content}\n")
    return root


def test_the_processors_are_those_that_the_process_is_bound_to_and_no_more_than_its_quota(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3}, raising=False)
    assert usable_cpus(tmp_path / "none") == 4
    assert usable_cpus(group(tmp_path / "free", cpu__max="max 100000")) == 4
    assert usable_cpus(group(tmp_path / "second", cpu__max="150000 100000")) == 1.5
    group(tmp_path / "first" / "cpu", cpu__cfs_quota_us=200000, cpu__cfs_period_us=100000)
    assert usable_cpus(tmp_path / "first") == 2
    group(tmp_path / "open" / "cpu", cpu__cfs_quota_us=-1, cpu__cfs_period_us=100000)
    assert usable_cpus(tmp_path / "open") == 4
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {1}, raising=False)
    assert usable_cpus(tmp_path / "second") == 1


def test_the_memory_is_what_the_system_has_and_no_more_than_the_control_group_allows(tmp_path):
    alone = free_memory_bytes(CPU, tmp_path / "none")
    assert alone is None or alone > 0
    limits = {"memory__max": 3000, "memory__current": 2500, "memory__stat": "anon 2000\nfile 500\ninactive_file 300"}
    assert free_memory_bytes(CPU, group(tmp_path / "second", **limits)) == 1000
    group(tmp_path / "first" / "memory", memory__limit_in_bytes=5000, memory__usage_in_bytes=4000)
    assert free_memory_bytes(CPU, tmp_path / "first") == 1000
    open_end = free_memory_bytes(CPU, group(tmp_path / "open", memory__max="max", memory__current=5))
    assert open_end is None or open_end > 1000
