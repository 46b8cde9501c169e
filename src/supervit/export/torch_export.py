"""`torch.export`: `model.pt2`, for `torch.export.load`."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from supervit.export._graph import Feed, Graph
from supervit.options import Precision

PRECISIONS = ("float32",)
IS_STATIC = False
PACKAGES = ()
CASTS = ()
RUNTIME = "torch_export"
RUNS_CODE = "torch.export.load unpickles it"
EXAMPLE = (
    "torch",
    """import torch  # its packages can run code of whoever wrote them: load those alone whose maker you trust

run = torch.export.load(here / "model.pt2").module()
logits = run(*map(torch.from_numpy, inputs.values()))[0].detach().numpy()""",
)

_FILE = "model.pt2"


def write(graph: Graph, directory: Path, calibration: Sequence[Feed], metadata: Mapping[str, str]) -> None:
    """Write `model.pt2`."""
    assert not calibration
    torch.export.save(graph.program, directory / _FILE, extra_files=dict(metadata))


def read(directory: Path, precision: Precision = "float32", threads: int | None = None) -> Callable[..., Tensor]:
    """The written graph, run by PyTorch; `threads` are those of PyTorch in this process."""
    assert precision in PRECISIONS
    if threads:
        torch.set_num_threads(threads)
    return torch.export.load(directory / _FILE).module()
