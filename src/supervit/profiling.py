"""Measures a cost table, and how fast cascades are."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from supervit.cascade import Cascade, Ladder
from supervit.complexity import Complexity
from supervit.cost_table import Cost, CostTable, Setup
from supervit.errors import InputError
from supervit.evaluate import random_images, time_call, time_calls
from supervit.macs import executed_macs, macs
from supervit.meters import energy_counters, measure_energy_j, peak_memory_mib
from supervit.runtimes import AnyModel, Runtime, as_runtime


def profile(
    model: AnyModel,
    complexities: Sequence[Complexity] | None = None,
    batch_sizes: Sequence[int] = (1,),
    repeats: int = 30,
    warmup: int = 3,
) -> CostTable:
    """The cost table of a model where it is, or of a runtime.

    Args:
        model: A model, which is in evaluation mode meanwhile, or a runtime.
        complexities: Operating points, trained or not; default: the menu.
        batch_sizes: Images per batch.
        repeats: Timed batches per row; the operating points take turns of five in a row.
        warmup: Batches per row before the clock starts.

    Raises:
        InputError: nothing to measure, a batch size or `repeats` under 1, or a negative `warmup`.
    """
    runtime = as_runtime(model)
    points = runtime.points if complexities is None else complexities
    with runtime.evaluating():
        rows = _measure_costs(runtime, points, batch_sizes, repeats, warmup)
    return CostTable(tuple(rows), Setup.of(runtime))


def _measure_costs(
    runtime: Runtime, complexities: Sequence[Complexity], batch_sizes: Sequence[int], repeats: int, warmup: int
) -> list[Cost]:
    if not complexities or not batch_sizes:
        raise InputError("nothing to measure; name at least one operating point and one batch size")
    if min(batch_sizes) < 1 or repeats < 1 or warmup < 0:
        raise InputError(f"batch sizes {batch_sizes} and repeats {repeats} must be at least 1, warmup {warmup} at least 0")
    config, rows = runtime.model_config, []
    for batch_size in dict.fromkeys(batch_sizes):
        images = random_images(runtime, batch_size, complexities)
        for point, seconds in time_calls(runtime.logits, images, complexities, repeats, warmup).items():
            p50, p95 = torch.tensor(seconds).quantile(torch.tensor([0.5, 0.95])).tolist()
            call = partial(time_call, runtime.logits, images, point)
            rows.append(
                Cost(
                    complexity=point,
                    batch_size=batch_size,
                    latency_ms_p50=1e3 * p50,
                    latency_ms_p95=1e3 * p95,
                    throughput_ips=batch_size * repeats / sum(seconds),
                    macs=macs(config, point),
                    executed_macs=executed_macs(config, point),
                    peak_memory_mib=peak_memory_mib(call, runtime.device),
                    energy_j=_energy_j(call, p50, batch_size, runtime.device),
                )
            )
    return rows


def _energy_j(call: Callable[[], Any], seconds: float, batch_size: int, device: torch.device) -> float | None:
    """Joules per image, from calls for a second: the counters of energy tick slowly."""
    calls = math.ceil(1 / seconds)
    total_j = measure_energy_j(lambda: [call() for _ in range(calls)], energy_counters(device))
    return None if total_j is None else total_j / (calls * batch_size)


def measure_ladders(
    model: AnyModel, ladders: Sequence[Ladder], images: Tensor, batch_size: int, repeats: int = 3
) -> dict[Ladder, float]:
    """Images per second of cascades over the same images (N, C, S, S); a ladder of one rung is that operating point alone.

    Args:
        model: As for `Cascade`.
        ladders: Ladders, which take turns.
        images: Images as they come in practice: which climb decides the time.
        batch_size: Images per batch at every rung.
        repeats: Timed passes per ladder, after one that does not count.
    """
    cascades = {ladder: Cascade(model, ladder, batch_size) for ladder in ladders}

    def run(images: Tensor, ladder: Ladder) -> None:
        cascades[ladder].run(images.split(batch_size))

    seconds = time_calls(run, images, ladders, repeats, warmup=1, in_a_row=1)
    return {ladder: len(images) * repeats / sum(each) for ladder, each in seconds.items()}
