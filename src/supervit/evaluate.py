"""What each operating point is worth (accuracy) and costs (MACs, images per second)."""

import contextlib
import math
import os
import platform
import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar

import timm
import torch
from torch import Tensor

from supervit._version import __version__
from supervit.complexity import Complexity, sides
from supervit.config import SuperViTConfig
from supervit.distributed import World
from supervit.errors import InputError
from supervit.limits import check_memory
from supervit.macs import executed_macs, macs
from supervit.meters import usable_cpus
from supervit.progress import progress_bar
from supervit.runtimes import AnyModel, Runtime, as_runtime, check_finite

Way = TypeVar("Way")


@dataclass(frozen=True)
class Accuracy:
    """Accuracy of one operating point, in percent."""

    top1: float
    top5: float
    images: int

    @property
    def standard_error(self) -> float:
        """Of `top1`, in percentage points."""
        return standard_error(self.top1, self.images)


def standard_error(percent: float, images: int) -> float:
    """The standard error of a share of so many images, in percentage points: 100 sqrt(p (1 - p) / n)."""
    share = percent / 100
    return 100 * math.sqrt(max(share * (1 - share), 0.0) / images)


@dataclass(frozen=True)
class Result:
    """One operating point in a table."""

    complexity: Complexity
    macs: int
    """Multiply-accumulates per image, the paper's count."""
    executed_macs: int
    """Multiply-accumulates per image that really run."""
    top1: float | None = None
    """Percent."""
    top5: float | None = None
    """Percent."""
    throughput_ips: float | None = None
    """Images per second."""
    top1_standard_error: float | None = None
    """Percentage points."""


def evaluate(
    model: AnyModel,
    batches: Iterable[tuple[Tensor, Tensor]],
    complexities: Sequence[Complexity] | None = None,
    world: World | None = None,
    on_answers: Callable[[Complexity, Tensor, Tensor], None] | None = None,
) -> dict[Complexity, Accuracy]:
    """Top-1 and top-5 of every operating point in one pass over the data.

    Args:
        model: A model, which is in evaluation mode for the pass, or a runtime.
        batches: Normalised images (B, C, S, S) and class indices (B).
        complexities: Operating points; default: the menu.
        world: The processes that evaluate a part each; the accuracy is that of all parts together.
        on_answers: Called for each batch and operating point with the class indices of the images (B) and those that the
            model gives (B), such as `ClassCounts.add`.

    Raises:
        InputError: no images, a class index that the model does not have, or images or logits that are not finite.
    """
    runtime = as_runtime(model)
    classes, points = runtime.model_config.num_classes, list(dict.fromkeys(complexities or runtime.points))
    hits = torch.zeros(len(points), 2, dtype=torch.long, device=runtime.device)
    seen = torch.zeros((), dtype=torch.long)
    for images, labels in batches:
        if labels.is_floating_point() or labels.ndim != 1:
            raise InputError(f"labels of type {labels.dtype} and shape {tuple(labels.shape)}; give class indices (B)")
        if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < classes:
            bad = int(labels.min()) if int(labels.min()) < 0 else int(labels.max())
            raise InputError(f"class index {bad} in the data, but the model has {classes} classes")
        check_finite(images, "pixels")
        labels = labels.to(runtime.device)
        for row, logits in enumerate(runtime.forward_paths(images, points)):
            check_finite(logits, f"logits at {points[row]}")
            answers = logits.topk(min(5, classes), dim=1).indices
            is_hit = answers == labels[:, None]
            hits[row] += torch.stack([is_hit[:, 0].sum(), is_hit.sum()])
            if on_answers is not None:
                on_answers(points[row], labels, answers[:, 0])
        seen += len(labels)
    world = world or World()
    images_seen = int(world.total(seen))
    if not images_seen:
        raise InputError("no images to evaluate on")
    percent = (100 * world.total(hits).cpu().double() / images_seen).tolist()
    return {point: Accuracy(top1, top5, images_seen) for point, (top1, top5) in zip(points, percent, strict=True)}


def measure_throughput(
    model: AnyModel,
    complexities: Sequence[Complexity],
    batch_size: int = 64,
    repeats: int = 10,
    warmup: int = 2,
    *,
    seconds: float = 0,
    each_once: bool = False,
    check: Callable[[], None] | None = None,
) -> dict[Complexity, float]:
    """Images per second of each operating point: the paper's protocol, batch_size * repeats / total time.

    Args:
        model: A model, which is in evaluation mode meanwhile, or a runtime.
        complexities: Operating points.
        batch_size: Images per batch (paper: 512).
        repeats: Timed batches per operating point (paper: 50).
        warmup: Batches per operating point before the clock starts.
        seconds: Limit of the whole measurement, 0 for none: fewer batches are timed, as `time_calls` says. Operating points
            that got no batch at all are missing in the answer.
        each_once: Whether each operating point gets a batch, also beyond the limit.
        check: Called after each batch; what it raises ends the measurement.

    Raises:
        InputError: batch_size or repeats under 1, warmup or seconds under 0.
    """
    if batch_size < 1 or repeats < 1 or warmup < 0:
        raise InputError(f"batch_size {batch_size} and repeats {repeats} must be at least 1, warmup {warmup} at least 0")
    if not seconds >= 0:
        raise InputError(f"seconds {seconds!r} must be at least 0, which means no limit")
    runtime = as_runtime(model)
    with runtime.evaluating():
        images = random_images(runtime, batch_size, complexities)
        limits: dict[str, Any] = {"seconds": seconds, "each_once": each_once, "check": check}
        timed = time_calls(runtime.logits, images, complexities, repeats, warmup, **limits)
    return {point: batch_size * len(each) / sum(each) for point, each in timed.items() if each}


def random_images(runtime: Runtime, batch_size: int, complexities: Sequence[Complexity] = ()) -> Tensor:
    """Noise (B, C, H, W) of the size of the images that operating points see (default: the menu), placed for a runtime."""
    config = runtime.model_config.view(complexities)
    check_memory(config, config.space.largest, batch_size, runtime.device)
    return runtime.place(torch.randn(batch_size, config.in_chans, *sides(config.image_size)))


def time_calls(
    run: Callable[[Tensor, Way], Any],
    images: Tensor,
    ways: Sequence[Way],
    repeats: int,
    warmup: int,
    in_a_row: int = 5,
    *,
    seconds: float = 0,
    each_once: bool = False,
    check: Callable[[], None] | None = None,
) -> dict[Way, list[float]]:
    """Seconds of each of `repeats` calls in every way, such as operating points, after `warmup` calls that do not count.

    The ways take turns, so that a slow moment of a shared machine hits all alike.

    Args:
        run: What is called, with the images and a way.
        images: What it is called on.
        ways: The ways.
        repeats: Timed calls in each way.
        warmup: Calls in each way before the first turn.
        in_a_row: Timed calls in a turn. With more than one, a call before them does not count: some runtimes prepare for
            other sizes then, which is no cost of a way.
        seconds: Limit of all together, 0 for none: no call begins after it. A way whose timed calls were not reached by then
            has its last call that should not count; one that was never called has none.
        each_once: Whether a way that was never called is called once, also beyond the limit.
        check: Called after each call; what it raises ends the timing.
    """
    ways = list(dict.fromkeys(ways))
    turns = list(_turns(ways, repeats, warmup, in_a_row))
    timed: dict[Way, list[float]] = {way: [] for way in ways}
    uncounted: dict[Way, list[float]] = {way: [] for way in ways}
    end = time.monotonic() + (seconds or math.inf)
    with progress_bar("time", len(turns), "call") as advance:
        for way, counts in turns:
            if time.monotonic() > end and not (each_once and not timed[way] and not uncounted[way]):
                continue
            (timed if counts else uncounted)[way].append(time_call(run, images, way))
            advance(1)
            if check is not None:
                check()
    return {way: timed[way] or uncounted[way][-1:] for way in ways}


def _turns(ways: Sequence[Way], repeats: int, warmup: int, in_a_row: int) -> Iterator[tuple[Way, bool]]:
    """The way of each call, in order, and whether it counts."""
    for _ in range(warmup):
        yield from ((way, False) for way in ways)
    for done in range(0, repeats, in_a_row):
        for way in ways:
            if in_a_row > 1:
                yield way, False
            yield from [(way, True)] * min(in_a_row, repeats - done)


def time_call(run: Callable[..., Any], images: Tensor, *arguments: Any) -> float:
    """Seconds that one call takes, waiting for the device to finish."""
    start = time.perf_counter()
    run(images, *arguments)
    if images.is_cuda:
        torch.cuda.synchronize(images.device)
    return time.perf_counter() - start


def tabulate(
    config: SuperViTConfig,
    complexities: Sequence[Complexity],
    accuracies: dict[Complexity, Accuracy] | None = None,
    throughputs: dict[Complexity, float] | None = None,
) -> list[Result]:
    """One `Result` per operating point, with the costs, and what has been measured of the rest."""
    rows = []
    for point in complexities:
        accuracy = (accuracies or {}).get(point)
        rows.append(
            Result(
                complexity=point,
                macs=macs(config, point),
                executed_macs=executed_macs(config, point),
                top1=accuracy.top1 if accuracy else None,
                top5=accuracy.top5 if accuracy else None,
                throughput_ips=(throughputs or {}).get(point),
                top1_standard_error=accuracy.standard_error if accuracy else None,
            )
        )
    return rows


def environment(device: torch.device) -> dict[str, Any]:
    """What a measurement was made with: device, processors that it could use, threads and versions."""
    return {
        "device": device_name(device),
        "cpus": usable_cpus(),
        "threads": torch.get_num_threads(),
        "versions": {"supervit": __version__, "torch": torch.__version__, "timm": timm.__version__, **_optional_versions()},
    }


def _optional_versions() -> dict[str, str]:
    found = {}
    for name in ("onnx", "onnxruntime", "openvino", "nncf"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def runtime_environment(runtime: Runtime) -> dict[str, Any]:
    """What a measurement of a runtime was made with."""
    here = {"runtime": runtime.name, "precision": runtime.precision, "threads": runtime.threads}
    return environment(runtime.device) | here


def device_name(device: torch.device) -> str:
    """What the device calls itself: the GPU's name, or the processor's and its number of cores."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    cpu_list = Path("/proc/cpuinfo")
    names = re.findall(r"^model name\s*: (.+)$", cpu_list.read_text(), re.MULTILINE) if cpu_list.exists() else []
    return f"{names[0] if names else platform.processor() or platform.machine()}, {os.cpu_count()} cores"
