"""OpenVINO: `model.xml` and `model.bin`. bfloat16 is no matter of the file: `read` casts to it."""

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from xml.etree import ElementTree

import torch
from torch import Tensor

from supervit.errors import InputError
from supervit.export import onnx as onnx_target
from supervit.export._graph import INPUT_NAMES, Feed, Graph
from supervit.export._quantize import quantize
from supervit.options import Precision
from supervit.plugins import import_extra

PRECISIONS = ("float32", "int8")
IS_STATIC = False
PACKAGES = (("onnxscript", "openvino"), ("openvino", "openvino"))
CASTS = ("bfloat16",)
RUNTIME = "openvino"
RUNS_CODE = None
EXAMPLE = (
    "openvino",
    """import openvino

compiled = openvino.Core().compile_model(here / "model.xml", "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
logits = compiled(list(inputs.values()))[0][0]""",
)

_FILE = "model.xml"
_CHOICES = ("TopK", "Result")
_CAPABILITIES: dict[Precision, str] = {"float32": "FP32", "bfloat16": "BF16", "int8": "INT8"}


@cache
def _core() -> Any:
    """OpenVINO's core, one for the process and never given back.

    With AMX its plug-in lays a signal stack for the thread that loads it, and frees that stack when it is unloaded, by any
    thread: the next signal, such as that of a child process that ends, then was a segmentation fault.
    """
    return import_extra("openvino", "openvino").Core()


def convert(graph: Graph, calibration: Sequence[Feed] = ()) -> Any:
    """The `openvino.Model` of a graph, quantised where there are calibration inputs.

    The way is through ONNX: OpenVINO's reader of exported programs refuses sizes that depend on an input. Quantised is
    the OpenVINO model, not the ONNX model (1.3 times as fast at "14", `docs/log.md`).

    Raises:
        InputError: a package is missing.
    """
    model = _core().read_model(onnx_target.convert(graph).SerializeToString())
    if calibration:
        return quantize(model, calibration, sorted(choosing_nodes(model, "TopK")))
    _use_markable_forms(model)
    return model


def choosing_nodes(model: Any, *kinds: str) -> dict[str, Any]:
    """The nodes, by name, from each of these kinds back to the products of what they choose by, which are included."""
    openvino = import_extra("openvino", "openvino")
    found: dict[str, Any] = {}
    waiting = [node for node in model.get_ordered_ops() if node.get_type_name() in kinds]
    while waiting:
        node = waiting.pop()
        if node.get_friendly_name() in found or node.get_type_name() in ("Constant", "Parameter"):
            continue
        found[node.get_friendly_name()] = node
        if node.get_type_name() != "MatMul":
            inputs = (value for value in node.input_values() if value.get_element_type() == openvino.Type.f32)
            waiting += [value.get_node() for value in inputs]
    return found


def _use_markable_forms(model: Any) -> None:
    """Put what tokens and classes are chosen by into forms that keep their marks while OpenVINO rewrites the graph."""
    opset = import_extra("openvino.opset1", "openvino")
    for name, node in choosing_nodes(model, *_CHOICES).items():
        values = node.input_values()
        if node.get_type_name() == "Softmax":
            form = opset.softmax(values[0], len(node.output(0).partial_shape) - 1)
        elif node.get_type_name() == "MatMul" and values[1].get_node().get_type_name() == "Transpose":
            form = opset.matmul(values[0], values[1].get_node().input_value(0), False, True)
        else:
            continue
        form.set_friendly_name(name)
        node.output(0).replace(form.output(0))


def save(model: Any, directory: Path) -> None:
    """Write an `openvino.Model` whose choices, of tokens and classes, are made in float32 in every precision.

    OpenVINO reads the mark for it from a file alone; it cannot be set in Python.
    """
    import_extra("openvino", "openvino").save_model(model, directory / _FILE, compress_to_fp16=False)
    tree = ElementTree.parse(directory / _FILE)
    names = choosing_nodes(model, *_CHOICES)
    for layer in tree.iter("layer"):
        if layer.get("name") in names and layer.get("type") != "Result":
            marks = layer.find("rt_info")
            if marks is None:
                marks = ElementTree.Element("rt_info")
                layer.insert(0 if layer.find("data") is None else 1, marks)
            ElementTree.SubElement(marks, "attribute", {"name": "precise", "version": "0"})
    tree.write(directory / _FILE, encoding="utf-8", xml_declaration=True)


def write(graph: Graph, directory: Path, calibration: Sequence[Feed], metadata: Mapping[str, str]) -> None:
    """Write `model.xml` and `model.bin`."""
    model = convert(graph, calibration)
    for name, text in metadata.items():
        model.set_rt_info(text, name.split("."))
    save(model, directory)


def read(directory: Path, precision: Precision = "float32", threads: int | None = None) -> Callable[..., Tensor]:
    """The written graph, compiled for the CPU."""
    return compile_model(_core().read_model(directory / _FILE), precision, threads)


def compile_marked(model: Any, precision: Precision, threads: int | None) -> Callable[..., Tensor]:
    """As `compile_model`, of a model that has not been written: what is chosen by is float32 there too."""
    if precision != "bfloat16":
        return compile_model(model, precision, threads)
    with TemporaryDirectory(prefix="supervit-") as directory:
        save(model, Path(directory))
        return read(Path(directory), precision, threads)


def missing_instructions(precision: Precision) -> str | None:
    """Why the CPU cannot compute so, as OpenVINO says itself, or None."""
    has = _core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
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
    compiled = _core().compile_model(model, "CPU", options)
    taken = [name for name in INPUT_NAMES if name in {name for port in compiled.inputs for name in port.names}]
    idle = [compiled.create_infer_request()]  # a request serves one caller at a time; there are as many as ever ran at once

    def run(*inputs: Tensor) -> Tensor:
        try:
            request = idle.pop()
        except IndexError:
            request = compiled.create_infer_request()
        feed = {name: tensor.numpy() for name, tensor in zip(INPUT_NAMES, inputs, strict=False)}
        result = request.infer({name: feed[name] for name in taken})  # an input that changes nothing is not there any more
        logits = torch.from_numpy(result[0].copy())  # the request's own buffer is written anew by the next call
        idle.append(request)
        return logits

    return run
