import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from supervit import Complexity, InputError, SuperViT, create_model
from supervit.tokens import Tokens
from supervit.trace import Trace
from tests.conftest import small_config, trained_like

SPACE = list(small_config().space)


def test_default_is_the_uncut_largest_grid(model, images):
    assert torch.equal(model(images), model(images, "7"))


@pytest.mark.parametrize("point", SPACE, ids=str)
def test_savings_change_no_output(model, images, point):
    plain = SuperViT(model.config.replace(exact_savings=False)).eval()
    plain.load_state_dict(model.state_dict())
    torch.testing.assert_close(model(images, point), plain(images, point), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("exact_savings", [True, False])
def test_paths_together_equal_paths_alone_in_the_order_asked(model, images, exact_savings):
    model = trained_like(SuperViT(model.config.replace(exact_savings=exact_savings))).eval()
    asked = [*SPACE[::-1], "7@0.5", "9@0.3", "7"]
    for point, logits in zip(asked, model.forward_paths(images, asked), strict=True):
        torch.testing.assert_close(logits, model(images, point), atol=1e-5, rtol=1e-5)


def test_cut_paths_share_without_an_uncut_one(model, images):
    together = model.forward_paths(images, ["6@0.5", "6@0.7", "6@0.2"])
    for point, logits in zip(("6@0.5", "6@0.7", "6@0.2"), together, strict=True):
        torch.testing.assert_close(logits, model(images, point), atol=1e-5, rtol=1e-5)


def test_paths_together_have_the_gradients_of_paths_alone(model, images):
    asked = ["7", "7@0.5", "4", "4@0.7"]
    sum(logits.square().sum() for logits in model.forward_paths(images, asked)).backward()
    together = {name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None}
    model.zero_grad()
    for point in asked:
        model(images, point).square().sum().backward()
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(together[name], parameter.grad, atol=1e-3, rtol=1e-3)
    assert "pos_embeds.5" not in together  # not asked for


@pytest.mark.parametrize("drop_blocks", [(3, 6, 9), (0, 11), ()])
@pytest.mark.parametrize("rate", ["0.5", "0.7"])
def test_trace_names_each_patch_exactly_once(images, drop_blocks, rate):
    model = trained_like(SuperViT(small_config(drop_blocks=drop_blocks))).eval()
    logits, trace = model(images, f"6@{rate}", trace=True)
    assert torch.equal(logits, model(images, f"6@{rate}"))
    assert tuple(trace.dropped) == drop_blocks
    named = torch.cat([*trace.dropped.values(), trace.kept], dim=1)
    assert torch.equal(named.sort(dim=1).values, torch.arange(36).expand(2, -1))
    picture = trace.drop_map()
    assert picture.shape == (2, 6, 6)
    assert (picture == -1).sum(dim=(1, 2)).tolist() == [trace.kept.shape[1]] * 2
    for block, patches in trace.dropped.items():
        assert (picture.flatten(1).gather(1, patches) == block).all()


def test_traces_of_paths_together_are_those_of_paths_alone(model, images):
    asked = ["7", "7@0.5", "5@0.7", "7@0.7"]
    logits, traces = model.forward_paths(images, asked, trace=True)
    for point, path_logits, trace in zip(asked, logits, traces, strict=True):
        alone_logits, alone = model(images, point, trace=True)
        torch.testing.assert_close(path_logits, alone_logits, atol=1e-5, rtol=1e-5)
        assert torch.equal(trace.drop_map(), alone.drop_map())


def test_trace_follows_the_class_attention(images):
    """The patches that block 3 drops are those with the least class attention, computed here the long way."""
    model = trained_like(SuperViT(small_config())).eval()
    tokens = model.encode_prefix(images, 7).values
    attention = model.blocks[3].attn
    query, key, _ = attention.project(model.blocks[3].norm1(tokens))
    scores = (query @ key.transpose(-2, -1) * 8**-0.5).softmax(-1)[:, :, 0, 1:].mean(1)
    _, trace = model(images, "7@0.5", trace=True)
    expected = scores.argsort(dim=1)[:, : 49 - 25].sort(dim=1).values
    assert torch.equal(trace.dropped[3].sort(dim=1).values, expected)


def test_start_of_a_trace_keeps_everything():
    trace = Trace.start(Tokens(torch.zeros(2, 10, 1)).tracked(), 3)
    assert torch.equal(trace.drop_map(), torch.full((2, 3, 3), -1))
    assert torch.equal(trace.kept, torch.arange(9).expand(2, -1))
    assert trace.dropped == {}


def test_untrained_grid_takes_the_positions_of_the_nearest_trained_one(model, images):
    assert model.position_table(9).shape == (1, 82, 24)
    with torch.no_grad():
        model.pos_embeds["7"].fill_(7.0)
        model.pos_embeds["4"].fill_(4.0)
    assert model.position_table(9).mean().item() == pytest.approx(7.0)
    assert model.position_table(2).mean().item() == pytest.approx(4.0)
    assert model(images, "9@0.6").shape == (2, 5)


def test_of_two_equally_near_grids_the_larger_gives_the_positions():
    model = SuperViT(small_config(grid_sizes=(4, 6)))
    with torch.no_grad():
        model.pos_embeds["6"].fill_(6.0)
    assert model.position_table(5).mean().item() == pytest.approx(6.0)


@pytest.mark.parametrize(
    "shape, message",
    [
        ((2, 1, 28, 28), r"expected \(batch, 3, height, width\)"),
        ((2, 3, 28, 20), "images of 28x20 pixels have not the shape of grid size 7, which is square"),
        ((3, 28, 28), r"shape \(3, 28, 28\) do not fit"),
        ((2, 3, 6, 6), "images of 6 pixels are too small for grid size 7"),
    ],
)
def test_images_that_do_not_fit_are_refused(model, shape, message):
    with pytest.raises(InputError, match=message):
        model(torch.zeros(shape))


def test_bytes_are_refused(model):
    with pytest.raises(InputError, match=r"torch.uint8 do not fit; scale to \[0, 1\]"):
        model(torch.zeros(1, 3, 28, 28, dtype=torch.uint8))


def test_images_of_any_square_size_are_resized(model):
    for side in (7, 16, 28, 50):
        assert model(torch.randn(1, 3, side, side)).shape == (1, 5)


@pytest.mark.parametrize("batch", [0, 1, 5])
def test_any_batch_size_runs(model, batch):
    assert model(torch.randn(batch, 3, 28, 28), "5@0.5").shape == (batch, 5)


def test_gradient_checkpointing_changes_no_gradient(model, images):
    gradients = []
    for enable in (False, True):
        model.set_grad_checkpointing(enable)
        model.zero_grad()
        model(images, "7@0.7").square().sum().backward()
        gradients.append(model.blocks[0].attn.qkv.weight.grad.clone())
    torch.testing.assert_close(*gradients)


def test_selection_carries_no_gradient_into_the_scores(images):
    """The scores that rank have no gradient, and the same survivors drawn otherwise give the same gradient."""
    model, seen = trained_like(SuperViT(small_config())), []
    reducer = model.blocks[3].reducer
    score = type(reducer).score
    reducer.score = lambda evidence: seen.append(score(reducer, evidence)) or seen[-1]
    gradients = []
    for _ in range(2):
        model.zero_grad()
        model(images, "7@0.5").square().sum().backward()
        gradients.append(model.blocks[3].attn.qkv.weight.grad.clone())
        reducer.score = lambda evidence: seen[0]  # constants
    assert not seen[0].requires_grad
    assert gradients[0].abs().max() > 0
    assert torch.equal(*gradients)


def test_initialisation_is_the_released_one():
    model = create_model("deit_tiny")
    assert model.blocks[0].attn.qkv.weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert model.pos_embeds["14"].std().item() == pytest.approx(0.02, rel=0.05)
    assert model.head.bias.abs().max() == 0
    assert model.norm.weight.unique().tolist() == [1]
    assert model.patch_embed.proj.weight.std().item() == pytest.approx(1 / (3 * (3 * 256)) ** 0.5, rel=0.05)  # uniform


@pytest.mark.parametrize(
    "name, count",
    [
        ("deit_tiny", 5_717_416 + 311 * 192),  # timm's count and the three further position tables
        ("deit_small", 22_170_088),
        ("deit_base", 86_567_656 + 311 * 768),
        ("lvvit_small", 26_271_248),
    ],
)
def test_parameter_counts(name, count):
    with torch.device("meta"):
        model = create_model(name)
    assert sum(p.numel() for p in model.parameters()) == count


def test_the_uncut_path_runs_no_ranking(model, images):
    with FlopCounterMode(display=False) as uncut:
        model(images, "7")
    calls = []
    model.blocks[3].reducer.score = lambda seen: calls.append(seen.attention.shape) or seen.attention[:, 0, 1:]
    model(images, "7")
    assert calls == []
    model(images, "7@0.5")
    assert calls == [(2, 3, 50)]
    assert uncut.get_total_flops() > 0


@pytest.mark.parametrize("complexity, message", [("", "complexity '' does not parse"), ([], "no complexities were asked for")])
def test_asking_for_nothing_is_refused(model, images, complexity, message):
    with pytest.raises(InputError, match=message):
        model(images, complexity)


def test_one_text_is_not_a_list_of_paths(model, images):
    with pytest.raises(InputError, match=r"forward_paths takes a list of complexities; write \['14'\]"):
        model.forward_paths(images, "14")


def test_forward_takes_a_list_too(model, images):
    logits, traces = model(images, ["7", "4@0.5"], trace=True)
    assert torch.equal(logits[1], model(images, ["7", "4@0.5"])[1])
    assert traces[1].grid_size == 4


@pytest.mark.parametrize("point", ["7", "7@0.5", "7@0.9", "4@0.7", "9@0.3"])
def test_a_resumed_prefix_gives_the_same_logits(model, images, point):
    prefix = model.encode_prefix(images, Complexity.of(point).grid_size)
    assert torch.equal(model.resume(prefix, point), model(images, point))
    torch.testing.assert_close(model.resume(prefix.of_images(slice(1, None)), point), model(images, point)[1:])


@pytest.mark.parametrize("drop_blocks", [(), (0, 5), (11,)])
def test_a_prefix_ends_before_the_first_drop_block(images, drop_blocks):
    model = trained_like(SuperViT(small_config(drop_blocks=drop_blocks))).eval()
    for point in ("7", "7@0.5"):
        assert torch.equal(model.resume(model.encode_prefix(images, 7), point), model(images, point))


def test_a_prefix_of_another_grid_is_refused(model, images):
    with pytest.raises(InputError, match="50 tokens are not those of grid 4"):
        model.resume(model.encode_prefix(images, 7), "4@0.5")


def test_an_exit_inside_the_prefix_is_refused(model, images):
    with pytest.raises(InputError, match="7/3 stops before the 3 blocks of the prefix are over; use forward"):
        model.resume(model.encode_prefix(images, 7), "7/3")


def test_a_prefix_ends_before_the_first_trained_exit(images):
    model = trained_like(SuperViT(small_config(exit_blocks=(2, 6)))).eval()
    assert model.config.shared_blocks == 1
    for text in ("7/2", "7@0.5", "7"):
        assert torch.equal(model.resume(model.encode_prefix(images, 7), text), model(images, text))


def test_registers_stand_behind_the_class_token_and_are_never_dropped(images):
    model = trained_like(SuperViT(small_config(reg_tokens=2))).eval()
    _, trace = model(images, "7@0.5", trace=True)
    assert trace.last[trace.last >= 0].min() == model.num_prefix_tokens == 3
    assert {"cls_token", "reg_token"} <= model.no_weight_decay()
