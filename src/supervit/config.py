"""What a model is made of: one frozen dataclass, written as `config.json` beside the weights."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self

from supervit.complexity import Complexity, ComplexitySpace, Plan
from supervit.errors import InputError
from supervit.fields import check_names, check_types, from_plain

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

Resize = Literal["align_corners", "half_pixel", "antialias"]
Interpolation = Literal["nearest", "bilinear", "bicubic"]


@dataclass(frozen=True)
class SuperViTConfig:
    """Architecture, menu of operating points and preprocessing of one model."""

    family: str = "deit"
    """Backbone family: the name of a file in `supervit/backbones`."""
    embed_dim: int = 384
    """Width: channels of a token."""
    depth: int = 12
    """Number of blocks."""
    num_heads: int = 6
    """Attention heads; must divide the width."""
    mlp_ratio: float = 4.0
    """Hidden width of the FFN as a multiple of the width."""
    qkv_bias: bool = True
    """Whether queries, keys and values have a bias."""
    norm_eps: float = 1e-6
    """Epsilon of the layer norms."""
    residual_divisor: float = 1.0
    """Both residual branches are divided by this (LV-ViT: 2)."""
    dense_head: bool = False
    """Whether a second classifier reads every surviving patch token (LV-ViT)."""
    dense_weight: float = 0.25
    """Weight of the best patch's logits where there is a dense head (released: 0.25, original LV-ViT: 0.5)."""
    patch_size: int = 16
    """Pixels per patch side."""
    in_chans: int = 3
    """Channels of the input images."""
    num_classes: int = 1000
    """Classes; 0 for no classifier (the model then returns the class token)."""
    grid_sizes: tuple[int, ...] = (8, 10, 12, 14)
    """Patch tokens per image side, each with a position table of its own."""
    keep_rates: tuple[float, ...] = (0.5, 0.7, 1.0)
    """Trained token keeping rates; 1.0 must be among them."""
    drop_blocks: tuple[int, ...] = (3, 6, 9)
    """0-based indices of the blocks that drop tokens (the paper's 4th, 7th and 10th)."""
    reducer: str = "class_attention"
    """Token selection: the name of a file in `supervit/reducers`."""
    resize: Resize = "align_corners"
    """How images reach a grid's size: as released, as in the paper (half_pixel), or antialiased."""
    exact_savings: bool = True
    """Skip the rows that nobody reads (same output); False runs the plain form that the paper's cost counts."""
    drop_path_rate: float = 0.0
    """Stochastic depth of the last block, growing linearly from 0 over the depth; training only."""
    mean: tuple[float, ...] = ()
    """Channel means that images are normalised with, of values in [0, 1]; default: ImageNet's, or 0.5 if not RGB."""
    std: tuple[float, ...] = ()
    """Channel standard deviations likewise."""
    crop_pct: float = 0.875
    """Evaluation: image size / size of the short side before the centre crop."""
    interpolation: Interpolation = "bicubic"
    """Evaluation: how files are resized before the crop."""
    class_names: tuple[str, ...] = ()
    """Names of the classes in index order, if known."""

    def __post_init__(self) -> None:
        check_types(self)
        is_rgb = self.in_chans == 3
        object.__setattr__(self, "mean", self.mean or (IMAGENET_MEAN if is_rgb else (0.5,) * self.in_chans))
        object.__setattr__(self, "std", self.std or (IMAGENET_STD if is_rgb else (0.5,) * self.in_chans))
        object.__setattr__(self, "grid_sizes", self.space.grid_sizes)
        object.__setattr__(self, "keep_rates", self.space.keep_rates)
        self._validate()

    def _validate(self) -> None:
        for name in ("embed_dim", "depth", "num_heads", "patch_size", "in_chans"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} {getattr(self, name)!r} must be at least 1")
        if self.num_classes < 0:
            raise InputError(f"num_classes {self.num_classes} must be at least 1, or 0 for no classifier")
        if self.embed_dim % self.num_heads:
            raise InputError(f"embed_dim {self.embed_dim} is not a multiple of num_heads {self.num_heads}")
        for name in ("mlp_ratio", "norm_eps", "residual_divisor"):
            if not getattr(self, name) > 0:
                raise InputError(f"{name} {getattr(self, name)!r} must be more than 0")
        if min(self.std, default=1) <= 0:
            raise InputError(f"std {self.std!r} must be more than 0 in each channel")
        if not 0 <= self.drop_path_rate < 1:
            raise InputError(f"drop_path_rate {self.drop_path_rate} is not in [0, 1)")
        if not 0 < self.crop_pct <= 1:
            raise InputError(f"crop_pct {self.crop_pct} is not in (0, 1]")
        for block in self.drop_blocks:
            if not 0 <= block < self.depth:
                raise InputError(f"drop block {block} is not one of the {self.depth} blocks 0...{self.depth - 1}")
        for name in ("mean", "std"):
            if len(getattr(self, name)) != self.in_chans:
                raise InputError(f"{name} {getattr(self, name)!r} must have one value for each of {self.in_chans} channels")
        if self.class_names and len(self.class_names) != self.num_classes:
            raise InputError(f"{len(self.class_names)} class_names do not fit num_classes {self.num_classes}")

    @property
    def space(self) -> ComplexitySpace:
        """The menu of operating points that the model is trained on."""
        return ComplexitySpace(self.grid_sizes, self.keep_rates)

    @property
    def image_size(self) -> int:
        """Side in pixels of the images of the largest grid: what the model takes without resizing."""
        return self.patch_size * self.grid_sizes[-1]

    @property
    def hidden_dim(self) -> int:
        """Hidden width of the FFN."""
        return round(self.embed_dim * self.mlp_ratio)

    @property
    def reads_class_token_only(self) -> bool:
        """Whether the logits depend on no other token after the last block."""
        return not self.dense_head or self.num_classes == 0

    @property
    def shared_blocks(self) -> int:
        """How many of the first blocks do the same at all operating points of a grid size: those before any drop block."""
        return min((*self.drop_blocks, self.depth - 1))

    def plan(self, complexity: Complexity | str, *, all_tokens: bool = False) -> Plan:
        """The token counts of an operating point in this network.

        Args:
            complexity: The operating point or its text.
            all_tokens: Whether every surviving token is wanted, not just what the head reads.
        """
        class_token_only = self.exact_savings and self.reads_class_token_only and not all_tokens
        return Plan.resolve(Complexity.of(complexity), self.depth, self.drop_blocks, class_token_only)

    def replace(self, **changes: Any) -> Self:
        """A copy with other values; unknown field names are refused."""
        check_names(type(self), changes)
        if changes.get("in_chans", self.in_chans) != self.in_chans:
            changes = {"mean": (), "std": (), **changes}
        if changes.get("num_classes", self.num_classes) != self.num_classes:
            changes = {"class_names": (), **changes}
        return dataclasses.replace(self, **changes)

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain values for JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The config with these fields; unknown keys are refused."""
        return from_plain(cls, values)
