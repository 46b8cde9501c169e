"""Compiled blocks on a GPU, their kernels recorded as CUDA graphs: one launch for an operating point instead of hundreds.

A graph is recorded for each operating point and batch size when it is first run (`prepare` makes them ahead) and keeps its
input and output; what it needs in between is one pool of memory for all, as they take turns, whatever streams their
callers have. That memory is no part of the peak of a call in a cost table.
"""

import copy
import threading
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from supervit.complexity import Complexity
from supervit.model import SuperViT
from supervit.options import Precision
from supervit.runtimes import compiled
from supervit.runtimes._runtime import Runtime, RuntimeConfig
from supervit.runtimes._torch import torch_runtime

PRECISIONS = compiled.PRECISIONS

_WARM_UP = 3  # runs before recording, in which kernels are compiled and chosen


def obstacle(device: torch.device, precision: Precision) -> str | None:
    """Why not here: no GPU, or as for compiled blocks."""
    return "it runs on a GPU alone" if device.type != "cuda" else compiled.obstacle(device, precision)


def open_runtime(model: SuperViT, config: RuntimeConfig) -> Runtime:
    """The model with compiled blocks, recorded at the first use of an operating point and batch size.

    Cascades and several operating points of one batch, whose prefixes are shared, run compiled without a recording.
    """
    placed = compiled.compile_blocks(copy.deepcopy(model), config)  # recordings know where its weights are
    return replace(torch_runtime("cuda_graphs", placed, model), run=Recorder(placed))


@dataclass(frozen=True)
class Recording:
    """What a GPU did for one operating point and batch size."""

    graph: torch.cuda.CUDAGraph
    images: Tensor
    """Where it reads them (B, C, S, S)."""
    logits: Tensor
    """Where it writes them (B, K)."""

    def replay(self, images: Tensor) -> Tensor:
        """Logits of other images of the same shape."""
        self.images.copy_(images)
        self.graph.replay()
        return self.logits.clone()  # the next replay writes the original anew


class Recorder:
    """A model that is recorded once per operating point and shape, and replayed from then on."""

    def __init__(self, model: SuperViT):
        self.model = model
        self.pool = torch.cuda.graph_pool_handle()
        self.recordings: dict[tuple[Complexity, torch.Size], Recording] = {}
        self.lock = threading.Lock()
        self.done: torch.cuda.Event | None = None

    def __call__(self, images: Tensor, point: Complexity) -> Tensor:
        """Logits (B, K) of images (B, C, S, S) at their grid's size."""
        key = point, images.shape
        with self.lock, torch.cuda.device(images.device):
            stream = torch.cuda.current_stream()
            if self.done is not None:  # the last caller may have had another stream
                stream.wait_event(self.done)
            if key not in self.recordings:
                self.recordings[key] = self._record(images.clone(), point)
            logits = self.recordings[key].replay(images)
            self.done = stream.record_event()
            return logits

    def _record(self, images: Tensor, point: Complexity) -> Recording:
        current, side = torch.cuda.current_stream(), torch.cuda.Stream()
        side.wait_stream(current)
        with torch.cuda.stream(side):  # recording needs kernels that are there and memory that no stream waits for
            for _ in range(_WARM_UP):
                self.model(images, point)
        current.wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self.pool, capture_error_mode="thread_local"):
            logits = self.model(images, point)
        return Recording(graph, images, logits)
