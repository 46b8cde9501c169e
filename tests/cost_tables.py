"""Cost tables that were never measured."""

from supervit import Complexity
from supervit.cost_table import Cost, CostTable, Setup


def cost(text="4@0.5", batch_size=1, latency_ms=1.0, top1=None, **changes) -> Cost:
    values = {"throughput_ips": 1000 * batch_size / latency_ms, "macs": 20, "executed_macs": 10, "top1": top1}
    return Cost(Complexity.of(text), batch_size, latency_ms, 1.2 * latency_ms, **{**values, **changes})


def setup(**changes) -> Setup:
    values = {"model": "m", "device": "d", "cpus": 2.0, "runtime": "eager", "precision": "float32", "threads": 1}
    return Setup(**{**values, "versions": {"torch": "2"}, "date": "2026-01-01T00:00:00+00:00", **changes})


def table(*rows: Cost) -> CostTable:
    return CostTable(rows, setup())
