"""The parts of the network: attention that computes only the rows that are read, and the block around it."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import DropPath, Mlp
from torch import Tensor, nn

from supervit.config import Resize, SuperViTConfig
from supervit.reducers import Evidence, Reducer, with_prefix
from supervit.tokens import Tokens, take_rows

Projection = Callable[[Tensor], tuple[Tensor, ...]]

_ROWS_PER_SLICE = 1024  # tokens per FFN slice on a CPU, nearly: 6 MiB of hidden activations at width 384


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


class Block(nn.Module):
    """Pre-norm transformer block (Eq. 2, 3) in two halves, between which a reducer may change the tokens.

    Args:
        config: The model's config.
        drop_path: Stochastic depth rate of this block.
        reducer: What reduces the tokens, where this is a drop block or the reducer observes all blocks.
    """

    def __init__(self, config: SuperViTConfig, drop_path: float, reducer: Reducer | None):
        super().__init__()
        self.norm1 = nn.LayerNorm(config.embed_dim, eps=config.norm_eps)
        self.attn = Attention(config.embed_dim, config.num_heads, config.qkv_bias)
        self.norm2 = nn.LayerNorm(config.embed_dim, eps=config.norm_eps)
        self.mlp = Mlp(config.embed_dim, config.hidden_dim)
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()
        self.exact_savings = config.exact_savings
        self.residual_divisor = config.residual_divisor
        self.reducer = reducer

    def forward(self, tokens: Tokens, rows: int, keep: tuple[int | None, ...] = (None,), most: int = 0) -> tuple[Tokens, ...]:
        """The tokens after the block, once for each number of tokens to keep.

        Args:
            tokens: (B, T, D).
            rows: Rows to compute: T for all in place; less where only the first are read or, at a drop block, only those that
                survive.
            keep: Tokens that leave the reducer, prefix included; None: all, as they are.
            most: The most of these; 0 where nothing is reduced.

        Returns:
            Tokens (B, S, D) for each of `keep`. Where a reducer acts at the input, the block itself has yet to run on them.
        """
        if not most:
            return (self.feed_forward(self._attend(tokens, rows)),)
        assert self.reducer is not None
        tokens = self._set_aside(tokens)
        if self.reducer.at_input:
            ranking = self._rank_input(tokens, most)
            return tuple(tokens if kept is None else self.reducer.reduce(tokens, ranking, kept) for kept in keep)
        if self.reducer.selects:
            return self._select(tokens, rows, keep, most)
        attended, ranking = self._attend_all(tokens, most)
        reduced = (attended if kept is None else self.reducer.reduce(attended, ranking, kept) for kept in keep)
        return tuple(map(self.feed_forward, reduced))

    def drop(self, tokens: Tokens, kept: int) -> Tokens:
        """`forward` for one number of tokens, for graphs in which that is an input: nothing here asks whether it is that of all
        tokens, and with all of them kept the patches only change places.
        """
        assert self.reducer is not None
        tokens = self._set_aside(tokens)
        if self.reducer.at_input:
            reduced = self.reducer.reduce(tokens, self._rank_input(tokens, kept), kept)
            return self.feed_forward(self._attend(reduced, reduced.values.shape[1]))
        if self.reducer.selects:
            attended, order = self._attend_some(tokens, kept, kept)
            return self.feed_forward(tokens.take(with_prefix(order, tokens.prefix, kept), attended))
        attended_all, ranking = self._attend_all(tokens, kept)
        return self.feed_forward(self.reducer.reduce(attended_all, ranking, kept))

    @staticmethod
    def _set_aside(tokens: Tokens) -> Tokens:
        """The tokens that begin a drop block, with what every patch is at that time, where that is wanted."""
        return tokens if tokens.aside is None else tokens._replace(aside=tokens.restored())

    def _rank_input(self, tokens: Tokens, most: int) -> Any:
        assert self.reducer is not None
        with self._ranking():
            return self.reducer.rank(Evidence(tokens), most)

    def _select(self, tokens: Tokens, rows: int, keep: tuple[int | None, ...], most: int) -> tuple[Tokens, ...]:
        """The drop block where survivors are rows as they are: it runs once, for the path that keeps most."""
        if rows == tokens.values.shape[1]:
            attended, order = self._attend_all(tokens, most)
            values = attended.values
        elif self.exact_savings:
            values, order = self._attend_some(tokens, rows, most)
        else:
            attended, order = self._attend_all(tokens, most)
            values = take_rows(attended.values, with_prefix(order, tokens.prefix, rows))
        values = self.feed_forward(tokens._replace(values=values)).values
        paths = []
        for kept in keep:
            if kept is None:
                paths.append(tokens._replace(values=values))
                continue
            index = with_prefix(order, tokens.prefix, kept)
            in_place = rows == tokens.values.shape[1]  # else the rows are the survivors already, best first
            paths.append(tokens.take(index, take_rows(values, index) if in_place else values[:, :kept]))
        return tuple(paths)

    def _attend(self, tokens: Tokens, rows: int) -> Tokens:
        """Attention with its residual, for all tokens or the first `rows` of them: a row needs its own query and all keys."""
        if rows != tokens.values.shape[1] and self.exact_savings:
            values, _ = self._attend_some(tokens, rows, 0)
            return tokens._replace(values=values)
        attended, _ = self._attend_all(tokens, 0)
        return attended

    def _attend_all(self, tokens: Tokens, most: int) -> tuple[Tokens, Any]:
        """Attention with its residual for all rows, and what the reducer ranks where `most` is not 0."""
        normed, ranking, full = self.norm1(tokens.values), None, None
        query, key, value = self.attn.project(normed)
        if not self.exact_savings:  # the released arithmetic
            full = self.attn.full_attention(query, key, tokens.bias)
        if self.reducer is not None and (most or self.reducer.observes):
            with self._ranking():
                seen = self._evidence(tokens, normed, key, query, full)
                ranking = self.reducer.rank(seen, most) if most else None
                tokens = self.reducer.observe(seen)
        paid = self.attn.attend(query, key, value, tokens.bias) if full is None else self.attn.merge_heads(full @ value)
        return tokens._replace(values=self._add_residual(tokens.values, paid)), ranking

    def _attend_some(self, tokens: Tokens, rows: int, most: int) -> tuple[Tensor, Any]:
        """Attention with its residual for the first tokens alone, or for the prefix and the best patch tokens: (B, rows, D)."""
        project_query, project_key_value = self.attn.split_projection()
        normed, is_chosen = self.norm1(tokens.values), most > 0 and rows > tokens.prefix
        order: Any = None
        key, value = project_key_value(normed)
        (query,) = project_query(first_rows(normed, 1 if is_chosen else rows))
        if most:
            assert self.reducer is not None
            with self._ranking():
                order = self.reducer.rank(self._evidence(tokens, normed, key, query), most)
        values = (
            take_rows(tokens.values, with_prefix(order, tokens.prefix, rows)) if is_chosen else first_rows(tokens.values, rows)
        )
        if is_chosen:
            (query,) = project_query(self.norm1(values))
        return self._add_residual(values, self.attn.attend(query, key, value, tokens.bias)), order

    def _evidence(self, tokens: Tokens, normed: Tensor, key: Tensor, query: Tensor, full: Tensor | None = None) -> Evidence:
        """What the reducer may see, of the queries of all tokens or of the first ones; `full` attention where it is there."""
        assert self.reducer is not None

        def project(rows: Tensor) -> Tensor:
            return self.attn.split_projection()[0](rows)[0]

        attention = None
        if self.reducer.probe == "mean_token":
            attention = self.attn.probe_attention(project(normed.mean(dim=1, keepdim=True)), key, tokens.bias)
        elif self.reducer.probe == "class_token" and full is not None and computes_exactly(key):
            attention = full[:, :, 0]
        elif self.reducer.probe == "class_token":
            attention = self.attn.probe_attention(query[:, :, :1], key, tokens.bias)
        if not self.reducer.reads_attention:
            return Evidence(tokens, normed=normed, key=key, attention=attention)
        if full is None:
            queries = query if query.shape[2] == key.shape[2] else project(normed)
            full = self.attn.full_attention(queries, key, tokens.bias)
        return Evidence(tokens, normed=normed, key=key, attention=attention, full_attention=full)

    def _ranking(self) -> torch.set_grad_enabled:
        assert self.reducer is not None
        return torch.set_grad_enabled(self.reducer.is_learned and torch.is_grad_enabled())

    def feed_forward(self, tokens: Tokens) -> Tokens:
        """The second half, of each token on its own."""
        return tokens._replace(values=self._add_residual(tokens.values, self._feed_forward(tokens.values)))

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
