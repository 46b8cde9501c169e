"""Which runtime is the best here: each is measured beside PyTorch in float32, on the same images."""

import gc
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from supervit.complexity import Complexity, grid_text
from supervit.errors import InputError
from supervit.evaluate import time_calls
from supervit.model import SuperViT
from supervit.options import Precision
from supervit.progress import track
from supervit.runtimes import (
    Availability,
    Runtime,
    RuntimeConfig,
    available_runtimes,
    check_finite,
    open_runtime,
    pick_device,
)


@dataclass(frozen=True)
class Comparison:
    """One operating point in one runtime, against PyTorch's `eager` in float32."""

    runtime: str
    precision: Precision
    complexity: Complexity
    latency_ms: float
    """Median time of one batch."""
    speedup: float
    """Median time of `eager` in float32, measured next to this one, over the median time here."""
    top1: float
    """Percent."""
    top1_change: float
    """Percentage points more than `eager` in float32."""
    agreement: float
    """Images that get the class that `eager` in float32 gives them, in percent."""


def _raise_failure(_: Availability, outcome: list[Comparison] | Exception) -> None:
    if isinstance(outcome, Exception):
        raise outcome


def compare_runtimes(
    model: SuperViT,
    images: Tensor,
    labels: Tensor,
    complexities: Sequence[Complexity],
    *,
    calibration: Tensor | None = None,
    device: str = "cpu",
    threads: int | None = None,
    batch_size: int = 16,
    repeats: int = 10,
    on_done: Callable[[Availability, list[Comparison] | Exception], None] = _raise_failure,
) -> list[Comparison]:
    """All runtimes of this device in all their precisions, `eager` in float32 first.

    Args:
        model: Is left as it is.
        images: Normalised images (N, C, S, S), in memory.
        labels: Their class indices (N).
        complexities: Operating points of the menu's grids.
        calibration: Other images, which int8 is calibrated on; without them int8 is left out.
        device: Torch device, or `auto`.
        threads: CPU threads; default: those of PyTorch.
        batch_size: Images per batch, of which there must be one.
        repeats: Timed batches per operating point and runtime, after two that do not count.
        on_done: Called with each runtime as soon as it is done, and its rows or the error that it failed with;
            default: an error is raised.

    Raises:
        InputError: nothing to compare on, fewer images than a batch has, or a batch size or `repeats` under 1.
    """
    if not complexities or not 1 <= batch_size <= len(images) or repeats < 1:
        raise InputError(
            f"{len(complexities)} operating points, batch_size {batch_size} of {len(images)} images and repeats {repeats} must "
            "all be at least 1, and the images at least a batch"
        )
    if other := [point for point in complexities if point.grid_size not in model.config.grid_sizes]:
        grids = ", ".join(map(grid_text, model.config.grid_sizes))
        raise InputError(
            f"grid size {grid_text(min(other).grid_size)} is not on the menu and so not in exported graphs; use one of {grids}"
        )
    device = str(pick_device(device))
    reference = open_runtime("eager", model, RuntimeConfig(device, threads=threads))
    expected = _classes(reference, images, complexities, batch_size)
    rows: list[Comparison] = []
    lacking = "int8" if calibration is None else ""
    able = [found for found in available_runtimes(device) if not found.obstacle and found.precision != lacking]
    for found in track(able, "runtimes", len(able), "runtime"):
        int8_images = calibration if found.precision == "int8" else None
        config = RuntimeConfig(device, found.precision, threads, int8_images)
        outcome: list[Comparison] | Exception
        try:
            runtime = open_runtime(found.name, model, config)
            rows += (outcome := _compare(found, runtime, reference, expected, images, labels, batch_size, repeats))
        except Exception as error:
            outcome = error
        on_done(found, outcome)
        gc.collect()  # its threads end with it, and would take turns with those of the next one
        torch.compiler.reset()
    return sorted(rows, key=lambda row: (row.runtime, row.precision) != ("eager", "float32"))


def _compare(
    found: Availability,
    runtime: Runtime,
    reference: Runtime,
    expected: Mapping[Complexity, Tensor],
    images: Tensor,
    labels: Tensor,
    batch_size: int,
    repeats: int,
) -> list[Comparison]:
    """One runtime against the reference, which gives the `expected` classes."""
    points = list(expected)
    classes, batch = _classes(runtime, images, points, batch_size), reference.place(images[:batch_size])
    before, here = (time_calls(each.logits, batch, points, repeats, warmup=2) for each in (reference, runtime))
    rows = []
    for point in points:
        top1, latency_s = _percent(classes[point] == labels), statistics.median(here[point])
        rows.append(
            Comparison(
                found.name, found.precision, point,
                latency_ms=1e3 * latency_s,
                speedup=statistics.median(before[point]) / latency_s,
                top1=top1,
                top1_change=top1 - _percent(expected[point] == labels),
                agreement=_percent(classes[point] == expected[point]),
            )
        )  # fmt: skip
    return rows


def best_runtime(rows: Sequence[Comparison], max_loss: float = 0.2) -> tuple[str, Precision]:
    """Name and precision of the fastest runtime that loses at most `max_loss` points of top-1 at any operating point.

    Fastest is the one of the highest geometric mean of the speedups.

    Raises:
        InputError: none loses so little.
    """
    speedups: dict[tuple[str, Precision], list[float]] = {}
    for row in rows:
        speedups.setdefault((row.runtime, row.precision), []).append(row.speedup)
    enough = -max_loss - 1e-9  # 80.0 - 80.2 is a bit more than 0.2
    losing = {(row.runtime, row.precision) for row in rows if row.top1_change < enough}
    kept: Mapping[tuple[str, Precision], list[float]] = {key: each for key, each in speedups.items() if key not in losing}
    if not kept:
        raise InputError(f"no runtime loses at most {max_loss:g} points; allow more")
    return max(kept, key=lambda key: math.prod(kept[key]) ** (1 / len(kept[key])))


def _classes(runtime: Runtime, images: Tensor, complexities: Sequence[Complexity], batch_size: int) -> dict[Complexity, Tensor]:
    """Class indices (N) by operating point."""
    check_finite(images, "pixels")
    batches = [[runtime.logits(batch, point) for point in complexities] for batch in images.split(batch_size)]
    for each in batches:
        for point, logits in zip(complexities, each, strict=True):
            check_finite(logits, f"logits at {point}")
    return {
        point: torch.cat([logits.argmax(dim=1) for logits in each]).cpu()
        for point, each in zip(complexities, zip(*batches, strict=True), strict=True)
    }


def _percent(right: Tensor) -> float:
    return 100 * right.double().mean().item()
