"""What each operating point is worth (accuracy) and costs (MACs, images per second)."""

import os
import platform
import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import timm
import torch
from torch import Tensor, nn

from supervit._version import __version__
from supervit.complexity import Complexity
from supervit.config import SuperViTConfig
from supervit.distributed import World
from supervit.errors import InputError
from supervit.macs import executed_macs, macs
from supervit.model import SuperViT

Way = TypeVar("Way")


@dataclass(frozen=True)
class Accuracy:
    """Accuracy of one operating point, in percent."""

    top1: float
    top5: float
    images: int


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


@torch.inference_mode()
def evaluate(
    model: SuperViT,
    batches: Iterable[tuple[Tensor, Tensor]],
    complexities: Sequence[Complexity] | None = None,
    world: World | None = None,
) -> dict[Complexity, Accuracy]:
    """Top-1 and top-5 of every operating point in one pass over the data.

    Args:
        model: Is put into evaluation mode for the pass.
        batches: Normalised images (B, C, S, S) and class indices (B).
        complexities: Operating points; default: the model's menu.
        world: The processes that evaluate a part each; the accuracy is that of all parts together.

    Raises:
        InputError: no images, or a class index that the model does not have.
    """
    points = list(dict.fromkeys(complexities or model.config.space))
    device = next(model.parameters()).device
    hits = torch.zeros(len(points), 2, dtype=torch.long, device=device)
    seen = torch.zeros((), dtype=torch.long)
    with evaluation_mode(model):
        for images, labels in batches:
            if len(labels) and int(labels.max()) >= model.num_classes:
                raise InputError(f"class index {int(labels.max())} in the data, but the model has {model.num_classes} classes")
            labels = labels.to(device)
            for row, logits in enumerate(model.forward_paths(images.to(device), points)):
                is_hit = logits.topk(min(5, model.num_classes), dim=1).indices == labels[:, None]
                hits[row] += torch.stack([is_hit[:, 0].sum(), is_hit.sum()])
            seen += len(labels)
    world = world or World()
    images_seen = int(world.total(seen))
    if not images_seen:
        raise InputError("no images to evaluate on")
    percent = (100 * world.total(hits).cpu().double() / images_seen).tolist()
    return {point: Accuracy(top1, top5, images_seen) for point, (top1, top5) in zip(points, percent, strict=True)}


@torch.inference_mode()
def measure_throughput(
    model: SuperViT, complexities: Sequence[Complexity], batch_size: int = 64, repeats: int = 10, warmup: int = 2
) -> dict[Complexity, float]:
    """Images per second of each operating point: the paper's protocol, batch_size * repeats / total time.

    Args:
        model: Is put into evaluation mode.
        complexities: Operating points.
        batch_size: Images per batch (paper: 512).
        repeats: Timed batches per operating point (paper: 50).
        warmup: Batches per operating point before the clock starts.

    Raises:
        InputError: batch_size or repeats under 1.
    """
    if batch_size < 1 or repeats < 1 or warmup < 0:
        raise InputError(f"batch_size {batch_size} and repeats {repeats} must be at least 1, warmup {warmup} at least 0")
    config, parameter = model.config, next(model.parameters())
    images = torch.randn(batch_size, config.in_chans, config.image_size, config.image_size)
    images = images.to(parameter.device, parameter.dtype)
    with evaluation_mode(model):
        seconds = time_calls(model, images, complexities, repeats, warmup)
    return {point: batch_size * repeats / sum(each) for point, each in seconds.items()}


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """The model in evaluation mode, and as it was afterwards."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


def time_calls(
    run: Callable[[Tensor, Way], Any], images: Tensor, ways: Sequence[Way], repeats: int, warmup: int
) -> dict[Way, list[float]]:
    """Seconds of each of `repeats` calls in every way, such as operating points, after `warmup` calls that do not count.

    The ways take turns, a call each, so that a slow moment of a shared machine hits all alike.
    """
    seconds: dict[Way, list[float]] = {way: [] for way in ways}
    for repeat in range(-warmup, repeats):
        for way, each in seconds.items():
            elapsed = time_call(run, images, way)
            if repeat >= 0:
                each.append(elapsed)
    return seconds


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
            )
        )
    return rows


def environment(device: torch.device) -> dict[str, Any]:
    """What a measurement was made with: device, threads and versions."""
    return {
        "device": device_name(device),
        "threads": torch.get_num_threads(),
        "versions": {"supervit": __version__, "torch": torch.__version__, "timm": timm.__version__},
    }


def device_name(device: torch.device) -> str:
    """What the device calls itself: the GPU's name, or the processor's and its number of cores."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    cpu_list = Path("/proc/cpuinfo")
    names = re.findall(r"^model name\s*: (.+)$", cpu_list.read_text(), re.MULTILINE) if cpu_list.exists() else []
    return f"{names[0] if names else platform.processor() or platform.machine()}, {os.cpu_count()} cores"


def pick_device(name: str) -> torch.device:
    """The torch device of that name; `auto` is the GPU if there is one.

    Raises:
        InputError: no such device here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"device {name!r} cannot be used ({str(error).splitlines()[0]}); use auto, cpu or cuda") from error
    return device
