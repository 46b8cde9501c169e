"""What a run writes down: losses per path, accuracy, learning rate, throughput."""

import json
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from supervit.complexity import Complexity
from supervit.distributed import World
from supervit.errors import InputError
from supervit.files import append_line, check_regular, parse_json, whole_file


class Window:
    """The steps since the last log entry; losses and norms stay on the device until they are read."""

    def __init__(self) -> None:
        self.images = 0
        self.start = time.perf_counter()
        self.waited_s = 0.0
        self.steps: list[tuple[int, float, tuple[Complexity, ...]]] = []  # step, learning rate, paths
        self._losses: list[Tensor] = []
        self._norms: list[Tensor] = []

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Within: the time counts as waiting for data."""
        start = time.perf_counter()
        yield
        self.waited_s += time.perf_counter() - start

    def add(self, step: int, lr: float, images: int, paths: tuple[Complexity, ...], losses: Tensor, norm: Tensor) -> None:
        """Add one step: its images, paths, their losses (P) and the norm of the gradient."""
        self.images += images
        self.steps.append((step, lr, paths))
        self._losses.append(losses)
        self._norms.append(norm)

    def read(self, world: World) -> "WindowMeans":
        """Means over the steps and the processes; every process must ask. The one wait for the device of a window."""
        values = world.total(torch.cat([*self._losses, torch.stack(self._norms)])) / world.size
        *losses, norms = values.cpu().split([*(len(losses) for losses in self._losses), len(self._norms)])
        return WindowMeans(self, losses, norms.tolist(), world.size)


class WindowMeans:
    """A window's numbers, read from the device.

    Args:
        window: The window.
        losses: Losses (P) of each step.
        norms: Gradient norm of each step.
        processes: Processes that trained.
    """

    def __init__(self, window: Window, losses: list[Tensor], norms: list[float], processes: int):
        seconds = time.perf_counter() - window.start
        self.images_per_s = window.images * processes / seconds
        self.data_wait = window.waited_s / seconds
        self.is_good = [bool(step.isfinite().all()) and math.isfinite(norm) for step, norm in zip(losses, norms, strict=True)]
        self._steps, self._losses, self._norms = window.steps, losses, norms

    def bad_step(self) -> str | None:
        """The first step whose losses or gradients are not finite, in words."""
        for (step, lr, paths), losses, good in zip(self._steps, self._losses, self.is_good, strict=True):
            if not good:
                bad = [str(path) for path, loss in zip(paths, losses.tolist(), strict=True) if not math.isfinite(loss)]
                what = f"the loss of {', '.join(bad)}" if bad else "the gradient"
                return f"{what} is not finite in step {step} (learning rate {lr:.3g})"
        return None

    def entry(self) -> dict[str, Any]:
        """The log entry; steps that are not finite are counted and left out of the means."""
        per_path: dict[Complexity, list[float]] = {}
        totals, norms = [], []
        for (_, _, paths), losses, norm, good in zip(self._steps, self._losses, self._norms, self.is_good, strict=True):
            if good:
                totals.append(float(losses.sum()))
                norms.append(norm)
                for path, loss in zip(paths, losses.tolist(), strict=True):
                    per_path.setdefault(path, []).append(loss)
        return {
            "loss": _mean(totals),
            "losses": {str(path): _mean(per_path[path]) for path in sorted(per_path)},
            "grad_norm": _mean(norms),
            "skipped_steps": self.is_good.count(False),
            "images_per_s": self.images_per_s,
            "data_wait": self.data_wait,
        }


def _mean(values: list[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _cut_back(path: Path, step: int) -> None:
    """Leave out the entries beyond a step, and a line that was being written when a run was killed or the disk was full."""
    with whole_file(path) as temporary, check_regular(path).open("rb") as before, temporary.open("wb") as after:
        after.writelines(line for line in before if line.endswith(b"\n") and not _is_beyond(line, step))


def _is_beyond(line: bytes, step: int) -> bool:
    with suppress(InputError):  # what cannot be read stays: it is not ours to judge
        entry = parse_json(line)
        return isinstance(entry, dict) and isinstance(entry.get("step"), int) and entry["step"] > step
    return False


class RunLog:
    """A log of JSON objects, one a line, each with the time (Unix seconds). Steps never fall from one line to the next.

    Where a run goes on from a checkpoint, the log is cut back to its step first, so that no step stands in it twice.

    Args:
        directory: Of the run; the log is its `log.jsonl`.
        step: Steps done.
        tensorboard: Whether numbers go to TensorBoard too.
        wandb: Project of Weights & Biases that numbers go to too, or None.

    Raises:
        InputError: what was asked for is not installed, or the log cannot be written.
    """

    def __init__(self, directory: Path, step: int = 0, tensorboard: bool = False, wandb: str | None = None):
        self.path = directory / "log.jsonl"
        if self.path.exists():
            _cut_back(self.path, step)
        self._tensorboard: Any = None
        self._wandb: Any = None
        if tensorboard:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError as error:
                raise InputError("--tensorboard needs tensorboard; pip install 'supervit[tensorboard]'") from error
            self._tensorboard = SummaryWriter(str(directory / "tensorboard"), purge_step=step + 1)
        if wandb is not None:
            try:
                import wandb as weights_and_biases
            except ImportError as error:
                raise InputError("--wandb needs wandb; pip install wandb") from error
            name = directory.resolve().name
            self._wandb = weights_and_biases.init(project=wandb, dir=directory, id=name, name=name, resume="allow")

    def write(self, event: str, step: int, **values: Any) -> None:
        """Append one entry; its numbers, also those one level down, go to the other logs as `event/name/key`.

        Raises:
            InputError: the log cannot be written.
        """
        entry = {"time": round(time.time(), 3), "event": event, "step": step, **values}
        append_line(self.path, json.dumps(entry, allow_nan=False))
        numbers = {
            f"{event}/{name}": number
            for key, value in values.items()
            for name, number in (
                {f"{key}/{k}": v for k, v in value.items()} if isinstance(value, dict) else {key: value}
            ).items()
            if isinstance(number, int | float)
        }
        if self._tensorboard is not None:
            for name, number in numbers.items():
                self._tensorboard.add_scalar(name, number, step)
            self._tensorboard.flush()
        if self._wandb is not None:
            self._wandb.log(numbers, step=step)
