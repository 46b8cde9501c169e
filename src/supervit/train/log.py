"""What a run writes down: losses per path, accuracy, learning rate, throughput."""

import json
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from supervit.complexity import Complexity


class Window:
    """Losses and time of the steps since the last log entry; kept on the device until they are read."""

    def __init__(self) -> None:
        self.images = 0
        self.start = time.perf_counter()
        self.totals: list[Tensor] = []
        self.losses: dict[Complexity, list[Tensor]] = {}

    def add(self, images: int, paths: tuple[Complexity, ...], losses: Tensor) -> None:
        """Add one step: its images, its paths and their losses."""
        self.images += images
        self.totals.append(losses.sum())
        for path, loss in zip(paths, losses.unbind(), strict=True):
            self.losses.setdefault(path, []).append(loss)

    def mean_losses(self) -> dict[Complexity, float]:
        """Mean loss of each path over the steps that ran it."""
        return {path: float(torch.stack(self.losses[path]).mean()) for path in sorted(self.losses)}

    def mean_total(self) -> float:
        """Mean over the steps of the summed loss."""
        return float(torch.stack(self.totals).mean())

    def throughput_ips(self) -> float:
        """Images per second since the last entry."""
        return self.images / (time.perf_counter() - self.start)


class RunLog:
    """A log of JSON objects, one a line, each with the time (Unix seconds); appended to when a run goes on."""

    def __init__(self, path: Path):
        self.path = path

    def write(self, **values: Any) -> None:
        """Append one entry."""
        with self.path.open("a") as file:
            file.write(json.dumps({"time": round(time.time(), 3), **values}) + "\n")
