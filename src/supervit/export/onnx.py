"""ONNX: `model.onnx`, for ONNX Runtime and everything that reads ONNX."""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from supervit.errors import InputError
from supervit.export._graph import Feed, Graph
from supervit.export._quantize import quantize
from supervit.options import Precision
from supervit.plugins import import_extra

PRECISIONS = ("float32", "int8")
IS_STATIC = False
PACKAGES = (("onnxscript", "onnx"), ("onnxruntime", "onnx"))
CASTS = ()
RUNTIME = "onnx_runtime"
RUNS_CODE = None
EXAMPLE = (
    "onnxruntime",
    """import onnxruntime

session = onnxruntime.InferenceSession(here / "model.onnx", providers=["CPUExecutionProvider"])
logits = session.run(["logits"], inputs)[0][0]""",
)

_FILE = "model.onnx"
_PRODUCTS = ("MatMul", "Gemm")


def convert(graph: Graph, calibration: Sequence[Feed] = ()) -> Any:
    """The `onnx.ModelProto` of a graph, quantised where there are calibration inputs.

    Raises:
        InputError: a package is missing.
    """
    import_extra("onnxscript", "onnx")
    logging.getLogger("onnxscript.optimizer").setLevel(logging.ERROR)  # it reports each node that it leaves as it is
    forms: dict[Any, Any] = {torch.ops.aten.scaled_dot_product_attention.default: _attention}
    program = torch.onnx.export(
        graph.program, dynamo=True, output_names=["logits"], custom_translation_table=forms, verbose=False
    )
    assert program is not None
    proto = program.model_proto
    return quantize(proto, calibration, ranking_nodes(proto)) if calibration else proto


def ranking_nodes(proto: Any) -> list[str]:
    """Names of the nodes that tokens are ranked by: from each choice of the best back to the products of its scores."""
    makers = {name: node for node in proto.graph.node for name in node.output}
    found, waiting = {}, [node.input[0] for node in proto.graph.node if node.op_type == "TopK"]
    while waiting:
        node = makers.get(waiting.pop())
        if node is not None and node.name not in found:
            found[node.name] = node
            waiting += [] if node.op_type in _PRODUCTS else node.input
    return list(found)


def _attention(query: Any, key: Any, value: Any, bias: Any = None, *rest: Any, scale: float, **options: Any) -> Any:
    """Attention of (B, H, S, d) to (B, H, T, d); the exporter's own form has 9 nodes to transpose keys of any rank."""
    assert not any((*rest, *options.values())), "attention with options has no form here"
    op = import_extra("onnxscript", "onnx").opset18
    scores = op.MatMul(op.Mul(query, op.Constant(value_float=scale)), op.Transpose(key, perm=[0, 1, 3, 2]))
    scores = scores if bias is None else op.Add(scores, bias)
    return op.MatMul(op.Softmax(scores, axis=-1), value)


def write(graph: Graph, directory: Path, calibration: Sequence[Feed], metadata: Mapping[str, str]) -> None:
    """Write `model.onnx`; weights beyond ONNX's 2 GB for a file are refused by ONNX itself."""
    onnx, proto = import_extra("onnx", "onnx"), convert(graph, calibration)
    onnx.helper.set_model_props(proto, dict(metadata))
    onnx.save(proto, directory / _FILE)


def read(directory: Path, precision: Precision = "float32", threads: int | None = None) -> Callable[..., Tensor]:
    """The written graph in ONNX Runtime; its precision is the file's."""
    assert precision in PRECISIONS
    content = (directory / _FILE).read_bytes()
    _refuse_other_files(content, directory / _FILE)
    return open_session(content, threads)


def _refuse_other_files(content: bytes, file: Path) -> None:
    """Refuse a model that takes weights from other files, of which we write none: they might be anybody's.

    Raises:
        InputError: it does.
    """
    onnx = import_extra("onnx", "onnx")
    proto = onnx.load_model_from_string(content)
    if any(onnx.external_data_helper.uses_external_data(tensor) for tensor in _tensors(onnx, proto)):
        raise InputError(f"{str(file)!r} takes weights from other files, which an export never does; export it again")


def _tensors(onnx: Any, proto: Any) -> Iterable[Any]:
    return onnx.external_data_helper._get_all_tensors(proto)


def open_session(model: bytes, threads: int | None = None) -> Callable[..., Tensor]:
    """A serialised ONNX model as a function from its inputs to logits, in ONNX Runtime on the CPU.

    Raises:
        InputError: ONNX Runtime is missing.
    """
    onnxruntime = import_extra("onnxruntime", "onnx")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or 0  # 0: as many as there are cores
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_inputs()]

    def run(*inputs: Tensor) -> Tensor:
        feed = {name: tensor.numpy() for name, tensor in zip(names, inputs, strict=True)}
        return torch.from_numpy(session.run(None, feed)[0])

    return run
