"""The released implementation's numbers, made with its own code on small-width models."""

import argparse
from pathlib import Path

import numpy as np
import pytest
import torch

import supervit
from supervit import Complexity, path_losses

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
WRAPPERS = {"deit": "model", "lvvit": "state_dict_ema"}


@pytest.fixture(scope="module", params=["deit", "lvvit"])
def golden(request, tmp_path_factory):
    """Golden numbers and the model, loaded from a file like the release's."""
    numbers = np.load(GOLDEN / f"released_{request.param}_small_width.npz")
    weights = {key[3:]: torch.from_numpy(numbers[key]) for key in numbers.files if key.startswith("sd/")}
    path = tmp_path_factory.mktemp("released") / "checkpoint.pth"
    content = {WRAPPERS[request.param]: weights, "epoch": 299, "args": argparse.Namespace(lr=1e-3)}
    torch.save(content, path)
    return numbers, supervit.load(path, num_heads=3)


def released_points(numbers):
    for key in numbers.files:
        if key.startswith("logits/"):
            pixels, rate = key.removeprefix("logits/").split("_")
            yield Complexity(int(pixels) // 16, float(rate)), torch.from_numpy(numbers[key])


@pytest.mark.parametrize("exact_savings", [True, False])
def test_logits_are_the_released_ones(golden, exact_savings):
    numbers, model = golden
    other = supervit.SuperViT(model.config.replace(exact_savings=exact_savings)).eval()
    other.load_state_dict(model.state_dict())
    images = torch.from_numpy(numbers["images"])
    points = dict(released_points(numbers))
    assert set(points) == set(model.config.space)
    with torch.no_grad():
        for point, expected in points.items():
            torch.testing.assert_close(other(images, point), expected, atol=1e-4, rtol=0)
        for expected, logits in zip(points.values(), other.forward_paths(images, list(points)), strict=True):
            torch.testing.assert_close(logits, expected, atol=1e-4, rtol=0)


def test_training_step_is_the_released_one(golden):
    numbers, model = golden
    if "train/subnets" not in numbers:
        pytest.skip("these golden numbers hold no training step")
    model.train()
    model.zero_grad()
    paths = [Complexity(int(pixels) // 16, float(rate)) for pixels, rate in numbers["train/subnets"]]
    logits = model.forward_paths(torch.from_numpy(numbers["images"]), paths)
    losses = torch.stack(path_losses(logits, paths, torch.from_numpy(numbers["train/targets"])))
    np.testing.assert_allclose(losses.detach().numpy(), numbers["train/losses"], atol=1e-5)
    losses.sum().backward()
    parameters = dict(model.named_parameters())
    grids = model.config.grid_sizes
    for key in [key for key in numbers.files if key.startswith("train/grad/")]:
        name = key.removeprefix("train/grad/")
        if name.startswith("pos_embed_list."):
            name = f"pos_embeds.{grids[int(name.rpartition('.')[2])]}"
        expected = torch.from_numpy(numbers[key])
        difference = (parameters[name].grad - expected).norm() / expected.norm()
        assert difference < 1e-4, name
