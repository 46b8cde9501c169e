"""`torch.export`: `model.pt2`, for `torch.export.load`.

For C++, `torch._inductor.aoti_compile_and_package` compiles the loaded program where it is static; the elastic one it cannot.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from supervit.export._graph import Feed, Graph

PRECISIONS = ("float32",)

_FILE = "model.pt2"


def write(graph: Graph, directory: Path, calibration: Sequence[Feed]) -> None:
    """Write `model.pt2`."""
    assert not calibration
    torch.export.save(graph.program, directory / _FILE)


def read(directory: Path) -> Callable[..., Tensor]:
    """The written graph, run by PyTorch."""
    return torch.export.load(directory / _FILE).module()
