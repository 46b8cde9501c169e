"""Models as files for other runtimes: one file is one target, found by its name.

A target file has:

- `PRECISIONS`: the precisions it can write;
- `IS_STATIC`: whether it takes graphs of one operating point alone;
- `PACKAGES`: optional packages that it needs, each with the extra of ours that brings it;
- `CASTS`: others that what was written in float32 can be read in;
- `RUNTIME`: the name of what runs the file;
- `RUNS_CODE`: why its files can run code of whoever wrote them, or None where they cannot;
- `EXAMPLE`: the packages that run its files, and the lines of Python that do, from `inputs` to `logits`;
- `write(graph, directory, calibration, metadata)`: writes a `Graph`; `calibration` is what to quantise by, empty unless int8;
  `metadata` are texts for the file's own, where it has such;
- `read(directory, precision, threads)`: a function from the graph's inputs to logits (B, K), by which the file is verified.

An artefact is a directory: what the target wrote, `example.py`, which runs it without this package, and `export.json`, which
says all that one must know for it and the checksums of the other files.
"""

import os
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from supervit._version import __version__
from supervit.backbones import config_from_dict
from supervit.complexity import Complexity, GridSize
from supervit.errors import InputError, SuperViTError, reason_of
from supervit.export._describe import (
    Preprocessing,
    Quantised,
    TensorReport,
    check_files,
    check_sizes,
    compare_answers,
    digests_of,
    metadata_of,
    preprocessing_of,
    tensors_of,
    write_examples,
)
from supervit.export._graph import AnyComplexity, Graph, Interface, calibration_feeds, trace
from supervit.export._verify import differences
from supervit.fields import from_plain
from supervit.files import check_name, make_directory, read_object, refusing, write_json
from supervit.model import SuperViT
from supervit.options import Precision
from supervit.plugins import check_named, import_extra, load_plugin, plugin_names
from supervit.progress import progress_bar
from supervit.storage import EXPORT_FILE

__all__ = [
    "ExportError", "ExportReport", "Graph", "PointReport", "Precision", "Quantised", "calibration_feeds", "check_export",
    "export_model", "read_graph", "read_report", "runner_of", "target_names", "trace",
]  # fmt: skip

FLOAT32_TOLERANCE = 1e-3


class ExportError(SuperViTError, RuntimeError):
    """An exported graph does not compute what the model computes; nothing was written."""


@dataclass(frozen=True)
class PointReport:
    """One operating point of an artefact, and how to ask for it."""

    complexity: str
    image_size: GridSize
    """Side in pixels of the images it takes, or (height, width)."""
    keep: tuple[int, ...]
    """Input `keep` of an elastic graph at this point: tokens that survive each drop block, prefix included."""
    difference: float
    """Largest absolute difference of a logit to PyTorch in float32, on random images."""


@dataclass(frozen=True)
class ExportReport:
    """What was exported: the content of `export.json`."""

    target: str
    form: str
    """`elastic`: any of the points, or another keep rate at their grids; `static`: the one point."""
    precision: Precision
    inputs: tuple[str, ...]
    """`images` (B, C, S, S), float32, normalised, at the size of their point; elastic: and `keep`, int64."""
    points: tuple[PointReport, ...]
    config: dict[str, Any]
    """The model's config: normalisation, classes, architecture."""
    versions: dict[str, str]
    fingerprint: str
    """That of the model (`SuperViT.fingerprint`)."""
    tensors: tuple[TensorReport, ...]
    """The inputs in their order, then the output."""
    preprocessing: Preprocessing
    """How a picture becomes `images`."""
    class_names: tuple[str, ...]
    """In the order of the logits, if known."""
    files: Mapping[str, str]
    """SHA-256 of the other files, by name."""
    quantised: Quantised | None = None
    """What int8 costs."""


def target_names() -> list[str]:
    """Names of all targets."""
    return plugin_names(sys.modules[__name__])


def check_export(target: str, precision: str, points: Sequence[AnyComplexity], out: Path) -> None:
    """Refuse what cannot be exported, before any work. Arguments as in `export_model`.

    Raises:
        InputError: an unknown target, a precision or a number of operating points that it has not, a package that is missing,
            an operating point that does not parse, or a directory that exists.
    """
    plugin = load_plugin(sys.modules[__name__], target)
    if precision not in plugin.PRECISIONS:
        raise InputError(f"{target} cannot be exported in {precision!r}; use {' or '.join(plugin.PRECISIONS)}")
    asked = {Complexity.of(point) for point in points}
    if plugin.IS_STATIC and len(asked) != 1:
        raise InputError(f"{target} takes one operating point, not {len(asked) or 'the menu'}; name one, or use onnx")
    if check_name(out).exists():
        raise InputError(f"{str(out)!r} exists; name a new directory")
    for package, extra in (*plugin.PACKAGES, *((("nncf", "int8"),) if precision == "int8" else ())):
        import_extra(package, extra)


def export_model(
    model: SuperViT,
    target: str,
    out: Path,
    points: Sequence[AnyComplexity] = (),
    precision: Precision = "float32",
    calibration: Tensor | None = None,
    labels: Tensor | None = None,
) -> ExportReport:
    """The report of an export that was verified against PyTorch, then written.

    Args:
        model: Is left as it is.
        target: Format, such as `onnx`.
        out: Directory to make; appears whole or not at all.
        points: Operating points (default: the menu). One gives a static graph; several one elastic graph, with the weights
            once, that takes images at the size of any of their grids and the number of tokens to keep.
        precision: `float32` or `int8`.
        calibration: Normalised images (N, C, S, S) that int8 is calibrated on, some hundred of those to be classified.
        labels: Their class indices (N): the report then says what int8 costs in accuracy.

    Raises:
        InputError: as `check_export`, or int8 without images.
        ExportError: the logits differ from PyTorch's; nothing is written.
    """
    check_export(target, precision, points, out)
    if (calibration is None) == (precision == "int8"):
        raise InputError("int8, and no other precision, is calibrated: give some hundred normalised images with it")
    plugin = load_plugin(sys.modules[__name__], target)
    temporary = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    try:
        make_directory(out.parent)
        temporary.mkdir()
        with progress_bar("export", 3, "step") as advance:
            graph = trace(model, points)
            report = _describe(graph, target, precision, model.fingerprint())
            advance(1)
            feeds = [] if calibration is None else calibration_feeds(graph, calibration)
            plugin.write(graph, temporary, feeds, metadata_of(asdict(report)))
            advance(1)
            run = plugin.read(temporary, precision)
            found = differences(graph, model, run)
            advance(1)
        report = replace(report, points=tuple(replace(p, difference=found[Complexity.of(p.complexity)]) for p in report.points))
        _check(report)
        if calibration is not None:
            report = replace(report, quantised=compare_answers(graph, run, model, calibration, labels))
        write_examples(temporary, graph, *plugin.EXAMPLE)
        report = replace(report, files=digests_of(temporary))
        write_json(temporary / EXPORT_FILE, asdict(report))
        temporary.rename(out)
    except OSError as error:
        raise InputError(f"cannot write {str(out)!r} ({error.strerror}); name a directory that you may write") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return report


def _describe(graph: Graph, target: str, precision: Precision, fingerprint: str) -> ExportReport:
    """The report of what is yet to be written and verified."""
    points = tuple(PointReport(str(p), graph.image_size(p), tuple(graph.keep(p).tolist()), 0.0) for p in graph.points)
    return ExportReport(
        target=target,
        form="elastic" if graph.is_elastic else "static",
        precision=precision,
        inputs=graph.input_names,
        points=points,
        config=graph.config.to_dict(),
        versions={"supervit": __version__, "torch": torch.__version__},
        fingerprint=fingerprint,
        tensors=tensors_of(graph),
        preprocessing=preprocessing_of(graph),
        class_names=graph.config.class_names,
        files={},
    )


def _check(report: ExportReport) -> None:
    """Refuse a float32 graph that computes something else, and any that computes no numbers."""
    limit = FLOAT32_TOLERANCE if report.precision == "float32" else float("inf")
    for point in report.points:
        if not point.difference < limit:
            raise ExportError(
                f"{report.target} at {point.complexity} differs from PyTorch by {point.difference:.3g} (allowed: "
                f"{limit:.0e}); nothing was written. A reducer that draws at random cannot be exported; else report this"
            )


def read_report(directory: Path) -> ExportReport:
    """The report of an artefact.

    Raises:
        InputError: the directory holds none, or a damaged one, or one that does not fit its files.
    """
    with refusing(f"{str(directory / EXPORT_FILE)!r} is not the report of an export", "write one: supervit export"):
        report = from_plain(ExportReport, read_object(directory / EXPORT_FILE))
        if not report.points or not report.files:
            raise InputError("it lists no operating points or no files")
        held = sum(path.stat().st_size for path in directory.iterdir() if path.is_file())
        sizes, keeps = tuple(p.image_size for p in report.points), tuple(p.keep for p in report.points)
        check_sizes(_interface(report), sizes, keeps, held)
        check_named(report.target)
    load_plugin(sys.modules[__name__], report.target)
    return report


def _interface(report: ExportReport) -> Interface:
    return Interface(config_from_dict(report.config), tuple(Complexity.of(point.complexity) for point in report.points))


def read_graph(
    directory: Path,
    report: ExportReport,
    precision: Precision | None = None,
    threads: int | None = None,
    trust: bool = False,
) -> tuple[Interface, Callable[..., Tensor]]:
    """What the inputs of an artefact's graph are, and the graph as a function from them to logits (B, K).

    Args:
        directory: Of the artefact.
        report: Of the artefact (`read_report`).
        precision: Arithmetic; default: that of the file.
        threads: CPU threads; default: the runtime's choice.
        trust: Whether to open formats that can run code of whoever wrote them.

    Raises:
        InputError: a precision that the file does not have, files that are missing, changed or damaged, or a format that
            needs trust.
    """
    plugin = load_plugin(sys.modules[__name__], report.target)
    has = (report.precision, *(plugin.CASTS if report.precision == "float32" else ()))
    precision = precision or report.precision
    if precision not in has:
        raise InputError(f"{str(directory)!r} runs in {' or '.join(has)}, not in {precision}; export it in {precision}")
    if plugin.RUNS_CODE and not trust:
        raise InputError(
            f"{str(directory)!r} can run code of whoever wrote it ({plugin.RUNS_CODE}); if you trust them, say so: --trust or "
            "trust=True. Otherwise use an artefact of onnx or openvino"
        )
    check_files(directory, report.files)
    try:
        return _interface(report), plugin.read(directory, precision, threads)
    except SuperViTError:
        raise
    except Exception as error:  # each runtime has errors of its own for a file that it cannot read
        raise InputError(
            f"{str(directory)!r} cannot be read as {report.target} ({reason_of(error)}); export it again"
        ) from error


def runner_of(report: ExportReport) -> str:
    """The name of what runs an artefact."""
    name: str = load_plugin(sys.modules[__name__], report.target).RUNTIME
    return name
