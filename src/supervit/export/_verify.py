"""Whether an exported graph computes what the model computes."""

from collections.abc import Callable

import torch
from torch import Tensor

from supervit.complexity import Complexity
from supervit.export._graph import Graph
from supervit.model import SuperViT
from supervit.modes import evaluation_mode

_BATCH_SIZES = (1, 3)
_DRAWS = 3
_CLOSE = 1e-4


@torch.inference_mode()
def differences(graph: Graph, model: SuperViT, run: Callable[..., Tensor]) -> dict[Complexity, float]:
    """The largest absolute difference of a logit to PyTorch, per operating point, on random images.

    Numerics: two patches may score nearly the same and then change places by rounding; if the last survivor is one of
    them, the logits differ although both are right. So a point that is not close is tried with other images, and the
    smallest difference of three draws counts: an error in the graph shows in each of them.

    Args:
        graph: The graph.
        model: The model it was made of; runs in evaluation mode, in float32, on its own device.
        run: The written graph: a function from the graph's inputs to logits.
    """
    device = next(model.parameters()).device
    found: dict[Complexity, float] = {}
    with evaluation_mode(model):
        for point in graph.points:
            for draw in range(_DRAWS):
                generator = torch.Generator().manual_seed(draw)
                difference = max(
                    _difference(graph, model, run, point, torch.randn(size, *_shape(graph, point), generator=generator), device)
                    for size in _BATCH_SIZES
                )
                found[point] = min(difference, found.get(point, difference))
                if difference < _CLOSE:
                    break
    return found


def _shape(graph: Graph, point: Complexity) -> tuple[int, int, int]:
    return graph.config.in_chans, *graph.size(point)


def _difference(
    graph: Graph, model: SuperViT, run: Callable[..., Tensor], point: Complexity, images: Tensor, device: torch.device
) -> float:
    expected = model(images.to(device), point).cpu()
    logits = run(*graph.inputs(images, point))
    return float((logits - expected).abs().max()) if logits.isfinite().all() else float("inf")
