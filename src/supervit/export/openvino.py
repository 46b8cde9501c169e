"""OpenVINO: `model.xml` and `model.bin`. bfloat16 is no matter of the file: ask for it when loading it."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from supervit.export import onnx as onnx_target
from supervit.export._graph import Feed, Graph
from supervit.export._quantize import quantize
from supervit.plugins import import_extra

PRECISIONS = ("float32", "int8")

_FILE = "model.xml"


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


def read(directory: Path) -> Callable[..., Tensor]:
    """The written graph, compiled for the CPU in float32 (and int8 where it is quantised)."""
    openvino = import_extra("openvino", "openvino")
    return compile_model(openvino.Core().read_model(directory / _FILE))


def compile_model(model: Any, threads: int | None = None, float_type: str = "f32") -> Callable[..., Tensor]:
    """An `openvino.Model` as a function from its inputs to logits, on the CPU.

    Args:
        model: The model; its sizes stay dynamic, so that there is one copy of the weights (measured in `docs/log.md`).
        threads: CPU threads; None for OpenVINO's choice.
        float_type: Arithmetic of what is not quantised: `f32` or `bf16`.
    """
    openvino = import_extra("openvino", "openvino")
    options: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": float_type}
    if threads:
        options["INFERENCE_NUM_THREADS"] = threads
    request = openvino.Core().compile_model(model, "CPU", options).create_infer_request()

    def run(*inputs: Tensor) -> Tensor:
        result = request.infer([tensor.numpy() for tensor in inputs])
        return torch.from_numpy(result[0].copy())  # the request's own buffer is written anew by the next call

    return run
