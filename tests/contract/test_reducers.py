"""What every reducer must obey; runs over whatever files exist."""

import pytest
import torch

import supervit.reducers
from supervit import SuperViT
from supervit.plugins import load_plugin, plugin_names
from tests.conftest import small_config, trained_like

REDUCERS = plugin_names(supervit.reducers)


def test_the_paper_rule_and_the_control_ship():
    assert {"class_attention", "random"} <= set(REDUCERS)


@pytest.fixture(params=REDUCERS)
def reducer(request):
    return load_plugin(supervit.reducers, request.param)


@pytest.mark.parametrize("batch, heads, tokens", [(2, 3, 17), (1, 1, 3), (5, 6, 65)])
def test_scores_are_one_finite_number_per_patch(reducer, batch, heads, tokens):
    attention, features = torch.rand(batch, heads, tokens), torch.randn(batch, tokens, 24)
    before = attention.clone(), features.clone()
    scores = reducer.score(attention, features)
    assert scores.shape == (batch, tokens - 1)
    assert scores.isfinite().all()
    assert torch.equal(attention, before[0])
    assert torch.equal(features, before[1])


def test_scores_repeat_under_the_same_seed(reducer):
    attention, features = torch.rand(2, 3, 17), torch.randn(2, 17, 24)
    scores = []
    for _ in range(2):
        torch.manual_seed(5)
        scores.append(reducer.score(attention, features))
    assert torch.equal(*scores)


def test_a_reducer_is_one_function_with_a_docstring(reducer):
    public = [name for name, value in vars(reducer).items() if callable(value) and value.__module__ == reducer.__name__]
    assert public == ["score"]
    assert reducer.__doc__
    assert reducer.score.__doc__


def test_a_model_trains_and_traces_with_it(reducer):
    name = reducer.__name__.rpartition(".")[2]
    model = trained_like(SuperViT(small_config(reducer=name)))
    logits, trace = model(torch.randn(2, 3, 28, 28), "6@0.5", trace=True)
    logits.sum().backward()
    named = torch.cat([*trace.dropped.values(), trace.kept], dim=1)
    assert torch.equal(named.sort(dim=1).values, torch.arange(36).expand(2, -1))
    assert all(p.grad.isfinite().all() for p in model.blocks.parameters())


def test_survivors_of_a_lower_rate_are_among_those_of_a_higher_one(reducer):
    model = trained_like(SuperViT(small_config(reducer=reducer.__name__.rpartition(".")[2]))).eval()
    _, (high, low) = model.forward_paths(torch.randn(2, 3, 28, 28), ["7@0.7", "7@0.5"], trace=True)
    for row in range(2):
        assert set(high.dropped[3][row].tolist()) <= set(low.dropped[3][row].tolist())
