"""Parts of the network: the resize of images, attention with queries of some tokens, the classifier."""

from collections.abc import Callable, Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from supervit.config import Resize

Projection = Callable[[Tensor], tuple[Tensor, ...]]


def resize_images(images: Tensor, size: tuple[int, int], form: Resize) -> Tensor:
    """Images (B, C, H, W) as (B, C, *size), bilinear; the same tensor where the size fits already.

    Args:
        images: Normalised images.
        size: Height and width wanted, in pixels.
        form: `align_corners`: corner pixels map onto corner pixels (released implementation). `half_pixel`: pixel areas
            map onto each other, equal to resizing each patch on its own where that is defined (paper, section 3.2.1).
            `antialias`: as `half_pixel`, low-pass filtered where the image shrinks.
    """
    if tuple(images.shape[-2:]) == size:
        return images
    is_short = images.dtype in (torch.bfloat16, torch.float16)  # not all forms have such kernels on a CPU
    resized = F.interpolate(
        images.float() if is_short else images, size=size,
        mode="bilinear", align_corners=form == "align_corners", antialias=form == "antialias",
    )  # fmt: skip
    return resized.to(images.dtype)


def computes_exactly(tensor: Tensor) -> bool:
    """Whether products with this tensor are float32: it is, and there is no autocast."""
    return tensor.dtype == torch.float32 and not torch.is_autocast_enabled(tensor.device.type)


def first_rows(tokens: Tensor, count: int) -> Tensor:
    """The first tokens of (B, T, D) as (B, count, D).

    Numerics: a product with rows that lie apart in memory, as these do in batches of several images, rounds before the bias
    and after it, which in bfloat16 changed answers with the batch size; so there they are moved together.
    """
    rows = tokens[:, :count]
    return rows if computes_exactly(tokens) else rows.contiguous()


class Classifier(nn.Linear):
    """A linear layer whose logits are float32 in every precision: rounded to bfloat16 the best classes tie."""

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits (..., K) of tokens (..., D)."""
        if tokens.dtype == torch.float32:
            return super().forward(tokens)
        bias = None if self.bias is None else self.bias.float()
        return F.linear(tokens.float(), self.weight.float(), bias)


class Attention(nn.Module):
    """Multi-head self-attention (Eq. 4, 5) whose queries can be a part of the tokens.

    Parameters have timm's names (`qkv`, `proj`), packed as (3, heads, head width).
    """

    def __init__(self, dim: int, num_heads: int, qkv_bias: bool):
        super().__init__()
        self.num_heads = num_heads
        # Parity: the paper's Eq. 5 prints sqrt(D); the released code divides by the root of the head width.
        self.head_dim = dim // num_heads
        self.scale = self.head_dim**-0.5
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.proj = nn.Linear(dim, dim)

    def project(self, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Query, key and value of tokens (B, T, D), each (B, H, T, D / H), in one product."""
        query, key, value = self._split_heads(self.qkv(tokens))
        return query, key, value

    def split_projection(self) -> tuple[Projection, Projection]:
        """The projections to (query,) and to (key, value), each from tokens (B, T, D) to (B, H, T, D / H)."""
        if type(self.qkv) is not nn.Linear:  # an adapter or a quantised layer: its own arithmetic counts
            return (lambda tokens: self.project(tokens)[:1]), (lambda tokens: self.project(tokens)[1:])
        return self._projections(*self.split_weights())

    def split_weights(self) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
        """Weight and, where there is one, bias of the queries, and those of the keys and values: parts of the packed ones."""
        sizes = [self.qkv.in_features, 2 * self.qkv.in_features]
        tensors = [self.qkv.weight] if self.qkv.bias is None else [self.qkv.weight, self.qkv.bias]
        # Cost: one split, however often its parts are used, is one gradient of the packed weight; slices are one each.
        query, key_value = zip(*(tensor.split(sizes) for tensor in tensors), strict=True)
        return query, key_value

    def _projections(self, *parts: Iterable[Tensor]) -> tuple[Projection, Projection]:
        query, key_value = (lambda tokens, part=part: self._split_heads(F.linear(tokens, *part)) for part in parts)
        return query, key_value

    def _split_heads(self, packed: Tensor) -> tuple[Tensor, ...]:
        """Projections side by side (B, T, n D), each as (B, H, T, D / H)."""
        batch, length, width = packed.shape
        parts = width // (self.num_heads * self.head_dim)
        return packed.view(batch, length, parts, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4).unbind(0)

    def probe_attention(self, query: Tensor, key: Tensor, bias: Tensor | None = None) -> Tensor:
        """Softmax attention of one query (B, H, 1, d) to all keys (B, H, T, d), as (B, H, T), float32.

        Numerics: scores rounded to bfloat16 tie, and a product under autocast rounds; this form does neither in any mode.
        """
        if computes_exactly(key):
            logits = ((query * self.scale) @ key.transpose(-2, -1)).squeeze(2)
        else:
            logits = (query.float() * self.scale * key.float()).sum(dim=-1)
        return (logits if bias is None else logits + bias.unsqueeze(1)).softmax(dim=-1)

    def full_attention(self, query: Tensor, key: Tensor, bias: Tensor | None = None) -> Tensor:
        """Softmax attention of queries (B, H, S, d) to all keys (B, H, T, d), as (B, H, S, T)."""
        logits = (query * self.scale) @ key.transpose(-2, -1)
        return (logits if bias is None else logits + bias[:, None, None].to(logits.dtype)).softmax(dim=-1)

    def attend(self, query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None = None) -> Tensor:
        """Attention of S queries to T keys, projected: (B, S, D)."""
        mask = None if bias is None else bias[:, None, None].to(query.dtype)
        return self.merge_heads(F.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=self.scale))

    def merge_heads(self, out: Tensor) -> Tensor:
        """Head outputs (B, H, S, d), side by side and projected: (B, S, D)."""
        return self.proj(out.transpose(1, 2).flatten(2))
