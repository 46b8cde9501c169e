"""The parts of the network: attention that computes only the rows that are read, and the block around it."""

from collections.abc import Callable, Iterable, Sequence

import torch
import torch.nn.functional as F
from timm.layers import DropPath, Mlp
from torch import Tensor, nn

from supervit.config import Resize, SuperViTConfig
from supervit.reducers import Scorer

Projection = Callable[[Tensor], tuple[Tensor, ...]]

_ROWS_PER_SLICE = 1024  # tokens per FFN slice on a CPU, nearly: 6 MiB of hidden activations at width 384


def resize_images(images: Tensor, side: int, form: Resize) -> Tensor:
    """Square images (B, C, S, S) as (B, C, side, side), bilinear; the same tensor where the size fits already.

    Args:
        images: Normalised images.
        side: Pixels per side wanted.
        form: `align_corners`: corner pixels map onto corner pixels (released implementation). `half_pixel`: pixel areas
            map onto each other, equal to resizing each patch on its own where that is defined (paper, section 3.2.1).
            `antialias`: as `half_pixel`, low-pass filtered where the image shrinks.
    """
    if images.shape[-1] == side:
        return images
    is_short = images.dtype in (torch.bfloat16, torch.float16)  # not all forms have such kernels on a CPU
    resized = F.interpolate(
        images.float() if is_short else images, size=(side, side),
        mode="bilinear", align_corners=form == "align_corners", antialias=form == "antialias",
    )  # fmt: skip
    return resized.to(images.dtype)


def computes_exactly(tensor: Tensor) -> bool:
    """Whether products with this tensor are float32: it is, and there is no autocast."""
    return tensor.dtype == torch.float32 and not torch.is_autocast_enabled(tensor.device.type)


def class_rows(tokens: Tensor) -> Tensor:
    """The class token of (B, T, D) as (B, 1, D).

    Numerics: a product with rows that lie apart in memory, as these do in batches of several images, rounds before the bias
    and after it, which in bfloat16 changed answers with the batch size; so there they are moved together.
    """
    rows = tokens[:, :1]
    return rows if computes_exactly(tokens) else rows.contiguous()


def take_tokens(tokens: Tensor, index: Tensor) -> Tensor:
    """Rows `index` (B, S) of tokens (B, T, D), as (B, S, D).

    Whole rows of all images as one list: on a CPU several times faster than `gather`, which moves single elements.
    """
    batch, length, dim = tokens.shape
    rows = index + length * torch.arange(batch, device=index.device).unsqueeze(1)
    return tokens.flatten(0, 1).index_select(0, rows.flatten()).view(batch, index.shape[1], dim)


def take_survivors(tokens: Tensor, order: Tensor, tokens_kept: int) -> Tensor:
    """The class token and the best `tokens_kept - 1` patch tokens of (B, T, D), best first.

    Args:
        tokens: Class token, then patch tokens.
        order: Patch tokens ranked best first (B, at least tokens_kept - 1), counted from 0 = the first patch token.
        tokens_kept: Survivors, class token included.
    """
    index = order[:, : tokens_kept - 1] + 1
    return take_tokens(tokens, torch.cat([torch.zeros_like(index[:, :1]), index], dim=1))


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

    def class_attention(self, class_query: Tensor, key: Tensor) -> Tensor:
        """Softmax attention of the class token (B, H, 1, d) to all keys (B, H, T, d), as (B, H, T), float32.

        Numerics: scores rounded to bfloat16 tie, and a product under autocast rounds; this form does neither in any mode.
        """
        if computes_exactly(key):
            return ((class_query * self.scale) @ key.transpose(-2, -1)).softmax(dim=-1).squeeze(2)
        return (class_query.float() * self.scale * key.float()).sum(dim=-1).softmax(dim=-1)

    def attend(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Attention of S queries to T keys, projected: (B, S, D)."""
        out = F.scaled_dot_product_attention(query, key, value, scale=self.scale)
        return self.merge_heads(out)

    def merge_heads(self, out: Tensor) -> Tensor:
        """Head outputs (B, H, S, d), side by side and projected: (B, S, D)."""
        return self.proj(out.transpose(1, 2).flatten(2))


class Block(nn.Module):
    """Pre-norm transformer block (Eq. 2, 3) that can drop tokens between attention and FFN.

    Args:
        config: The model's config.
        drop_path: Stochastic depth rate of this block.
        score: Token selection, a plug-in of `supervit/reducers`.
    """

    def __init__(self, config: SuperViTConfig, drop_path: float, score: Scorer):
        super().__init__()
        self.norm1 = nn.LayerNorm(config.embed_dim, eps=config.norm_eps)
        self.attn = Attention(config.embed_dim, config.num_heads, config.qkv_bias)
        self.norm2 = nn.LayerNorm(config.embed_dim, eps=config.norm_eps)
        self.mlp = Mlp(config.embed_dim, config.hidden_dim)
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()
        self.exact_savings = config.exact_savings
        self.residual_divisor = config.residual_divisor
        self.score = score

    def forward(self, tokens: Tensor, tokens_out: int, tokens_ranked: int = 0) -> tuple[Tensor, Tensor | None]:
        """Tokens after the block, and the ranking of the patch tokens where one is asked for.

        Args:
            tokens: Class token, then patch tokens (B, T, D).
            tokens_out: Rows to compute: T for all in place; 1 for the class token; else the class token and the best
                `tokens_out - 1` patch tokens, best first.
            tokens_ranked: How many survivors (class token included) to rank; 0 for no ranking.

        Returns:
            Tokens (B, tokens_out, D) and patch indices best first (B, tokens_ranked - 1) or None.
        """
        form = self._saving_form if self.exact_savings else self._plain_form
        tokens, order = form(tokens, tokens_out, tokens_ranked)
        return self._add_residual(tokens, self._feed_forward(tokens)), order

    def drop(self, tokens: Tensor, tokens_kept: int) -> Tensor:
        """The class token and the best patches after the block, best first: (B, tokens_kept, D).

        `forward` at a drop block in the saving form, for graphs in which the count is an input: nothing here asks whether
        the count is that of all tokens, and with all of them kept the patches only change places.
        """
        tokens, _ = self._attend_some(tokens, tokens_kept, tokens_kept)
        return self._add_residual(tokens, self._feed_forward(tokens))

    def _saving_form(self, tokens: Tensor, tokens_out: int, tokens_ranked: int) -> tuple[Tensor, Tensor | None]:
        """Attention with its residual for the rows that are read: a row needs its own query and all keys, no more."""
        if tokens_out != tokens.shape[1]:
            return self._attend_some(tokens, tokens_out, tokens_ranked)
        normed, order = self.norm1(tokens), None
        query, key, value = self.attn.project(normed)
        if tokens_ranked:
            with torch.no_grad():
                order = self._rank(self.attn.class_attention(query[:, :, :1], key), normed, tokens_ranked)
        return self._add_residual(tokens, self.attn.attend(query, key, value)), order

    def _attend_some(self, tokens: Tensor, tokens_out: int, tokens_ranked: int) -> tuple[Tensor, Tensor | None]:
        """Attention with its residual for the class token alone, or for it and the best patch tokens."""
        normed, order = self.norm1(tokens), None
        project_query, project_key_value = self.attn.split_projection()
        key, value = project_key_value(normed)
        (query,) = project_query(class_rows(normed))
        if tokens_ranked:
            with torch.no_grad():
                order = self._rank(self.attn.class_attention(query, key), normed, tokens_ranked)
        if tokens_out == 1:
            tokens = class_rows(tokens)
        else:
            assert order is not None
            tokens = take_survivors(tokens, order, tokens_out)
            (query,) = project_query(self.norm1(tokens))
        return self._add_residual(tokens, self.attn.attend(query, key, value)), order

    def _plain_form(self, tokens: Tensor, tokens_out: int, tokens_ranked: int) -> tuple[Tensor, Tensor | None]:
        """The released arithmetic: the full attention matrix, all rows, selection afterwards."""
        normed, order = self.norm1(tokens), None
        query, key, value = self.attn.project(normed)
        attention = ((query * self.attn.scale) @ key.transpose(-2, -1)).softmax(dim=-1)
        tokens = self._add_residual(tokens, self.attn.merge_heads(attention @ value))
        if tokens_ranked:
            with torch.no_grad():
                of_class = attention[:, :, 0] if computes_exactly(key) else self.attn.class_attention(query[:, :, :1], key)
                order = self._rank(of_class, normed, tokens_ranked)
            if tokens_out < tokens.shape[1]:
                tokens = take_survivors(tokens, order, tokens_out)
        return tokens, order

    def _rank(self, class_attention: Tensor, normed: Tensor, tokens_ranked: int) -> Tensor:
        return self.score(class_attention, normed).topk(tokens_ranked - 1, dim=1).indices

    def _feed_forward(self, tokens: Tensor) -> Tensor:
        """FFN of each token (B, T, D), with its norm.

        Tokens do not meet here, so inference on a CPU takes them a slice at a time: hidden activations that fit the
        cache instead of the largest buffer of the network (measured in `docs/log.md`).
        """
        count = self._slice_count(tokens)
        if count <= 1:
            return self.mlp(self.norm2(tokens))
        return torch.cat([self.mlp(self.norm2(part)) for part in tokens.flatten(0, 1).chunk(count)]).view_as(tokens)

    def _slice_count(self, tokens: Tensor) -> int:
        if tokens.device.type != "cpu" or torch.is_grad_enabled() or torch.compiler.is_compiling() or torch.jit.is_tracing():  # type: ignore[attr-defined]
            return 1
        if any(module._forward_hooks for module in self.mlp.modules()):  # a hook should see all tokens at once
            return 1
        return round(tokens.shape[0] * tokens.shape[1] / _ROWS_PER_SLICE)

    def _add_residual(self, tokens: Tensor, branch: Tensor) -> Tensor:
        branch = self.drop_path(branch)
        return tokens + (branch if self.residual_divisor == 1 else branch / self.residual_divisor)
