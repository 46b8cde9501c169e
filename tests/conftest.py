"""Fixtures that every kind of test uses."""

import dataclasses
from pathlib import Path

import pytest
import torch

from supervit import SuperViT
from supervit.backbones import variant_config
from supervit.config import SuperViTConfig
from supervit.runtimes import Runtime

torch.set_num_threads(1)  # tests are small, and pools that spin for the same cores make them ten times slower

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def small_config(family: str = "deit", **overrides) -> SuperViTConfig:
    """A config that runs in milliseconds but has every part of its family: 12 blocks or 16, three drop blocks."""
    variant = {"deit": "deit_tiny", "lvvit": "lvvit_tiny"}[family]
    small = {"embed_dim": 24, "num_heads": 3, "patch_size": 4, "grid_sizes": (4, 5, 6, 7), "num_classes": 5}
    return variant_config(variant, **{**small, **overrides})


def trained_like(model: SuperViT) -> SuperViT:
    """The model with weights large enough that tokens, scores and logits differ visibly, as after training."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.15)
    return model


def plain_runtime(runtime: Runtime, **changes) -> Runtime:
    """A runtime as one that is not PyTorch's, with other fields."""
    fields = {field.name: getattr(runtime, field.name) for field in dataclasses.fields(Runtime)}
    return Runtime(**{**fields, **changes})


@pytest.fixture(params=["deit", "lvvit"])
def model(request) -> SuperViT:
    return trained_like(SuperViT(small_config(request.param))).eval()


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randn(2, 3, 28, 28)


@pytest.fixture
def shared() -> Path:
    if not SHARED.is_dir():
        pytest.skip("needs ../shared, the real images and weights, which are not in the repository")
    return SHARED
