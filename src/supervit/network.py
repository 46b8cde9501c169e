"""The network: any operating point of one set of weights, and several at once with what they share computed once."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from timm.layers import resample_abs_pos_embed
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from supervit.backbones import load_family
from supervit.block import Block
from supervit.complexity import Complexity, GridSize, grid_text, sides
from supervit.config import SuperViTConfig
from supervit.errors import InputError
from supervit.layers import Classifier, resize_images
from supervit.limits import check_images, check_memory
from supervit.plan import Branch, Step, grow_tree
from supervit.reducers import load_reducer
from supervit.tokens import Tokens
from supervit.trace import Trace

AnyComplexity = Complexity | str


@dataclass(frozen=True)
class Encoded:
    """What the blocks made of the images at one operating point."""

    tokens: Tensor
    """Normalised tokens (B, T, D), class token first; T = 1 where nothing else was asked for."""
    trace: Trace | None
    penalty: Tensor | None = None
    """A scalar that a learned reducer adds to the loss."""


class Network(nn.Module):
    """A vision transformer that runs at any operating point (paper, Figure 1).

    Args:
        config: What it is made of.
    """

    def __init__(self, config: SuperViTConfig):
        super().__init__()
        family = load_family(config.family)
        if type(config) is not family.Config:
            raise InputError(
                f"family {config.family!r} does not take a {type(config).__module__}.{type(config).__name__}; "
                f"start from one of its variants: {', '.join(family.VARIANTS)}"
            )
        self.config = config
        make_reducer = self.reduction = load_reducer(config.reducer)
        if make_reducer.probe == "class_token" and not config.class_token:
            raise InputError(f"reducer {config.reducer!r} looks at the class token, which there is not; use received_attention")
        drop_path = [config.drop_path_rate * index / max(config.depth - 1, 1) for index in range(config.depth)]
        self.patch_embed = family.patch_embed(config)
        if config.class_token:
            self.cls_token = nn.Parameter(torch.zeros(1, 1, config.embed_dim))
        if config.reg_tokens:
            self.reg_token = nn.Parameter(torch.zeros(1, config.reg_tokens, config.embed_dim))
        self.pos_embeds = nn.ParameterDict(
            {
                grid_text(grid): nn.Parameter(torch.zeros(1, self.num_prefix_tokens + math.prod(sides(grid)), config.embed_dim))
                for grid in config.grid_sizes
            }
        )
        self.blocks = nn.ModuleList(
            Block(config, rate, make_reducer(config) if index in config.drop_blocks or make_reducer.observes else None)
            for index, rate in enumerate(drop_path)
        )
        norm = nn.LayerNorm(config.embed_dim, eps=config.norm_eps)
        self.norm = nn.Identity() if config.fc_norm else norm
        self.fc_norm = norm if config.fc_norm else nn.Identity()
        self.grad_checkpointing = False
        self.apply(_init_weights)
        for tokens in self._prefix_tokens():
            nn.init.trunc_normal_(tokens, std=0.02)
        for table in self.pos_embeds.values():
            nn.init.trunc_normal_(table, std=0.02)
        self._make_classifiers()

    # The return type depends on the arguments in ways that overloads cannot tell: a string is a sequence of strings.
    def forward(self, images: Tensor, complexity: Any = None, *, trace: bool = False) -> Any:
        """Logits (B, K) at one operating point, or a list of them at several, computing what these share once.

        Args:
            images: Normalised images (B, C, H, W) in the shape of the grid (square for `"14"`), of any size with at least one
                pixel per patch; the model resizes them to `config.pixels(grid_size)`. `config.image_size` is what the released
                models take.
            complexity: Operating point or its text, such as `"14@0.7"`, trained or not; default: the largest grid, uncut.
                A list or tuple of them gives a list of logits in the same order, each as it would be alone; stochastic
                depth draws once for what paths share.
            trace: Whether to also say where every patch went.

        Returns:
            Logits, or logits and `Trace`; lists of them where several operating points were asked for.

        Raises:
            InputError: images of another shape, or a complexity that does not parse.
        """
        is_single = complexity is None or isinstance(complexity, Complexity | str)
        encoded = self.encode(images, [complexity] if is_single else complexity, trace=trace)
        logits = [self.forward_head(path.tokens) for path in encoded]
        traces = [path.trace for path in encoded]
        if is_single:
            return (logits[0], traces[0]) if trace else logits[0]
        return (logits, traces) if trace else logits

    def forward_paths(self, images: Tensor, complexities: Sequence[AnyComplexity], *, trace: bool = False) -> Any:
        """Logits at several operating points: `forward` with a list, by a name that says so.

        Called through a wrapper (DistributedDataParallel, `torch.compile`), use `wrapper(images, complexities)` instead:
        wrappers see `forward` alone.
        """
        if isinstance(complexities, Complexity | str):
            raise InputError(f"forward_paths takes a list of complexities; write [{str(complexities)!r}]")
        return self(images, complexities, trace=trace)

    def encode(
        self,
        images: Tensor,
        complexities: Sequence[AnyComplexity | None],
        *,
        all_tokens: bool = False,
        restore: bool = False,
        trace: bool = False,
        mix: Callable[[Tensor, GridSize], Tensor] | None = None,
    ) -> list[Encoded]:
        """Tokens at several operating points, in the order asked: everything of `forward_paths` but the classifier.

        Args:
            images: As in `forward`.
            complexities: Operating points, not empty; None is the largest grid, uncut.
            all_tokens: Whether every surviving token is wanted, also where the head reads the class token alone.
            restore: Whether a token is wanted for every patch of the image, in its place: where it was dropped, what it was
                then; where it was fused or merged, the token that it is in.
            trace: Whether to say where every patch went.
            mix: Done to the patch tokens (B, N, D) of each grid size before they get positions (`MixBox.mix`).
        """
        points = [self.config.space.largest if point is None else Complexity.of(point) for point in complexities]
        if not points:
            raise InputError("no complexities were asked for; name at least one, such as '14'")
        plans = [self.config.plan(point, all_tokens=all_tokens or restore, reduction=self.reduction) for point in points]
        encoded: dict[int, Encoded] = {}
        for branch in grow_tree(plans):
            tokens = self.start(self._embed(images, branch.grid_size, mix), tracks=trace, restores=restore)
            start = Trace.start(tokens, branch.grid_size) if trace else None
            self._run_branch(branch, tokens, start, encoded)
        return [encoded[index] for index in range(len(points))]

    def encode_prefix(self, images: Tensor, grid_size: GridSize) -> Tokens:
        """The tokens that enter the first drop block: what all operating points of a grid size share.

        Args:
            images: As in `forward`.
            grid_size: Patch tokens per image side, trained or not.
        """
        tokens = self.start(self._embed(images, Complexity(grid_size).grid_size))
        for block in self.blocks[: self.config.shared_blocks]:
            (tokens,) = block(tokens, tokens.values.shape[1])
        return tokens

    def resume(self, prefix: Tokens, complexity: AnyComplexity) -> Tensor:
        """Logits (B, K) at an operating point, from where `encode_prefix` stopped: those of `forward`.

        Args:
            prefix: Tokens of `encode_prefix` for the grid size of this operating point, or of some of its images
                (`Tokens.of_images`).
            complexity: The operating point.

        Raises:
            InputError: the tokens are of another grid size, or the operating point stops before the prefix does.
        """
        point, shared = Complexity.of(complexity), self.config.shared_blocks
        (branch,) = grow_tree([self.config.plan(point, reduction=self.reduction)])
        if prefix.values.shape[1] != self.num_prefix_tokens + point.num_patches:
            raise InputError(
                f"{prefix.values.shape[1]} tokens are not those of grid {grid_text(point.grid_size)}; encode that prefix"
            )
        if not self.config.can_resume(point):
            raise InputError(f"{point} stops before the {shared} blocks of the prefix are over; use forward")
        encoded: dict[int, Encoded] = {}
        self._run_branch(replace(branch, steps=branch.steps[shared:]), prefix, None, encoded)
        return self.forward_head(encoded[0].tokens)

    def _embed(self, images: Tensor, grid_size: GridSize, mix: Callable[[Tensor, GridSize], Tensor] | None = None) -> Tensor:
        """Prefix and patch tokens with their positions (Eq. 7)."""
        check_images(images, self.config.in_chans, grid_size)
        if not torch.compiler.is_compiling():
            check_memory(self.config, Complexity(grid_size), len(images), images.device, images.element_size())
        resized = resize_images(images, self.config.pixels(grid_size), self.config.resize)
        tokens = self.patch_embed(resized).flatten(2).transpose(1, 2)
        tokens = mix(tokens, grid_size) if mix else tokens
        return self.with_prefix(tokens) + self.position_table(grid_size)

    def with_prefix(self, tokens: Tensor) -> Tensor:
        """Class token and registers before patch tokens (B, N, D)."""
        before = [prefix.expand(tokens.shape[0], -1, -1) for prefix in self._prefix_tokens()]
        return torch.cat([*before, tokens], dim=1)

    def _prefix_tokens(self) -> list[nn.Parameter]:
        return [getattr(self, name) for name in ("cls_token", "reg_token") if hasattr(self, name)]

    def position_table(self, grid_size: GridSize) -> Tensor:
        """The position table (1, prefix + N, D) of a grid size.

        A grid size without a table of its own gets one interpolated (bicubic, antialiased) from the nearest trained
        grid size, the larger one of two equally near.
        """
        if grid_text(grid_size) in self.pos_embeds:
            return self.pos_embeds[grid_text(grid_size)]
        wanted = sides(grid_size)

        def distance(trained: GridSize) -> tuple[int, int]:
            rows, columns = sides(trained)
            return max(abs(rows - wanted[0]), abs(columns - wanted[1])), -rows * columns

        nearest = min(self.config.grid_sizes, key=distance)
        table = self.pos_embeds[grid_text(nearest)]
        return resample_abs_pos_embed(table, list(wanted), list(sides(nearest)), self.num_prefix_tokens)

    def start(self, embedded: Tensor, *, tracks: bool = False, restores: bool = False) -> Tokens:
        """Embedded tokens (B, prefix + N, D) with whatever is to be remembered of them: for a trace, to restore every patch, or
        because the reducer wants it.
        """
        tokens, restores = Tokens(embedded, self.num_prefix_tokens), restores or self.reduction.keeps_aside
        return tokens.tracked(aside=restores) if tracks or restores or self.reduction.tracks_patches else tokens

    def finish(self, tokens: Tokens) -> Tensor:
        """Tokens after the last block, normalised (B, T, D); of every patch in its place where they are to be restored."""
        values = tokens.values
        if tokens.aside is not None:
            values = torch.cat([values[:, : tokens.prefix], tokens.restored()], dim=1)
        return self.norm(values)

    def _run_branch(self, branch: Branch, tokens: Tokens, trace: Trace | None, encoded: dict[int, Encoded]) -> None:
        """Run a branch and all that follows it, filling `encoded` by path index."""
        ends: tuple[Tokens, ...] = (tokens,)
        for index, step in enumerate(branch.steps):
            is_fork = branch.reduces and index == len(branch.steps) - 1
            keep = tuple(kept for kept, _ in branch.children) if is_fork else (None,)
            ends = self._run_block(step, ends[0], keep)
        if branch.paths:
            encoded.update(dict.fromkeys(branch.paths, Encoded(self.finish(ends[0]), trace, ends[0].penalty)))
        for (kept, child), end in zip(branch.children, ends if branch.reduces else ends * len(branch.children), strict=True):
            child_trace = trace if trace is None or kept is None else trace.after(branch.steps[-1].block, end)
            self._run_branch(child, end, child_trace, encoded)

    def _run_block(self, step: Step, tokens: Tokens, keep: tuple[int | None, ...]) -> tuple[Tokens, ...]:
        block, rows = self.blocks[step.block], step.tokens_out
        if rows == step.tokens_in:
            rows = tokens.values.shape[1]  # in training, a learned reducer may leave more tokens than are planned
        if self.grad_checkpointing and torch.is_grad_enabled():
            return checkpoint(block, tokens, rows, keep, step.tokens_ranked, use_reentrant=False)
        return block(tokens, rows, keep, step.tokens_ranked)

    def forward_head(self, tokens: Tensor, pre_logits: bool = False) -> Tensor:
        """Logits (B, K) of normalised tokens (B, T, D), or what is pooled (B, D) with `pre_logits`.

        With a dense head: head(class token) + `dense_weight` * maximum over the patch tokens of aux_head(token).
        """
        patches = tokens[:, self.num_prefix_tokens :]
        pooled = self.fc_norm(tokens[:, 0] if self.config.global_pool == "token" else patches.mean(dim=1))
        if pre_logits:
            return pooled
        logits = self.head(pooled)
        if not self.config.dense_head or not self.config.num_classes:
            return logits
        return logits + self.config.dense_weight * self.aux_head(patches).amax(dim=1)

    def _make_classifiers(self) -> None:
        self.head = self._classifier(Classifier)
        if self.config.dense_head:
            self.aux_head = self._classifier(nn.Linear)

    def _classifier(self, linear: type[nn.Linear]) -> nn.Module:
        classes = self.config.num_classes
        classifier = linear(self.config.embed_dim, classes) if classes else nn.Identity()
        table = next(iter(self.pos_embeds.values()))
        return classifier.apply(_init_weights).to(table.device, table.dtype)

    @property
    def num_prefix_tokens(self) -> int:
        """Tokens before those of the patches."""
        return self.config.num_prefix_tokens


def _init_weights(module: nn.Module) -> None:
    """Truncated normal linear weights without bias, as released; other layers keep PyTorch's start."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
