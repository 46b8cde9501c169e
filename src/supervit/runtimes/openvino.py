"""OpenVINO on the CPU: one elastic graph."""

import torch

from supervit.export import Precision, trace
from supervit.export.openvino import compile_model, convert
from supervit.model import SuperViT
from supervit.plugins import import_extra
from supervit.runtimes._graph import feeds, graph_runtime, missing
from supervit.runtimes._runtime import Runtime, RuntimeConfig

PRECISIONS = ("float32", "bfloat16", "int8")

_CAPABILITIES: dict[Precision, str] = {"float32": "FP32", "bfloat16": "BF16", "int8": "INT8"}


def obstacle(device: torch.device, precision: Precision) -> str | None:
    """Why not here; OpenVINO says itself what the CPU computes in."""
    if device.type != "cpu":
        return "it runs on the CPU alone"
    absent = missing(("openvino", "onnx", "onnxscript"), "openvino")
    if absent or (absent := missing(("nncf",), "int8") if precision == "int8" else None):
        return absent
    has = import_extra("openvino", "openvino").Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return None if _CAPABILITIES[precision] in has else f"the CPU has {', '.join(sorted(has))} only"


def open_runtime(model: SuperViT, config: RuntimeConfig) -> Runtime:
    """The model in OpenVINO; exporting it takes up to a minute."""
    graph = trace(model)
    float_type = "bf16" if config.precision == "bfloat16" else "f32"
    request = compile_model(convert(graph, feeds(graph, config)), config.threads, float_type)
    return graph_runtime("openvino", graph, config, request)
