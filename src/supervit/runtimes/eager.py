"""PyTorch as it is: the reference."""

from torch import Tensor

from supervit.complexity import Complexity
from supervit.model import SuperViT
from supervit.runtimes._runtime import Runtime, RuntimeConfig
from supervit.runtimes._torch import DTYPES, place_model, torch_obstacle

PRECISIONS = ("float32", "bfloat16")

obstacle = torch_obstacle


def open_runtime(model: SuperViT, config: RuntimeConfig) -> Runtime:
    """The model run by PyTorch; bfloat16 is a copy of its weights."""
    placed, dtype = place_model(model, config), DTYPES[config.precision]

    def run(images: Tensor, point: Complexity) -> Tensor:
        return placed(images.to(config.device, dtype), point)

    return Runtime("eager", config.precision, model.config, run)
