"""What the runtimes that take an exported graph share."""

import importlib.util
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from supervit.complexity import Complexity, grid_text
from supervit.errors import InputError
from supervit.export import Graph
from supervit.export._graph import Feed, Interface, calibration_feeds
from supervit.runtimes._runtime import Runtime, RuntimeConfig, constant


def missing(packages: Sequence[str], extra: str) -> str | None:
    """The obstacle that the packages are which are not installed, or None."""
    absent = [name for name in packages if importlib.util.find_spec(name) is None]
    return f"{' and '.join(absent)} missing, pip install 'supervit[{extra}]'" if absent else None


def feeds(graph: Graph, config: RuntimeConfig) -> list[Feed]:
    """What to calibrate int8 on; empty for the other precisions."""
    return [] if config.calibration is None else calibration_feeds(graph, config.calibration)


def graph_runtime(
    name: str,
    interface: Interface,
    precision: str,
    threads: int,
    fingerprint: str,
    run_graph: Callable[..., Tensor],
) -> Runtime:
    """The runtime of a graph: an elastic one has the position tables of its grids alone, a static one its one point."""
    grids = list(dict.fromkeys(point.grid_size for point in sorted(interface.points)))

    def run(images: Tensor, point: Complexity) -> Tensor:
        if point.grid_size not in grids:
            raise InputError(
                f"{name} has no grid size {grid_text(point.grid_size)}; use one of {', '.join(map(grid_text, grids))}, or "
                "eager for any"
            )
        if not interface.is_elastic and point != interface.points[0]:
            raise InputError(
                f"{name} runs {interface.points[0]} alone, not {point}; export several points, or use eager for any"
            )
        return run_graph(*interface.inputs(images, point))

    cpu = torch.device("cpu")
    return Runtime(name, precision, threads, cpu, interface.config, interface.points, constant(fingerprint), run)
