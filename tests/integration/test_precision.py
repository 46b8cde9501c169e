"""The model under autocast, in half precision, copied, with adapters and hooks."""

import copy
import pickle

import pytest
import torch
from torch import nn

from supervit import SuperViT

POINTS = ["7", "7@0.5", "4", "4@0.7"]


def test_autocast_trains_with_a_float32_residual_stream(model, images):
    model.train()
    streams = []
    handles = [
        block.register_forward_hook(lambda _, __, output: streams.append(output[0].values.dtype)) for block in model.blocks
    ]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = sum(logits.float().square().mean() for logits in model.forward_paths(images, POINTS))
    loss.backward()
    for handle in handles:
        handle.remove()
    assert set(streams) == {torch.float32}
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def test_bfloat16_runs_all_points_and_gives_float32_logits_that_do_not_tie(model, images):
    half = copy.deepcopy(model).to(torch.bfloat16)
    with torch.no_grad():
        for point in (*POINTS, "9@0.6"):
            assert half(images.bfloat16(), point).dtype == torch.float32


def test_copies_are_the_same_model(model, images):
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(other(images, "5@0.5"), model(images, "5@0.5"))


class Doubled(nn.Module):
    """An adapter in place of a linear layer: it has the layer's weight, and its own arithmetic."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer
        self.weight, self.bias = layer.weight, layer.bias

    def forward(self, tokens):
        return 2 * self.layer(tokens)


@pytest.mark.parametrize("point", ["7", "7@0.5"])
def test_adapters_on_the_projection_count_in_every_block(model, images, point):
    plain = SuperViT(model.config.replace(exact_savings=False)).eval()
    plain.load_state_dict(model.state_dict())
    for other in (model, plain):
        for block in other.blocks:
            block.attn.qkv = Doubled(block.attn.qkv)
    torch.testing.assert_close(model(images, point), plain(images, point), atol=1e-5, rtol=1e-5)


def test_hooks_see_what_the_block_computed(model, images, monkeypatch):
    monkeypatch.setattr("supervit.slices._ROWS_PER_SLICE", 7)
    seen = {}
    block = model.blocks[0]
    block.mlp.register_forward_hook(lambda _, __, output: seen.update(mlp=output, copy=output.clone()))
    with torch.no_grad():
        model(images)
    assert seen["mlp"].shape == (2, 50, 24)
    assert torch.equal(seen["mlp"], seen["copy"])


def test_losses_on_hooked_activations_train(model, images):
    seen = []
    model.blocks[0].attn.proj.register_forward_hook(lambda _, __, output: seen.append(output.square().mean()))
    (model(images).sum() + seen[0]).backward()
    assert model.blocks[0].attn.proj.weight.grad.isfinite().all()
