"""AOTInductor: `model.pt2`, compiled code for this kind of CPU; C++ loads it by `torch::inductor::AOTIModelPackageLoader`.

One operating point in a file: the elastic graph's sizes depend on an input, which AOTInductor's C++ does not compile.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from supervit.errors import InputError, reason_of
from supervit.export._graph import Feed, Graph
from supervit.options import Precision

PRECISIONS = ("float32",)
IS_STATIC = True
PACKAGES = ()
CASTS = ()
RUNTIME = "aot_inductor"

_FILE = "model.pt2"


def write(graph: Graph, directory: Path, calibration: Sequence[Feed]) -> None:
    """Write `model.pt2`; takes a C++ compiler and half a minute.

    Raises:
        InputError: no compiler that works.
    """
    assert not calibration
    assert not graph.is_elastic
    try:
        torch._inductor.aoti_compile_and_package(graph.program, package_path=str(directory / _FILE))
    except torch._inductor.exc.InductorError as error:
        raise InputError(
            f"AOTInductor cannot compile the model ({reason_of(error)}); install a C++ compiler, such as g++"
        ) from error


def read(directory: Path, precision: Precision = "float32", threads: int | None = None) -> Callable[..., Tensor]:
    """The compiled model; `threads` are those of PyTorch in this process."""
    assert precision in PRECISIONS
    if threads:
        torch.set_num_threads(threads)
    run: Callable[..., Tensor] = torch._inductor.aoti_load_package(str(directory / _FILE))
    return run
