"""OpenVINO: `model.xml` and `model.bin`. bfloat16 is no matter of the file: `read` casts to it."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from supervit.errors import InputError
from supervit.export import onnx as onnx_target
from supervit.export._graph import Feed, Graph
from supervit.export._quantize import quantize
from supervit.options import Precision
from supervit.plugins import import_extra

PRECISIONS = ("float32", "int8")
IS_STATIC = False
PACKAGES = (("onnxscript", "openvino"), ("openvino", "openvino"))
CASTS = ("bfloat16",)
RUNTIME = "openvino"

_FILE = "model.xml"
_CAPABILITIES: dict[Precision, str] = {"float32": "FP32", "bfloat16": "BF16", "int8": "INT8"}


def convert(graph: Graph, calibration: Sequence[Feed] = ()) -> Any:
    """The `openvino.Model` of a graph, quantised where there are calibration inputs.

    The way is through ONNX: OpenVINO's reader of exported programs refuses sizes that depend on an input. Quantised is
    the OpenVINO model, not the ONNX model (1.3 times as fast at "14", `docs/log.md`).

    Raises:
        InputError: a package is missing.
    """
    openvino = import_extra("openvino", "openvino")
    model = openvino.Core().read_model(onnx_target.convert(graph).SerializeToString())
    return quantize(model, calibration) if calibration else model


def write(graph: Graph, directory: Path, calibration: Sequence[Feed]) -> None:
    """Write `model.xml` and `model.bin`."""
    model = convert(graph, calibration)
    import_extra("openvino", "openvino").save_model(model, directory / _FILE, compress_to_fp16=False)


def read(directory: Path, precision: Precision = "float32", threads: int | None = None) -> Callable[..., Tensor]:
    """The written graph, compiled for the CPU."""
    return compile_model(import_extra("openvino", "openvino").Core().read_model(directory / _FILE), precision, threads)


def missing_instructions(precision: Precision) -> str | None:
    """Why the CPU cannot compute so, as OpenVINO says itself, or None."""
    has = import_extra("openvino", "openvino").Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return None if _CAPABILITIES[precision] in has else f"the CPU has {', '.join(sorted(has))} only"


def compile_model(model: Any, precision: Precision = "float32", threads: int | None = None) -> Callable[..., Tensor]:
    """An `openvino.Model` as a function from its inputs to logits, on the CPU.

    Args:
        model: The model; its sizes stay dynamic, so that there is one copy of the weights (measured in `docs/log.md`).
        precision: Arithmetic; what a quantised model has not in int8 is float32.
        threads: CPU threads; None for OpenVINO's choice.

    Raises:
        InputError: the CPU does not compute so; OpenVINO itself would take float32 without a word.
    """
    if lack := missing_instructions(precision):
        raise InputError(f"openvino cannot run in {precision} here: {lack}; use float32")
    options: dict[str, Any] = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "bf16" if precision == "bfloat16" else "f32",
    }
    if threads:
        options["INFERENCE_NUM_THREADS"] = threads
    openvino = import_extra("openvino", "openvino")
    request = openvino.Core().compile_model(model, "CPU", options).create_infer_request()

    def run(*inputs: Tensor) -> Tensor:
        result = request.infer([tensor.numpy() for tensor in inputs])
        return torch.from_numpy(result[0].copy())  # the request's own buffer is written anew by the next call

    return run
