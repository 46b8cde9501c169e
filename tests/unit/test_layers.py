import pytest
import torch

from supervit.block import Block
from supervit.layers import resize_images
from supervit.reducers import with_prefix
from supervit.reducers.class_attention import Reducer
from supervit.tokens import Tokens
from tests.conftest import small_config


def test_the_size_that_fits_is_not_touched(images):
    assert resize_images(images, (28, 28), "align_corners") is images


def test_align_corners_keeps_the_corner_pixels(images):
    small = resize_images(images, (16, 16), "align_corners")
    assert torch.equal(small[..., [0, 0, -1, -1], [0, -1, 0, -1]], images[..., [0, 0, -1, -1], [0, -1, 0, -1]])


def test_half_pixel_equals_resizing_each_patch_on_its_own():
    images = torch.randn(1, 3, 32, 32)  # 4x4 patches of 8 pixels, each to 4 pixels
    patches = images.unfold(2, 8, 8).unfold(3, 8, 8).permute(0, 2, 3, 1, 4, 5).flatten(0, 2)
    each = resize_images(patches, (4, 4), "half_pixel").unflatten(0, (1, 4, 4)).permute(0, 3, 1, 4, 2, 5).reshape(1, 3, 16, 16)
    torch.testing.assert_close(resize_images(images, (16, 16), "half_pixel"), each)


def test_antialias_averages_what_it_shrinks():
    stripes = torch.tensor([1.0, -1.0]).repeat(16).expand(1, 1, 32, 32)
    assert resize_images(stripes, (4, 4), "antialias").abs().max() < 0.1
    assert resize_images(stripes, (4, 4), "align_corners").abs().max() > 0.3


def test_survivors_are_the_class_token_then_the_best():
    tokens = Tokens(torch.arange(5.0).view(1, 5, 1)).tracked()
    taken = tokens.take(with_prefix(torch.tensor([[3, 0, 1]]), 1, 3))
    assert taken.values.flatten().tolist() == [0, 4, 1]
    assert taken.patches.tolist() == [[2, -1, -1, 1]]


def block_of(drop_path: float = 0.0, **config):
    config = small_config(**config)
    return Block(config, drop_path, Reducer(config)).eval()


def run(block, values, rows):
    """The values that a block makes of all tokens, or of the best."""
    keep = (None,) if rows == values.shape[1] else (rows,)
    return block(Tokens(values), rows, keep, 0 if keep == (None,) else rows)[0].values


@pytest.mark.parametrize("rows", [1, 4, 9])
def test_rows_of_the_saving_form_are_those_of_the_plain_form(rows):
    tokens = torch.randn(2, 9, 24)
    saving, plain = (block_of(exact_savings=flag) for flag in (True, False))
    plain.load_state_dict(saving.state_dict())
    tokens, keep = Tokens(tokens).tracked(), (None,) if rows == 9 else (4,)
    (got,) = saving(tokens, rows, keep, 4)
    (expected,) = plain(tokens, max(rows, 4), keep, 4)
    assert torch.equal(got.patches, expected.patches)
    torch.testing.assert_close(got.values, expected.values[:, :rows], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kept", [4, 9])
def test_a_drop_of_any_count_is_the_block_with_the_best_first(kept):
    block, tokens = block_of(), Tokens(torch.randn(2, 9, 24)).tracked()
    every, expected = block(tokens, 9, (None, kept), kept)
    dropped = block.drop(tokens, kept)
    torch.testing.assert_close(dropped.values, expected.values, atol=1e-5, rtol=1e-5)
    assert torch.equal(dropped.patches, expected.patches)
    torch.testing.assert_close(every.values, run(block, tokens.values, 9))


def test_ffn_in_slices_equals_ffn_in_one(monkeypatch):
    block = block_of()
    tokens = torch.randn(3, 20, 24)
    whole = run(block, tokens, 20)  # with gradient: in one
    monkeypatch.setattr("supervit.slices._ROWS_PER_SLICE", 7)
    with torch.no_grad():
        sliced = run(block, tokens, 20)
        empty = run(block, tokens[:0], 20)
    torch.testing.assert_close(sliced, whole.detach())
    assert empty.shape == (0, 20, 24)


def test_stochastic_depth_drops_whole_branches_and_keeps_the_mean():
    block = block_of(0.5).train()
    tokens = torch.randn(64, 3, 24)
    unchanged = (run(block, tokens, 3) == tokens).flatten(1).all(dim=1)
    assert 4 < unchanged.sum() < 32  # both branches dropped: a quarter of the images


def test_a_block_changes_nothing_that_its_caller_holds():
    block = block_of()
    tokens = torch.randn(2, 9, 24)
    before = tokens.clone()
    with torch.no_grad():
        run(block, tokens, 4)
    assert torch.equal(tokens, before)
