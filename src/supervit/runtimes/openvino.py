"""OpenVINO on the CPU: one elastic graph."""

import torch

from supervit.export import trace
from supervit.export.openvino import compile_marked, convert, missing_instructions
from supervit.model import SuperViT
from supervit.options import Precision
from supervit.runtimes._graph import feeds, graph_runtime, missing
from supervit.runtimes._runtime import Runtime, RuntimeConfig

PRECISIONS = ("float32", "bfloat16", "int8")


def obstacle(device: torch.device, precision: Precision) -> str | None:
    """Why not here; OpenVINO says itself what the CPU computes in."""
    if device.type != "cpu":
        return "it runs on the CPU alone"
    absent = missing(("openvino", "onnx", "onnxscript"), "openvino")
    if absent or (absent := missing(("nncf",), "int8") if precision == "int8" else None):
        return absent
    return missing_instructions(precision)


def open_runtime(model: SuperViT, config: RuntimeConfig) -> Runtime:
    """The model in OpenVINO; exporting it takes up to a minute."""
    graph = trace(model)
    run = compile_marked(convert(graph, feeds(graph, config)), config.precision, config.cpu_threads)
    return graph_runtime("openvino", graph.interface, config.precision, config.cpu_threads, model.fingerprint(), run)
