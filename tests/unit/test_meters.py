import sys
from types import SimpleNamespace

import pytest
import torch

from supervit.meters import EnergyCounter, energy_counters, measure_energy_j, peak_memory_mib

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
