"""One training step: what teaches whom, mixing, the parts it may be run in."""

import dataclasses
import random

import pytest
import torch
import torch.nn.functional as F

from supervit import Complexity, InputError, SuperViT
from supervit.data import seed_everything
from supervit.distributed import World
from supervit.objective import distillation_loss
from supervit.recipes import load_recipe
from supervit.token_labels import MixBox, TokenLabels, token_label_loss, token_targets
from supervit.train.step import GradientStep, PathLosses, Targets, compile_blocks, step_paths
from tests.conftest import small_config, trained_like
from tests.integration.test_train import changed

PATHS = tuple(map(Complexity.of, ("7", "7@0.5", "5", "5@0.7")))


def a_config(family="deit", **changes):
    config = dataclasses.replace(load_recipe("digits"), model=small_config(family))
    return changed(config, changes)


def a_model(config):
    torch.manual_seed(0)
    return trained_like(SuperViT(config.model))


def a_step(config, model):
    return GradientStep(model, config, World(), torch.amp.GradScaler("cpu", enabled=False))


def gradients(model):
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.fixture
def batch():
    return torch.randn(6, 3, 28, 28), torch.tensor([0, 1, 2, 3, 4, 0])


def some_token_labels(images, grid=7, classes=5):
    cells = torch.arange(grid * grid).reshape(1, grid, grid).expand(images, -1, -1).clone()
    return TokenLabels(
        torch.rand(images, 2, 6, 6) * 5,
        torch.randint(classes, (images, 1, 6, 6)).repeat(1, 2, 1, 1) // torch.tensor([1, 2]).view(1, 2, 1, 1),
        torch.tensor([0.1, 0.0, 0.9, 1.0]).repeat(images, 1),
        torch.arange(images) % 2 == 0,
        cells,
    )


@pytest.mark.parametrize("family", ["deit", "lvvit"])
@pytest.mark.parametrize(
    "changes", [{"backward": "per_grid"}, {"micro_batches": 3}, {"backward": "per_grid", "micro_batches": 2}]
)
def test_a_step_in_parts_has_the_gradients_of_the_whole(family, changes, batch):
    """Batch norm in LV-ViT's stem sees the parts one by one, so it is put into evaluation mode."""
    found = []
    for parts in ({}, changes):
        config = a_config(family, **parts)
        model = a_model(config).eval()
        losses = a_step(config, model)(*batch, None, PATHS)
        found.append((losses, gradients(model)))
    (whole, expected), (parted, actual) = found
    torch.testing.assert_close(parted, whole, rtol=1e-4, atol=1e-5)
    assert expected.keys() == actual.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(actual[name], gradient, rtol=1e-3, atol=1e-4 * float(gradient.abs().max()) + 1e-7)


def test_the_largest_grid_can_teach_the_smaller_ones(batch):
    images, labels = batch
    config = a_config(teacher="larger_grid")
    model = a_model(config).eval()
    logits = dict(zip(PATHS, model(images, PATHS), strict=True))
    losses = PathLosses(model, config)(images, Targets(labels), PATHS)
    seven, five = logits[Complexity(7)], logits[Complexity(5)]
    expected = [
        F.cross_entropy(seven, labels),
        distillation_loss(logits[Complexity(7, 0.5)], seven),
        distillation_loss(five, seven),
        distillation_loss(logits[Complexity(5, 0.7)], five),
    ]
    torch.testing.assert_close(losses, torch.stack(expected))


def test_labels_can_teach_every_path(batch):
    images, labels = batch
    config = a_config(teacher="labels", label_smoothing=0.1)
    model = a_model(config).eval()
    losses = PathLosses(model, config)(images, Targets(labels), PATHS)
    expected = [F.cross_entropy(path, labels, label_smoothing=0.1) for path in model(images, PATHS)]
    torch.testing.assert_close(losses, torch.stack(expected))


def test_token_labels_teach_the_uncut_largest_path_alone(batch):
    images, labels = batch
    config = a_config("lvvit", label_smoothing=0.1)
    model = a_model(config).eval()
    tokens, box = some_token_labels(6), MixBox(7, 1, 4, 2, 5)
    losses = PathLosses(model, config)(images, Targets(labels, tokens, box), PATHS)
    encoded = model.encode(images, PATHS, mix=box.mix)
    crop, dense = token_targets(tokens, 5, label_smoothing=0.1)
    share = 9 / 49
    crop = (1 - share) * crop + share * crop.flip(0)
    dense_logits = model.aux_head(encoded[0].tokens[:, 1:])
    expected = token_label_loss(model.head(encoded[0].tokens[:, 0]), dense_logits, crop, box.mix(dense, 7))
    torch.testing.assert_close(losses[0], expected)
    logits = [model.forward_head(path.tokens) for path in encoded]
    torch.testing.assert_close(losses[1], distillation_loss(logits[1], logits[0]))
    mixed = (1 - share) * F.one_hot(labels, 5) + share * F.one_hot(labels, 5).flip(0)
    torch.testing.assert_close(losses[2], F.cross_entropy(logits[2], mixed, label_smoothing=0.1))
    torch.testing.assert_close(losses[3], distillation_loss(logits[3], logits[2]))


def test_token_labels_go_with_their_micro_batch(batch):
    images, labels = batch
    tokens = some_token_labels(6)
    totals = []
    for parts in (1, 2):
        config = a_config("lvvit", micro_batches=parts)
        totals.append(a_step(config, a_model(config).eval())(images, labels, tokens, PATHS))
    torch.testing.assert_close(*totals, rtol=1e-4, atol=1e-5)


def test_mix_token_draws_a_box_from_the_seed(batch):
    config = a_config("lvvit", **{"data.mix_token": 1.0})
    losses = []
    for seed in (0, 0, 1, 2, 3):
        seed_everything(seed)
        losses.append(a_step(config, a_model(config).eval())(*batch, None, PATHS))
    assert torch.equal(losses[0], losses[1])
    assert any(not torch.equal(losses[0], other) for other in losses[2:])


@pytest.mark.parametrize("images", [6, 5])
def test_mixup_is_timms_and_an_image_without_partner_is_left_out(batch, images):
    config = a_config(label_smoothing=0.1, **{"data.mixup": 0.8, "data.cutmix": 1.0})
    model = a_model(config).eval()
    step = a_step(config, model)
    seed_everything(3)
    losses = step(batch[0][:images].clone(), batch[1][:images], None, PATHS)
    seed_everything(3)
    mixed, targets = step.mix(batch[0][: images // 2 * 2].clone(), batch[1][: images // 2 * 2])
    torch.testing.assert_close(losses[0], F.cross_entropy(model(mixed, "7"), targets))
    assert targets.sum(dim=1).tolist() == pytest.approx([1.0] * len(targets))


def test_a_step_runs_the_paths_asked_for():
    assert step_paths(a_config(paths=("all",)), 3) == tuple(small_config().space)
    assert step_paths(a_config(paths=("5@0.5", "5")), 3) == (Complexity(5, 0.5), Complexity(5))
    drawn = {step_paths(a_config(), step) for step in range(50)}
    assert len(drawn) > 5
    assert all(len(paths) == 4 for paths in drawn)


@pytest.mark.slow
def test_compiled_blocks_compute_the_same_with_few_graphs(batch):
    config = a_config("deit", **{"model.drop_path_rate": 0.1, "model.drop_blocks": (0, 1), "model.depth": 3})
    losses, found = [], []
    for compiled in (False, True):
        model = a_model(config)
        if compiled:
            torch._dynamo.reset()
            compile_blocks(model)
        seed_everything(0)
        random.seed(0)
        with torch._dynamo.config.patch(fail_on_recompile_limit_hit=True):
            for paths in (PATHS, tuple(map(Complexity.of, ("7", "7@0.7", "4", "4@0.5")))):
                model.eval()  # stochastic depth draws other numbers when compiled
                losses.append(a_step(config, model)(*batch, None, paths))
        found.append(gradients(model))
    for eager, compiled in zip(losses[:2], losses[2:], strict=True):
        torch.testing.assert_close(compiled, eager, rtol=1e-4, atol=1e-5)
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient, rtol=1e-3, atol=1e-4 * float(gradient.abs().max()) + 1e-6)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"paths": ("5@0.5",)}, r"path 5@0.5 has no teacher; add 5 to paths, or set teacher to labels"),
        ({"paths": ("9",)}, r"path 9 is not of the model's grid sizes \(4, 5, 6, 7\)"),
        ({"paths": ("5", "5")}, "must not name a point twice"),
        ({"backward": "per_grid", "teacher": "larger_grid"}, "set backward to joint"),
        ({"lr_batch_size": 0}, "lr_batch_size 0 must be at least 1"),
        ({"data.mixup": 0.8, "data.batch_size": 7}, "batch_size 7 is odd; mixup and cutmix pair the images"),
        ({"data.cutmix": 0.8, "data.mix_token": 1.0}, "set both to 0"),
        ({"data.mixup": -1.0}, "mixup -1.0 must be at least 0"),
        ({"data.repeats": 0}, "repeats 0 must be at least 1"),
        ({"data.max_damaged": 2.0}, r"max_damaged 2.0 is not in \[0, 1\]"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(changes, message):
    with pytest.raises(InputError, match=message):
        a_config(**changes)
