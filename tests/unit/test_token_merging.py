import pytest
import timm
import torch
from benchmarks.token_merging import TokenMerging, merge_tokens, mergeable, merging_macs
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode


def small_vit(depth: int = 4):
    """A timm ViT of 4x4 patches with weights large enough that tokens differ visibly."""
    model = timm.create_model(
        "vit_tiny_patch16_224", img_size=16, patch_size=4, embed_dim=24, num_heads=3, depth=depth, num_classes=5
    )
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.15)
    return model.eval()


@torch.no_grad()
def test_merging_nothing_is_timms_model():
    model, images = small_vit(), torch.randn(3, 3, 16, 16)
    torch.testing.assert_close(TokenMerging(model, 0)(images), model(images), rtol=0, atol=1e-6)


@torch.no_grad()
def test_each_block_merges_as_many_tokens_until_the_class_token_and_half_of_the_rest_are_left():
    model, counts = small_vit(), []
    for block in model.blocks:
        block.norm2.register_forward_hook(lambda module, inputs, output: counts.append(output.shape[1]))
    TokenMerging(model, 3)(torch.randn(2, 3, 16, 16))
    assert counts == [14, 11, 8, 5]
    counts.clear()
    TokenMerging(model, 100)(torch.randn(2, 3, 16, 16))
    assert counts == [9, 5, 3, 2]


@pytest.mark.parametrize("tokens", [16, 17])
@pytest.mark.parametrize("count", [0, 1, 5, 100])
def test_merging_keeps_the_sum_over_patches_and_the_class_token(tokens, count):
    rows, sizes = torch.randn(2, tokens, 8), torch.randint(1, 4, (2, tokens, 1)).float()
    merged, merged_sizes = merge_tokens(rows, sizes, torch.randn(2, 3, tokens, 4), count)
    assert merged.shape[1] == tokens - min(count, mergeable(tokens))
    torch.testing.assert_close(merged_sizes.sum(1), sizes.sum(1), rtol=0, atol=0)
    torch.testing.assert_close((merged * merged_sizes).sum(1), (rows * sizes).sum(1), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(merged[:, 0], rows[:, 0], rtol=0, atol=0)


def test_the_most_similar_tokens_are_the_ones_that_merge():
    keys = torch.randn(1, 3, 9, 4)
    keys[:, :, 6] = keys[:, :, 3] * 2  # the cosine ignores lengths
    rows = torch.randn(1, 9, 8)
    merged, sizes = merge_tokens(rows, torch.ones(1, 9, 1), keys, 1)
    assert sizes.flatten().tolist() == [1, 1, 1, 1, 1, 2, 1, 1]  # places 0, 2, 4, 8, then 1, 3, 5, 7
    torch.testing.assert_close(merged[0, 5], (rows[0, 3] + rows[0, 6]) / 2)


@torch.no_grad()
@pytest.mark.parametrize("count", [5, 8])
def test_merged_duplicates_count_as_often_as_they_were(count):
    """Eight pairs of equal patches, one of each pair in each set: the first block merges `count` of these pairs.

    What the second block merges, after its attention, the class token no longer sees.
    """
    model = small_vit(depth=2)
    model.pos_embed.zero_()
    patches = torch.randn(2, 3, 16, 2, 4)
    images = patches.repeat_interleave(2, dim=3).flatten(3)
    torch.testing.assert_close(TokenMerging(model, count)(images), model(images), rtol=0, atol=1e-5)
    others = torch.randn(2, 3, 16, 16)
    assert (TokenMerging(model, count)(others) - model(others)).abs().max() > 1e-2


@pytest.mark.parametrize("count", [0, 3, 100])
def test_macs_are_what_is_executed(count):
    model = small_vit()
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        TokenMerging(model, count)(torch.randn(1, 3, 16, 16))
    assert counter.get_total_flops() // 2 == merging_macs(model, count)


def test_a_model_that_reads_all_tokens_is_refused():
    with pytest.raises(ValueError, match="class token"):
        TokenMerging(timm.create_model("vit_tiny_patch16_224", img_size=16, patch_size=4, depth=1, global_pool="avg"), 2)
