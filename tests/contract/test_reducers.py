"""What every reducer must obey; runs over whatever files exist, and over one from outside."""

from pathlib import Path

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import supervit.reducers
from supervit import SuperViT
from supervit.macs import executed_macs
from supervit.plugins import load_plugin, plugin_names
from supervit.reducers import load_reducer
from tests.conftest import small_config, trained_like

REDUCERS = [*plugin_names(supervit.reducers), "tests.contract.own_reducer"]
PAPER = {"class_attention", "random", "received_attention", "evit", "tome", "dynamic_vit", "evo_vit"}
POINTS = ["7@0.7", "7", "7@0.5", "4@0.6", "7@0.9-0.7-0.5", "7@0.7/8", "6x8@0.7", "7/2"]
HEADS = {"evo_vit": {"global_pool": "avg", "fc_norm": True}}


def test_those_of_the_paper_and_its_rivals_ship():
    assert {*REDUCERS} >= PAPER


def test_each_has_a_file_of_less_than_sixty_lines_that_cites_its_source():
    for name in plugin_names(supervit.reducers):
        text = Path(load_plugin(supervit.reducers, name).__file__).read_text()
        assert text.count("\n") < 60, name
        assert "Source: " in text or name in ("random", "mean_query")


@pytest.fixture(params=REDUCERS)
def name(request):
    return request.param


def model_with(name, family="deit", **config):
    config = {"reducer": name, **HEADS.get(name, {}), **config}
    return trained_like(SuperViT(small_config(family, **config))).eval()


def images_of(point, count=3):
    return torch.randn(count, 3, *((24, 32) if "x" in point else (28, 28)))


def test_paths_together_equal_paths_alone(name):
    model, images = model_with(name), images_of("7")
    asked = [point for point in POINTS if "x" not in point]
    torch.manual_seed(5)
    together = model.forward_paths(images, asked)
    if name == "random":  # draws once for all
        assert all(logits.isfinite().all() for logits in together)
        return
    for point, logits in zip(asked, together, strict=True):
        torch.testing.assert_close(logits, model(images, point), atol=1e-5, rtol=1e-5)


def test_counted_macs_of_paths_together_are_executed_macs(name):
    model, asked = model_with(name), ["7", "7@0.5", "7@0.7", "4@0.5", "7@0.5/8"]
    assert executed(model, asked) == executed_macs(model.config, asked)


def executed(model, complexity):
    images = images_of(complexity if isinstance(complexity, str) else complexity[0], 1)
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model(images, complexity)
    return counter.get_total_flops() // 2


@pytest.mark.parametrize("point", ["7@0.7", "7@0.5", "7@0.9-0.7-0.5", "7@0.7/8"])
def test_the_plan_tells_how_many_tokens_leave(name, point):
    model, seen = model_with(name), {}
    for index, block in enumerate(model.blocks):
        block.norm1.register_forward_pre_hook(lambda _, args, i=index: seen.setdefault(i, []).append(args[0].shape[1]))
    model.encode(images_of(point), [point], all_tokens=True)
    plan = model.config.plan(point, all_tokens=True)
    for index, block in enumerate(plan.blocks):
        assert max(seen[index]) == (block.tokens_kept if load_reducer(name).at_input else block.tokens_in), index


def test_savings_change_no_output(name):
    if name == "random":
        pytest.skip("draws anew")
    model, plain = model_with(name), model_with(name, exact_savings=False)
    plain.load_state_dict(model.state_dict())
    for point in POINTS:
        images = images_of(point)
        torch.testing.assert_close(model(images, point), plain(images, point), atol=1e-5, rtol=1e-5)


def test_it_runs_behind_any_head(name):
    model = model_with(name, global_pool="token", fc_norm=False)
    for point in ("7@0.5", "7@0.7/8"):
        assert model(images_of("7"), point).shape == (3, 5)
        assert executed(model, point) == executed_macs(model.config, point)


def test_an_answer_does_not_depend_on_batch_mates(name):
    if name == "random":
        pytest.skip("draws for each batch")
    model, images = model_with(name), images_of("7", 4)
    for point in ("7@0.7", "7@0.5/8"):
        alone = torch.cat([model(image.unsqueeze(0), point) for image in images])
        torch.testing.assert_close(model(images, point), alone, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_a_dropped_token_changes_values_only_where_its_rows_are_read(name):
    """The values after the drop block, when the row of a patch that does not survive on its own changes after attention."""
    model = model_with(name)
    block = model.blocks[3]
    reads = block.reducer.reads_all_rows
    if block.reducer.at_input or name == "random":
        assert not reads
        return
    tokens = model.encode_prefix(images_of("7", 1), 7).tracked()
    kept = model.config.plan("7@0.5").blocks[3].tokens_kept
    attended, ranking = block._attend_all(tokens, kept)
    before = block.reducer.reduce(attended, ranking, kept)
    changes = []
    for patch in range(1, tokens.values.shape[1]):
        other = attended.values.clone()
        other[:, patch] += 1.0
        after = block.reducer.reduce(attended._replace(values=other), ranking, kept)
        changes.append(bool((after.values != before.values).any()))
    gone = sum(not changed for changed in changes)
    assert gone == (0 if reads else len(changes) - (kept - 1))


def test_every_patch_has_a_place_or_is_dropped(name):
    model = model_with(name)
    _, trace = model(images_of("7"), "7@0.5", trace=True)
    assert tuple(trace.places) == (3, 6, 9)
    last = model.config.plan("7@0.5", all_tokens=True).blocks[-1].tokens_out
    assert trace.last.shape == (3, 49)
    assert trace.last.max() < last
    assert trace.last.min() >= -1
    held = [{*row.tolist()} - {-1} for row in trace.last]
    assert all(places == {*range(1, last)} for places in held)
    assert trace.drop_map().shape == trace.token_map().shape == (3, 7, 7)


def test_every_place_can_be_restored(name):
    model = model_with(name)
    (encoded,) = model.encode(images_of("7"), ["7@0.5"], restore=True)
    assert encoded.tokens.shape == (3, 50, 24)
    assert encoded.tokens.isfinite().all()
    (together, _) = model.encode(images_of("7"), ["7@0.5", "7"], restore=True)
    assert together.tokens.shape == (3, 50, 24)


def test_what_is_restored_is_what_was_dropped():
    model = model_with("class_attention")
    images = images_of("7")
    (encoded,), (_, trace) = model.encode(images, ["7@0.5"], restore=True), model(images, "7@0.5", trace=True)
    prefix = model.norm(model.encode_prefix(images, 7).values)[:, 1:]
    for row in range(3):
        gone = trace.dropped[3][row]
        torch.testing.assert_close(encoded.tokens[row, 1:][gone], prefix[row][gone])
    (together, _) = model.encode(images, ["7@0.5", "7"], restore=True)
    torch.testing.assert_close(together.tokens, encoded.tokens, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", ["deit", "lvvit"])
def test_a_model_trains_with_it(name, family):
    heads = HEADS.get(name, {}) if family == "deit" else {"global_pool": "token", "fc_norm": False}
    model = model_with(name, family, **heads).train()
    encoded = model.encode(images_of("7"), ["7", "7@0.5", "7@0.7"])
    loss = sum(model.forward_head(path.tokens).square().mean() + (path.penalty or 0) for path in encoded)
    loss.backward()
    learned = {key for key, _ in model.named_parameters() if ".reducer." in key}
    assert bool(learned) == (load_reducer(name).is_learned)
    without = {key for key, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()}
    assert without == {"pos_embeds.4", "pos_embeds.5", "pos_embeds.6"}


def test_gradient_checkpointing_changes_no_gradient(name):
    if load_reducer(name).is_learned or name == "random":
        pytest.skip("draws")
    model, gradients = model_with(name), []
    for enable in (False, True):
        model.set_grad_checkpointing(enable)
        model.zero_grad()
        torch.manual_seed(1)
        sum(logits.square().sum() for logits in model.forward_paths(torch.ones(2, 3, 28, 28), ["7", "7@0.7"])).backward()
        gradients.append(model.blocks[0].attn.qkv.weight.grad.clone())
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("point", ["7@0.7", "7@0.9-0.7-0.5", "7/9", "7@0.7/9"])
def test_a_resumed_prefix_gives_the_same_logits(name, point):
    if name == "random":
        pytest.skip("draws anew")
    model, images = model_with(name), images_of(point)
    prefix = model.encode_prefix(images, 7)
    torch.testing.assert_close(model.resume(prefix, point), model(images, point), atol=1e-6, rtol=1e-6)
    both = prefix.of_images(slice(0, 1)).joined(prefix.of_images(slice(1, None)))
    torch.testing.assert_close(model.resume(both, point), model(images, point), atol=1e-6, rtol=1e-6)


def test_survivors_of_a_lower_rate_are_among_those_of_a_higher_one(name):
    reducer = load_reducer(name)
    if reducer.reads_all_rows or reducer.keeps_aside:
        pytest.skip("does not drop")
    _, (high, low) = model_with(name).forward_paths(images_of("7"), ["7@0.7", "7@0.5"], trace=True)
    for row in range(3):
        assert set(high.dropped[3][row].tolist()) <= set(low.dropped[3][row].tolist())


def test_a_reducer_that_neither_scores_nor_ranks_says_so():
    with pytest.raises(NotImplementedError, match="supervit.reducers.Reducer has neither score nor rank"):
        supervit.reducers.Reducer(small_config()).rank(None, 3)


def test_a_drop_of_a_given_count_is_the_block_with_it(name):
    if name == "random":
        pytest.skip("draws anew")
    model = model_with(name)
    tokens, kept = model.encode_prefix(images_of("7"), 7), model.config.plan("7@0.5").blocks[3].tokens_kept
    block = model.blocks[3]
    (expected,) = block(tokens, 50 if block.reducer.reads_all_rows else kept, (kept,), kept)
    if block.reducer.at_input:
        (expected,) = block(expected, kept)
    torch.testing.assert_close(block.drop(tokens, kept).values, expected.values, atol=1e-5, rtol=1e-5)
