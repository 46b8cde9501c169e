"""PyTorch as it is: the reference."""

from supervit.model import SuperViT
from supervit.runtimes._runtime import Runtime, RuntimeConfig
from supervit.runtimes._torch import place_model, torch_obstacle, torch_runtime

PRECISIONS = ("float32", "bfloat16")

obstacle = torch_obstacle


def open_runtime(model: SuperViT, config: RuntimeConfig) -> Runtime:
    """The model run by PyTorch; bfloat16 is a copy of its weights."""
    return torch_runtime("eager", place_model(model, config), model)
