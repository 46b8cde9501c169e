"""Token merging (ToMe), the best known rival of dropping tokens, over a plain ViT of timm.

Each block merges r tokens between its attention and its FFN: the tokens are split in turn into two sets; each token of the
first finds the most similar one of the second (cosine of the keys, averaged over heads); the r most similar pairs become
their average, weighted by how many patches each stands for; attention counts a token as often as that (the logarithm of
its size is added to the logits). The class token, first of the first set, is never merged.

Source: Bolya et al., "Token Merging: Your ViT But Faster", ICLR 2023 (arXiv 2210.09461), section 3; written from the paper.
Differs: attention is fused, with the sizes as its mask; rows move by `index_select` and `index_add`, which CPUs do fast.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from supervit.layers import take_tokens


def mergeable(tokens: int) -> int:
    """The most tokens that one block can merge: the first set without the class token."""
    return (tokens - 1) // 2


def match_tokens(keys: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Bipartite soft matching.

    Args:
        keys: Keys of all tokens (B, H, T, d), class token first.
        count: Tokens to merge, at most `mergeable(T)`.

    Returns:
        Within the first set (even places): who stays (B, ceil(T / 2) - count), in order, and who is merged (B, count);
        within the second set (odd places): into whom (B, count).
    """
    keys = F.normalize(keys.mean(dim=1), dim=-1)
    similarity = keys[:, ::2] @ keys[:, 1::2].transpose(1, 2)
    nearest, partner = similarity.max(dim=2)
    order = nearest[:, 1:].argsort(dim=1, descending=True) + 1  # without the class token
    merged, others = order[:, :count], order[:, count:].sort(dim=1).values
    stay = torch.cat([torch.zeros_like(order[:, :1]), others], dim=1)
    return stay, merged, partner.gather(1, merged)


def merge_tokens(tokens: Tensor, sizes: Tensor, keys: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Tokens (B, T - count, D) and their sizes (B, T - count, 1) after `count` of them are merged into others.

    Args:
        tokens: Class token, then the others (B, T, D).
        sizes: How many patches each stands for (B, T, 1).
        keys: Their keys (B, H, T, d).
        count: Tokens to merge; no more than `mergeable(T)` are.
    """
    count = min(count, mergeable(tokens.shape[1]))
    if not count:
        return tokens, sizes
    stay, merged, into = match_tokens(keys, count)
    merged_sizes = take_tokens(sizes, 2 * merged)
    sums = _add_rows(tokens[:, 1::2] * sizes[:, 1::2], into, take_tokens(tokens, 2 * merged) * merged_sizes)
    sums_sizes = _add_rows(sizes[:, 1::2], into, merged_sizes)
    tokens = torch.cat([take_tokens(tokens, 2 * stay), sums / sums_sizes], dim=1)
    return tokens, torch.cat([take_tokens(sizes, 2 * stay), sums_sizes], dim=1)


def _add_rows(rows: Tensor, index: Tensor, added: Tensor) -> Tensor:
    """Rows (B, T, D) with `added` (B, S, D) added at `index` (B, S); several may go to the same row."""
    flat = index + rows.shape[1] * torch.arange(len(rows), device=index.device).unsqueeze(1)
    return rows.flatten(0, 1).index_add(0, flat.flatten(), added.flatten(0, 1)).view_as(rows)


class TokenMerging(nn.Module):
    """A timm ViT that merges r tokens in each block; inference only, the weights are shared with the model.

    Args:
        model: A plain `timm.models.VisionTransformer` that classifies its class token.
        count: Tokens merged per block, r.

    Raises:
        ValueError: a model that reads other tokens than the class token.
    """

    def __init__(self, model: Any, count: int):
        super().__init__()
        if model.global_pool != "token" or model.num_prefix_tokens != 1:
            raise ValueError(f"global_pool {model.global_pool!r} is not supported; use a model that reads its class token only")
        self.model = model
        self.count = count

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, K) of normalised images (B, C, S, S)."""
        model = self.model
        tokens = model.norm_pre(model._pos_embed(model.patch_embed(images)))
        sizes = torch.ones_like(tokens[:, :, :1])
        mask = None
        for block in model.blocks:
            tokens, sizes = self.run_block(block, tokens, sizes, mask)
            mask = sizes.log().flatten(1)[:, None, None] if self.count else None
        return model.forward_head(model.norm(tokens))

    def run_block(self, block: Any, tokens: Tensor, sizes: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """Tokens and sizes after a block; the mask (B, 1, 1, T) is what the sizes add to the attention's logits."""
        batch, length, _ = tokens.shape
        packed = block.attn.qkv(block.norm1(tokens)).reshape(batch, length, 3, block.attn.num_heads, -1)
        query, key, value = packed.permute(2, 0, 3, 1, 4).unbind(0)
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        tokens = tokens + block.ls1(block.attn.proj(mixed.transpose(1, 2).flatten(2)))
        tokens, sizes = merge_tokens(tokens, sizes, key, self.count)
        return tokens + block.ls2(block.mlp(block.norm2(tokens))), sizes


def merging_macs(model: Any, count: int) -> int:
    """MACs per image with `count` tokens merged per block, counted as `supervit.macs` does, the matching included."""
    dim, patches, hidden = model.embed_dim, model.patch_embed.num_patches, model.blocks[0].mlp.fc1.out_features
    total = patches * model.patch_embed.proj.weight.numel() + dim * model.num_classes
    tokens = patches + 1
    for block in model.blocks:
        merged = min(count, mergeable(tokens))
        matching = (tokens - tokens // 2) * (tokens // 2) * (dim // block.attn.num_heads) if merged else 0
        total += 4 * tokens * dim**2 + 2 * tokens**2 * dim + matching + 2 * (tokens - merged) * dim * hidden
        tokens -= merged
    return total
