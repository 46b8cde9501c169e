"""ONNX Runtime on the CPU: one elastic graph."""

import torch

from supervit.export import trace
from supervit.export.onnx import convert, open_session
from supervit.model import SuperViT
from supervit.options import Precision
from supervit.runtimes._graph import feeds, graph_runtime, missing
from supervit.runtimes._runtime import Runtime, RuntimeConfig

PRECISIONS = ("float32", "int8")


def obstacle(device: torch.device, precision: Precision) -> str | None:
    """Why not here."""
    if device.type != "cpu":
        return "it runs on the CPU alone"
    without_int8 = missing(("onnx", "onnxscript", "onnxruntime"), "onnx")
    return without_int8 or (missing(("nncf",), "int8") if precision == "int8" else None)


def open_runtime(model: SuperViT, config: RuntimeConfig) -> Runtime:
    """The model in ONNX Runtime; exporting it takes up to a minute."""
    graph = trace(model)
    session = open_session(convert(graph, feeds(graph, config)).SerializeToString(), config.cpu_threads)
    return graph_runtime("onnx_runtime", graph.interface, config.precision, config.cpu_threads, model.fingerprint(), session)
