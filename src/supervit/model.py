"""SuperViT: one vision transformer with many operating points that share all weights."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import ModelCard, ModelHubMixin
from timm.layers import resample_abs_pos_embed
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from supervit.backbones import config_from_dict, load_family, variant_config
from supervit.complexity import Complexity, GridSize, grid_text, sides
from supervit.config import SuperViTConfig
from supervit.errors import InputError
from supervit.files import refusing
from supervit.hub import LIBRARY, TASK, fetch, model_card
from supervit.layers import Block, Classifier, resize_images
from supervit.limits import check_images, check_memory
from supervit.plan import Branch, Step, grow_tree
from supervit.reducers import load_reducer
from supervit.storage import CONFIG_FILE, WEIGHTS_FILE, filled, fingerprint, of_run, override, read_config, write_model
from supervit.tokens import Tokens
from supervit.trace import Trace
from supervit.weights import read_safetensors

AnyComplexity = Complexity | str


@dataclass(frozen=True)
class Encoded:
    """What the blocks made of the images at one operating point."""

    tokens: Tensor
    """Normalised tokens (B, T, D), class token first; T = 1 where nothing else was asked for."""
    trace: Trace | None
    penalty: Tensor | None = None
    """A scalar that a learned reducer adds to the loss."""


class SuperViT(nn.Module, ModelHubMixin, library_name=LIBRARY, tags=[TASK]):
    """A vision transformer that runs at any operating point (paper, Figure 1).

    Example:
        >>> model = create_model("deit_small").eval()
        >>> logits = model(images, "14@0.7")

    Args:
        config: What the model is made of; `create_model` builds it from a name.
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
        make_reducer = load_reducer(config.reducer)
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

    # --- the method ---------------------------------------------------------------------------------------------

    # The return type depends on the arguments in ways that overloads cannot tell: a string is a sequence of strings.
    def forward(self, images: Tensor, complexity: Any = None, *, trace: bool = False) -> Any:
        """Logits (B, K) at one operating point, or a list of them at several, computing what these share once.

        Args:
            images: Normalised images (B, C, S, S), square, of any size with at least one pixel per patch; the model
                resizes them to `patch_size * grid_size` pixels. S = `config.image_size` is what the released models take.
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
        plans = [self.config.plan(point, all_tokens=all_tokens or restore) for point in points]
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
        (branch,) = grow_tree([self.config.plan(point)])
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
        reducer, tokens = load_reducer(self.config.reducer), Tokens(embedded, self.num_prefix_tokens)
        restores = restores or reducer.keeps_aside
        return tokens.tracked(aside=restores) if tracks or restores or reducer.tracks_patches else tokens

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

    # --- the surface that timm users expect -----------------------------------------------------------------------

    def forward_features(self, images: Tensor, complexity: AnyComplexity | None = None) -> Tensor:
        """Normalised tokens (B, prefix + survivors, D), class token first. Arguments as in `forward`."""
        (encoded,) = self.encode(images, [complexity], all_tokens=True)
        return encoded.tokens

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

    def get_classifier(self) -> nn.Module:
        """The classifier of the class token: a linear layer, or the identity without classes."""
        return self.head

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the classifier by a new one for `num_classes` classes (0: none), initialised as at the start.

        Args:
            num_classes: Classes; 0 makes the model return the class token.
            global_pool: Must be None or what the model has: its family says where the classifier reads from.
        """
        check_global_pool(global_pool, self.global_pool)
        self.config = self.config.replace(num_classes=num_classes, class_names=())
        self._make_classifiers()

    def _make_classifiers(self) -> None:
        self.head = self._classifier(Classifier)
        if self.config.dense_head:
            self.aux_head = self._classifier(nn.Linear)

    def _classifier(self, linear: type[nn.Linear]) -> nn.Module:
        classes = self.config.num_classes
        classifier = linear(self.config.embed_dim, classes) if classes else nn.Identity()
        table = next(iter(self.pos_embeds.values()))
        return classifier.apply(_init_weights).to(table.device, table.dtype)

    def no_weight_decay(self) -> set[str]:
        """Parameters that timm's optimizers should not decay, besides biases and norms."""
        tables = {f"pos_embeds.{name}" for name in self.pos_embeds}
        return tables | {name for name in ("cls_token", "reg_token") if hasattr(self, name)}

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute the blocks in the backward pass instead of keeping their activations."""
        self.grad_checkpointing = enable

    @property
    def num_prefix_tokens(self) -> int:
        """Tokens before those of the patches."""
        return self.config.num_prefix_tokens

    @property
    def global_pool(self) -> str:
        """Where the classifier reads from: `token` or `avg`."""
        return self.config.global_pool

    @property
    def num_classes(self) -> int:
        """Classes; 0 without classifier."""
        return self.config.num_classes

    @property
    def num_features(self) -> int:
        """Width of the features before the classifier."""
        return self.config.embed_dim

    embed_dim = head_hidden_size = num_features

    @property
    def default_cfg(self) -> dict[str, Any]:
        """Input size, normalisation and classifier, in timm's format (`timm.data.resolve_model_data_config`)."""
        config = self.config
        first_conv = next(name for name, module in self.named_modules() if isinstance(module, nn.Conv2d))
        return {
            "architecture": f"supervit_{config.family}", "num_classes": config.num_classes,
            "input_size": (config.in_chans, *sides(config.image_size)),
            "mean": config.mean, "std": config.std, "interpolation": config.interpolation, "crop_pct": config.crop_pct,
            "fixed_input_size": False, "pool_size": None, "first_conv": first_conv,
            "classifier": ("head", "aux_head") if config.dense_head else "head",
        }  # fmt: skip

    pretrained_cfg = default_cfg

    # --- files ----------------------------------------------------------------------------------------------------

    def save(self, directory: str | Path) -> None:
        """Write `model.safetensors` and `config.json` into a directory, which is made if need be.

        Raises:
            InputError: the directory cannot be written.
        """
        write_model(Path(directory), self.config.to_dict(), self.state_dict())

    def fingerprint(self) -> str:
        """16 hex digits that name config and weights, whatever the device."""
        return fingerprint(self.config.to_dict(), self.state_dict())

    def _save_pretrained(self, save_directory: Path) -> None:
        self.save(save_directory)

    def generate_model_card(self, *_args: Any, **known: Any) -> ModelCard:
        """The card that `save_pretrained` and `push_to_hub` write: `hub.model_card` with their `model_card_kwargs`."""
        return model_card(self.config, **known)

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path,
        *,
        force_download: bool = False,
        token: str | bool | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
        revision: str | None = None,
        **overrides: Any,
    ) -> "SuperViT":
        """The model that `save`, `save_pretrained` or `push_to_hub` wrote, in evaluation mode.

        Args:
            pretrained_model_name_or_path: A directory (also of a run), or a repository of the Hugging Face hub.
            force_download, token, cache_dir, local_files_only, revision: As everywhere in `huggingface_hub`.
            overrides: Fields of the config that differ from the saved ones.

        Raises:
            InputError: files missing, damaged, or not fitting each other.
        """
        directory = of_run(Path(pretrained_model_name_or_path))
        if not directory.is_dir():
            options: dict[str, Any] = {"force_download": force_download, "token": token, "cache_dir": cache_dir}
            options |= {"local_files_only": local_files_only, "revision": revision}
            directory = fetch(str(pretrained_model_name_or_path), **options)
        values = read_config(directory)
        with refusing(f"{str(directory / CONFIG_FILE)!r} cannot be used", "mend it, or convert or download the model again"):
            stored = config_from_dict(values)
        weights = read_safetensors(directory / WEIGHTS_FILE)
        return cls.of_weights(*override(stored, weights, overrides, str(directory)), str(directory))

    @classmethod
    def of_weights(cls, config: SuperViTConfig, state_dict: Mapping[str, Tensor], source: str) -> "SuperViT":
        """The model that weights fill exactly, in evaluation mode. Errors as of `storage.filled`."""
        return filled(lambda: cls(config), state_dict, source, config.depth + len(config.grid_sizes))


def _init_weights(module: nn.Module) -> None:
    """Truncated normal linear weights without bias, as released; other layers keep PyTorch's start."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def check_global_pool(global_pool: str | None, own: str = "token") -> None:
    """Refuse another pooling than the model has."""
    if global_pool not in (None, own):
        raise InputError(f"global_pool {global_pool!r} is not available; this SuperViT pools {own!r}")


def create_model(name: str, img_size: int | tuple[int, int] | None = None, **overrides: Any) -> SuperViT:
    """A new model with random weights.

    Args:
        name: A variant: `deit_tiny`, `deit_small`, `deit_base`, `lvvit_tiny`, `lvvit_small`, `lvvit_medium`.
        img_size: Image side in pixels, a multiple of the patch size; scales the menu of grid sizes.
        overrides: Fields of `SuperViTConfig` that differ from the variant's, such as `num_classes=10`.

    Raises:
        InputError: unknown variant or field (with the near names), or a value that does not fit.
    """
    return SuperViT(variant_config(name, img_size, **overrides))
