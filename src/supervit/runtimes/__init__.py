"""Ways to run a model: one file is one runtime, found by its name.

A runtime file has:

- `PRECISIONS`: the precisions it can compute in;
- `obstacle(device, precision)`: why it cannot run here, one clause, or None where it can;
- `open_runtime(model, config)`: a `Runtime`, all of whose operating points share one copy of the weights.

Which runtime is the fastest on a device is for measurements to say (`supervit runtimes`).
"""

import sys
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from supervit.config import SuperViTConfig
from supervit.errors import InputError
from supervit.export import read_graph, read_report, runner_of
from supervit.model import SuperViT
from supervit.options import Precision
from supervit.plugins import load_plugin, plugin_names
from supervit.runtimes._graph import graph_runtime
from supervit.runtimes._runtime import Runtime, RuntimeConfig, check_finite, check_threads, pick_device
from supervit.runtimes._threads import on_one_thread
from supervit.runtimes._torch import torch_runtime
from supervit.storage import is_artefact

__all__ = [
    "AnyModel", "Availability", "Precision", "Runtime", "RuntimeConfig", "as_runtime", "available_runtimes", "check_finite",
    "is_artefact", "on_one_thread", "open_artefact", "open_runtime", "pick_device", "runtime_names",
]  # fmt: skip

AnyModel = SuperViT | Runtime


@dataclass(frozen=True)
class Availability:
    """Whether a runtime can compute in a precision here."""

    name: str
    precision: Precision
    obstacle: str | None
    """Why not; None where it can."""


def runtime_names() -> list[str]:
    """Names of all runtimes."""
    return plugin_names(sys.modules[__name__])


def available_runtimes(device: str = "cpu") -> list[Availability]:
    """Every runtime in each of its precisions, with what keeps it from running on a device, if anything does."""
    found = []
    for name in runtime_names():
        plugin = load_plugin(sys.modules[__name__], name)
        for precision in plugin.PRECISIONS:
            found.append(Availability(name, precision, plugin.obstacle(torch.device(device), precision)))
    return found


def open_runtime(name: str, model: SuperViT, config: RuntimeConfig | None = None) -> Runtime:
    """The model in a runtime, ready for any operating point at the grids of its menu.

    Args:
        name: Runtime, such as `eager` or `openvino`.
        model: Is left as it is; PyTorch's runtimes share its weights where device and precision are its own.
        config: How to run it.

    Raises:
        InputError: an unknown runtime, or one that cannot run so here; the message says why and what can.
    """
    config = config or RuntimeConfig()
    plugin = load_plugin(sys.modules[__name__], name)
    if config.device == "auto":
        has_gpu = torch.cuda.is_available() and plugin.obstacle(torch.device("cuda"), config.precision) is None
        config = replace(config, device="cuda" if has_gpu else "cpu")
    device = pick_device(config.device)
    obstacle = f"it computes in {' or '.join(plugin.PRECISIONS)}"
    if config.precision in plugin.PRECISIONS:
        obstacle = plugin.obstacle(device, config.precision)
    if obstacle:
        able = (f"{found.name} {found.precision}" for found in available_runtimes(config.device) if not found.obstacle)
        raise InputError(f"{name} cannot run in {config.precision} on {config.device}: {obstacle}; can: {', '.join(able)}")
    if (config.calibration is None) == (config.precision == "int8"):
        raise InputError("int8, and no other precision, is calibrated: give some hundred normalised images with it")
    if config.threads:
        torch.set_num_threads(config.threads)  # PyTorch also resizes the images of the others
    runtime: Runtime = plugin.open_runtime(model, config)
    return runtime


def as_runtime(model: AnyModel) -> Runtime:
    """PyTorch's runtime `eager` of the model itself, where and as it is; a runtime stays what it is.

    Raises:
        InputError: neither a model nor a runtime.
    """
    if isinstance(model, Runtime):
        return model
    if not isinstance(getattr(model, "config", None), SuperViTConfig):
        raise InputError(
            f"a {type(model).__name__} is no model; give what supervit.load or supervit.runtimes.open_runtime returns"
        )
    return torch_runtime("eager", model, model)


def open_artefact(
    directory: str | Path, precision: Precision | None = None, threads: int | None = None, trust: bool = False
) -> Runtime:
    """What `supervit export` wrote, in what runs it on the CPU, ready for its operating points.

    Args:
        directory: Of the artefact.
        precision: Arithmetic; default: the artefact's. A float32 one for OpenVINO can also run in bfloat16.
        threads: CPU threads, also of PyTorch in this process, which resizes the images; default: those that PyTorch has.
        trust: Whether to open formats that can run code of whoever wrote them (torch_export, aot_inductor).

    Raises:
        InputError: no artefact, one that is damaged or of such a format without `trust`, a package or instructions of the CPU
            missing, or another precision.
    """
    check_threads(threads)
    directory = Path(directory)
    report = read_report(directory)
    if threads:
        torch.set_num_threads(threads)
    threads = torch.get_num_threads()
    interface, run = read_graph(directory, report, precision, threads, trust)
    return graph_runtime(runner_of(report), interface, precision or report.precision, threads, report.fingerprint, run)
