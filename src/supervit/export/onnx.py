"""ONNX: `model.onnx`, for ONNX Runtime and everything that reads ONNX."""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from supervit.export._graph import Feed, Graph
from supervit.export._quantize import quantize
from supervit.options import Precision
from supervit.plugins import import_extra

PRECISIONS = ("float32", "int8")
IS_STATIC = False
PACKAGES = (("onnxscript", "onnx"), ("onnxruntime", "onnx"))
CASTS = ()
RUNTIME = "onnx_runtime"

_FILE = "model.onnx"


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
    return quantize(program.model_proto, calibration) if calibration else program.model_proto


def _attention(query: Any, key: Any, value: Any, *mask: Any, scale: float, **options: Any) -> Any:
    """Attention of (B, H, S, d) to (B, H, T, d), no mask; the exporter's own form has 9 nodes to transpose keys of any rank."""
    assert not any((*mask, *options.values())), "attention with a mask or options has no form here"
    op = import_extra("onnxscript", "onnx").opset18
    scores = op.MatMul(op.Mul(query, op.Constant(value_float=scale)), op.Transpose(key, perm=[0, 1, 3, 2]))
    return op.MatMul(op.Softmax(scores, axis=-1), value)


def write(graph: Graph, directory: Path, calibration: Sequence[Feed]) -> None:
    """Write `model.onnx`; weights beyond ONNX's 2 GB for a file are refused by ONNX itself."""
    import_extra("onnx", "onnx").save(convert(graph, calibration), directory / _FILE)


def read(directory: Path, precision: Precision = "float32", threads: int | None = None) -> Callable[..., Tensor]:
    """The written graph in ONNX Runtime; its precision is the file's."""
    assert precision in PRECISIONS
    return open_session((directory / _FILE).read_bytes(), threads)


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
