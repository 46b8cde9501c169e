"""The transformer block in two halves, between which a reducer may change the tokens."""

from typing import Any

import torch
from timm.layers import DropPath, Mlp
from torch import Tensor, nn

from supervit.config import SuperViTConfig
from supervit.layers import Attention, computes_exactly, first_rows
from supervit.reducers import Evidence, Reducer, with_prefix
from supervit.slices import in_slices
from supervit.tokens import Tokens, take_rows


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
        self.observes = reducer is not None and reducer.observes

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
        in_place = rows == tokens.values.shape[1]  # else the rows are the survivors already, best first
        if self.exact_savings and not in_place:
            values, order = self._attend_some(tokens, rows, most)
        else:
            attended, order = self._attend_all(tokens, most)
            values = attended.values if in_place else take_rows(attended.values, with_prefix(order, tokens.prefix, rows))
        values = self.feed_forward(tokens._replace(values=values)).values
        paths = []
        for kept in keep:
            if kept is None:
                paths.append(tokens._replace(values=values))
                continue
            index = with_prefix(order, tokens.prefix, kept)
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
        if most or self.observes:
            assert self.reducer is not None
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
        fed = in_slices(lambda rows: self.mlp(self.norm2(rows)), tokens.values, self.mlp)
        return tokens._replace(values=self._add_residual(tokens.values, fed))

    def _add_residual(self, tokens: Tensor, branch: Tensor) -> Tensor:
        branch = self.drop_path(branch)
        return tokens + (branch if self.residual_divisor == 1 else branch / self.residual_divisor)
