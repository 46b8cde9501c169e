"""MixToken: boxes of patches that two images exchange, in tokens and targets alike."""

import random

import torch

from supervit import SuperViT
from supervit.token_labels import (
    MixBox,
    token_label_loss,
)
from tests.conftest import small_config


def boxes(count=50, grid=14):
    generator = random.Random(0)
    return [box for box in (MixBox.draw(grid, generator) for _ in range(count)) if box is not None]


def test_boxes_lie_in_the_grid_and_are_functions_of_the_generator():
    assert boxes() == boxes()
    for box in boxes():
        assert 0 <= box.top < box.bottom <= 14
        assert 0 <= box.left < box.right <= 14


def test_a_box_of_no_patches_is_none():
    generator = random.Random(0)
    assert {MixBox.draw(3, generator) for _ in range(20)} > {None}
    assert all(MixBox.draw(1, generator) is None for _ in range(20))


def test_the_box_comes_from_the_partner_and_the_rest_stays():
    tokens = torch.randn(4, 25, 3)
    mixed = MixBox(5, top=1, bottom=3, left=2, right=5).mix(tokens, 5).view(4, 5, 5, 3)
    pictures, partners = tokens.view(4, 5, 5, 3), tokens.flip(0).view(4, 5, 5, 3)
    assert torch.equal(mixed[:, 1:3, 2:], partners[:, 1:3, 2:])
    assert torch.equal(mixed[:, 1:3, :2], pictures[:, 1:3, :2])
    assert torch.equal(mixed[:, [0, 3, 4]], pictures[:, [0, 3, 4]])


def test_mixing_twice_undoes_it_on_every_grid():
    for box in boxes():
        for grid in (14, 12, 8):
            tokens = torch.randn(3, grid**2, 2)
            assert torch.equal(box.mix(box.mix(tokens, grid), grid), tokens)


def test_mixed_targets_give_the_loss_of_undoing_the_mix_on_the_logits():
    logits, targets = torch.randn(4, 49, 6), torch.randn(4, 49, 6).softmax(-1)
    class_logits, class_targets = torch.randn(4, 6), torch.randn(4, 6).softmax(-1)
    box = MixBox(7, top=2, bottom=6, left=0, right=3)
    ours = token_label_loss(class_logits, logits, class_targets, box.mix(targets, 7))
    original = token_label_loss(class_logits, box.mix(logits, 7), class_targets, targets)
    assert torch.allclose(ours, original)


def test_class_targets_mix_by_the_share_of_exchanged_patches_on_that_grid():
    targets = torch.eye(4)
    for box in boxes():
        for grid in (14, 10, 8):
            origin = torch.arange(4.0)[:, None, None].expand(-1, grid**2, 1)
            share = (box.mix(origin, grid) != origin).float().mean()
            assert torch.allclose(box.mix_targets(targets, grid), (1 - share) * targets + share * targets.flip(0))


def test_a_scaled_box_covers_the_same_part_to_a_patch():
    box = MixBox(14, top=3, bottom=9, left=0, right=14)
    assert box.scaled(14) == box
    assert box.scaled(7) == MixBox(7, top=2, bottom=4, left=0, right=7)
    assert box.scaled(28) == MixBox(28, top=6, bottom=18, left=0, right=28)


def test_the_model_mixes_patch_tokens_after_the_stem_at_each_grid(images):
    model = SuperViT(small_config("lvvit")).eval()
    grids = []

    def swap(tokens, grid_size):
        assert tokens.shape == (2, grid_size**2, 24)
        grids.append(grid_size)
        return tokens.flip(0)

    mixed = model.encode(images, ["7", "7@0.5", "4"], all_tokens=True, mix=swap)
    plain = model.encode(images.flip(0), ["7", "7@0.5", "4"], all_tokens=True)
    assert sorted(grids) == [4, 7]
    for ours, expected in zip(mixed, plain, strict=True):
        assert torch.allclose(ours.tokens, expected.tokens, atol=1e-5)
    assert model.aux_head(mixed[0].tokens[:, 1:]).shape == (2, 49, 5)


def test_an_empty_box_after_scaling_mixes_neither_tokens_nor_targets():
    box = MixBox(14, top=0, bottom=1, left=0, right=1)
    tokens, targets = torch.randn(2, 4, 3), torch.eye(2)
    assert torch.equal(box.mix(tokens, 2), tokens)
    assert torch.equal(box.mix_targets(targets, 2), targets)
