"""Measures a cost table, and how fast cascades are."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from supervit.cascade import Cascade, Ladder
from supervit.complexity import Complexity
from supervit.config import SuperViTConfig
from supervit.cost_table import Cost, CostTable, Setup
from supervit.errors import InputError
from supervit.evaluate import evaluation_mode, time_call, time_calls
from supervit.macs import executed_macs, macs
from supervit.meters import energy_counters, measure_energy_j, peak_memory_mib
from supervit.model import SuperViT


def profile(
    model: SuperViT,
    complexities: Sequence[Complexity] | None = None,
    batch_sizes: Sequence[int] = (1,),
    repeats: int = 30,
    warmup: int = 3,
) -> CostTable:
    """The cost table of a model that PyTorch runs on the device where it is; other arguments as in `measure_costs`.

    Args:
        model: Is put into evaluation mode for the measurement.
        complexities: Operating points; default: the model's menu.
    """
    points = list(model.config.space) if complexities is None else complexities
    like = next(model.parameters())
    with evaluation_mode(model):
        rows = measure_costs(model, model.config, points, batch_sizes, repeats=repeats, warmup=warmup, like=like)
    return CostTable(tuple(rows), Setup.of(model))


@torch.inference_mode()
def measure_costs(
    run: Callable[[Tensor, Complexity], Any],
    config: SuperViTConfig,
    complexities: Sequence[Complexity],
    batch_sizes: Sequence[int] = (1,),
    *,
    repeats: int = 30,
    warmup: int = 3,
    like: Tensor | None = None,
) -> list[Cost]:
    """The costs of every operating point at every batch size.

    Args:
        run: What is measured: takes normalised images (B, C, S, S) and an operating point.
        config: Of the model that `run` runs.
        complexities: Operating points, trained or not.
        batch_sizes: Images per batch.
        repeats: Timed batches per row; the operating points take turns.
        warmup: Batches per row before the clock starts.
        like: A tensor of the device and type that the images shall have; default: CPU, float32.

    Raises:
        InputError: nothing to measure, a batch size or `repeats` under 1, or a negative `warmup`.
    """
    if not complexities or not batch_sizes:
        raise InputError("nothing to measure; name at least one operating point and one batch size")
    if min(batch_sizes) < 1 or repeats < 1 or warmup < 0:
        raise InputError(f"batch sizes {batch_sizes} and repeats {repeats} must be at least 1, warmup {warmup} at least 0")
    like = torch.empty(0) if like is None else like
    rows = []
    for batch_size in dict.fromkeys(batch_sizes):
        images = torch.randn(batch_size, config.in_chans, config.image_size, config.image_size).to(like)
        for point, seconds in time_calls(run, images, complexities, repeats, warmup).items():
            p50, p95 = torch.tensor(seconds).quantile(torch.tensor([0.5, 0.95])).tolist()
            call = partial(time_call, run, images, point)
            rows.append(
                Cost(
                    complexity=point,
                    batch_size=batch_size,
                    latency_ms_p50=1e3 * p50,
                    latency_ms_p95=1e3 * p95,
                    throughput_ips=batch_size * repeats / sum(seconds),
                    macs=macs(config, point),
                    executed_macs=executed_macs(config, point),
                    peak_memory_mib=peak_memory_mib(call, like.device),
                    energy_j=_energy_j(call, p50, batch_size, like.device),
                )
            )
    return rows


def _energy_j(call: Callable[[], Any], seconds: float, batch_size: int, device: torch.device) -> float | None:
    """Joules per image, from calls for a second: the counters of energy tick slowly."""
    calls = math.ceil(1 / seconds)
    total_j = measure_energy_j(lambda: [call() for _ in range(calls)], energy_counters(device))
    return None if total_j is None else total_j / (calls * batch_size)


def measure_ladders(
    model: SuperViT, ladders: Sequence[Ladder], images: Tensor, batch_size: int, repeats: int = 3
) -> dict[Ladder, float]:
    """Images per second of cascades over the same images (N, C, S, S); a ladder of one rung is that operating point alone.

    Args:
        model: As for `Cascade`.
        ladders: Ladders, which take turns.
        images: Images as they come in practice: which climb decides the time.
        batch_size: Images per batch at every rung.
        repeats: Timed passes per ladder, after one that does not count.
    """

    def run(images: Tensor, ladder: Ladder) -> None:
        Cascade(model, ladder, batch_size).run(images.split(batch_size))

    seconds = time_calls(run, images, ladders, repeats, warmup=1)
    return {ladder: len(images) * repeats / sum(each) for ladder, each in seconds.items()}
