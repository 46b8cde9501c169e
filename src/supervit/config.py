"""What a model is made of: one frozen dataclass, written as `config.json` beside the weights."""

import dataclasses
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self

from supervit.complexity import Complexity, ComplexitySpace, GridSize, KeepRate, grid_text, has_shape, side_of, sides
from supervit.errors import InputError
from supervit.fields import check_names, check_types, from_plain
from supervit.plan import Plan, Reduction

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
PILLOW_MODES = {1: "L", 3: "RGB"}  # by channels

_LIMITS = {"embed_dim": 2**14, "depth": 1000, "num_heads": 2**10, "patch_size": 2**10, "in_chans": 2**10}
_MOST_CLASSES = 200_000
_MOST_GRID = 2**10  # patches per side
_MOST_SIDE = 2**14  # pixels
_MOST_MLP_RATIO = 64
_MOST_ENTRIES = {"grid_sizes": 64, "keep_rates": 64, "exit_blocks": 64, "drop_blocks": _LIMITS["depth"]}
_MOST_ENTRIES |= {"mean": _LIMITS["in_chans"]}
_MOST_ENTRIES |= {"std": _LIMITS["in_chans"], "class_names": _MOST_CLASSES}
_LEAST_CROP = 0.1
_MOST_MEAN = 1000
_RANGES = {"norm_eps": (1e-20, 1.0), "residual_divisor": (1e-3, 1e3), "std": (1e-5, 1e3)}
_MOST_PARAMETERS = 2 * 10**9  # 8 GB: above all ViTs that a menu of operating points is for

Resize = Literal["align_corners", "half_pixel", "antialias"]
Interpolation = Literal["nearest", "bilinear", "bicubic"]
GlobalPool = Literal["token", "avg"]


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
    grid_sizes: tuple[GridSize, ...] = (8, 10, 12, 14)
    """Patch tokens per image side, or (rows, columns), each with a position table of its own."""
    keep_rates: tuple[KeepRate, ...] = (0.5, 0.7, 1.0)
    """Trained token keeping rates, each for all drop blocks or a list with one for each; 1.0 must be among them."""
    exit_blocks: tuple[int, ...] = ()
    """Trained exits: after how many blocks the final norm and the head may follow."""
    drop_blocks: tuple[int, ...] = (3, 6, 9)
    """0-based indices of the blocks that drop tokens (the paper's 4th, 7th and 10th); where these are more than the blocks,
    default: those at a quarter, half and three quarters of the depth."""
    reducer: str = "class_attention"
    """Token reduction: the name of a file in `supervit/reducers`, or `my_package.my_module`."""
    class_token: bool = True
    """Whether a class token stands before the patch tokens."""
    reg_tokens: int = 0
    """Register tokens, after the class token; like it, they are never dropped."""
    global_pool: GlobalPool = "token"
    """Where the classifier reads from: the class token (token), or the mean of the patch tokens that are left (avg)."""
    fc_norm: bool = False
    """Whether the final norm comes after the pooling instead of before it."""
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
        _check_lengths(vars(self))
        check_types(self)
        self._check_sizes()
        mean, std = _default_normalisation(self.in_chans)
        given = (self.mean, self.std)
        if len(self.mean) != self.in_chans and given == _default_normalisation(len(self.mean)):
            given = ((), ())  # what another channel count has by default, copied from its config
        object.__setattr__(self, "mean", given[0] or mean)
        object.__setattr__(self, "std", given[1] or std)
        if self.drop_blocks == SuperViTConfig.drop_blocks:
            object.__setattr__(self, "drop_blocks", _default_drop_blocks(self.depth))
        space = self.space
        for name in ("grid_sizes", "keep_rates", "exit_blocks"):
            object.__setattr__(self, name, getattr(space, name))
        self._validate()

    def _check_sizes(self) -> None:
        """Refuse what no memory holds, before anything of that size is made."""
        for name, most in _LIMITS.items():
            if not 1 <= getattr(self, name) <= most:
                bound = "at least 1" if getattr(self, name) < 1 else f"at most {most}"
                raise InputError(f"{name} {getattr(self, name)!r} must be {bound}")
        if not 0 <= self.num_classes <= _MOST_CLASSES:
            bound = "at least 1, or 0 for no classifier" if self.num_classes < 0 else f"at most {_MOST_CLASSES}"
            raise InputError(f"num_classes {self.num_classes} must be {bound}")
        if not 0 <= self.reg_tokens <= _MOST_GRID:
            raise InputError(f"reg_tokens {self.reg_tokens} must be 0 to {_MOST_GRID}")
        if max((max(sides(grid)) for grid in self.grid_sizes), default=0) > min(_MOST_GRID, _MOST_SIDE // self.patch_size):
            raise InputError(
                f"grid_sizes {self.grid_sizes!r} with patch_size {self.patch_size} are images of more than {_MOST_SIDE} pixels "
                f"or more than {_MOST_GRID} patches a side; use smaller grids"
            )
        if not 0 < self.mlp_ratio <= _MOST_MLP_RATIO or self.hidden_dim < 1:
            wanted = "more than 0" if self.mlp_ratio <= 0 else f"at most {_MOST_MLP_RATIO} and give a hidden width"
            raise InputError(f"mlp_ratio {self.mlp_ratio!r} must be {wanted}")
        if self._parameters > _MOST_PARAMETERS:
            raise InputError(
                f"{self._parameters / 1e9:.1f} billion parameters (embed_dim {self.embed_dim}, depth {self.depth}, num_classes "
                f"{self.num_classes}, grids {self.grid_sizes}) are more than the {_MOST_PARAMETERS / 1e9:.0f} that "
                "a model may have; make it smaller"
            )

    @property
    def _parameters(self) -> int:
        """Parameters, nearly: the matrices alone."""
        blocks = self.depth * (4 * self.embed_dim + 2 * self.hidden_dim)
        rows = self.num_classes * (1 + self.dense_head) + self.in_chans * self.patch_size**2
        return self.embed_dim * (blocks + rows + sum(math.prod(sides(grid)) for grid in self.grid_sizes))

    def _validate(self) -> None:
        if self.embed_dim % self.num_heads:
            raise InputError(f"embed_dim {self.embed_dim} is not a multiple of num_heads {self.num_heads}")
        for name, (least, most) in _RANGES.items():
            values = getattr(self, name)
            for value in values if isinstance(values, tuple) else (values,):
                if not least <= value <= most:
                    raise InputError(f"{name} {values!r} must be more than 0: {least:g} to {most:g}")
        if any(abs(value) > _MOST_MEAN for value in self.mean):
            raise InputError(f"mean {self.mean!r} is of images in [0, 1]; {_MOST_MEAN} at most")
        if not 0 <= self.drop_path_rate < 1:
            raise InputError(f"drop_path_rate {self.drop_path_rate} is not in [0, 1)")
        if not _LEAST_CROP <= self.crop_pct <= 1:
            raise InputError(f"crop_pct {self.crop_pct} is not in [{_LEAST_CROP}, 1]")
        for block in self.drop_blocks:
            if not 0 <= block < self.depth:
                raise InputError(f"drop block {block} is not one of the {self.depth} blocks 0...{self.depth - 1}")
        if len(set(self.drop_blocks)) != len(self.drop_blocks):
            raise InputError(f"drop_blocks {self.drop_blocks!r} must not name a block twice")
        if self.global_pool == "token" and not self.class_token:
            raise InputError("global_pool 'token' reads the class token, and class_token is False; use global_pool='avg'")
        if self.dense_head and self.global_pool != "token":
            raise InputError(f"global_pool {self.global_pool!r} does not go with a dense head; use 'token'")
        if other := [grid for grid in self.grid_sizes if not has_shape(grid, *sides(self.image_size))]:
            raise InputError(
                f"grid size {grid_text(other[0])} has not the shape of the largest, {grid_text(self.grid_sizes[-1])}; "
                "a menu is for images of one shape"
            )
        for point in self.space.cuts(self.grid_sizes[0]):
            Plan.resolve(point, self.depth, self.drop_blocks)
        for name in ("mean", "std"):
            if len(getattr(self, name)) != self.in_chans:
                raise InputError(f"{name} {getattr(self, name)!r} must have one value for each of {self.in_chans} channels")
        if self.class_names and len(self.class_names) != self.num_classes:
            raise InputError(f"{len(self.class_names)} class_names do not fit num_classes {self.num_classes}")

    @property
    def space(self) -> ComplexitySpace:
        """The menu of operating points that the model is trained on."""
        return ComplexitySpace(self.grid_sizes, self.keep_rates, self.exit_blocks, self.drop_blocks)

    @property
    def image_size(self) -> GridSize:
        """Side in pixels, or (height, width), of the images of the largest grid: what the model takes without resizing."""
        return side_of(self.pixels(self.grid_sizes[-1]))

    def pixels(self, grid_size: GridSize) -> tuple[int, int]:
        """Height and width in pixels of the images of a grid size."""
        rows, columns = sides(grid_size)
        return self.patch_size * rows, self.patch_size * columns

    def view(self, points: Iterable[Complexity]) -> Self:
        """The config for preprocessing images that operating points are to see: itself, or where these are of another shape
        than its own images, one with their grids.

        Raises:
            InputError: the operating points see images of different shapes.
        """
        grids = tuple({point.grid_size for point in points})
        if all(has_shape(grid, *sides(self.image_size)) for grid in grids):
            return self
        largest = max(Complexity(grid) for grid in grids).grid_size
        if other := [grid for grid in grids if not has_shape(grid, *self.pixels(largest))]:
            raise InputError(
                f"grids {grid_text(other[0])} and {grid_text(largest)} see images of different shapes; ask for one at a time"
            )
        return self.replace(grid_sizes=grids)

    @property
    def num_prefix_tokens(self) -> int:
        """Tokens before those of the patches: class token and registers."""
        return self.class_token + self.reg_tokens

    def can_resume(self, complexity: Complexity | str) -> bool:
        """Whether an operating point can go on from the shared prefix of its grid: it does not stop before the prefix ends."""
        exit_block = Complexity.of(complexity).exit_block
        return exit_block is None or exit_block > self.shared_blocks

    @property
    def hidden_dim(self) -> int:
        """Hidden width of the FFN."""
        return round(self.embed_dim * self.mlp_ratio)

    @property
    def reads_class_token_only(self) -> bool:
        """Whether the logits depend on no other token after the last block."""
        return self.global_pool == "token" and (not self.dense_head or self.num_classes == 0)

    @property
    def shared_blocks(self) -> int:
        """How many of the first blocks all operating points of a grid size share: those before any drop block or exit."""
        return min((*self.drop_blocks, self.depth - 1, *(block - 1 for block in self.exit_blocks)))

    def plan(self, complexity: Complexity | str, *, all_tokens: bool = False, reduction: Reduction | None = None) -> Plan:
        """The token counts of an operating point in this network.

        Args:
            complexity: The operating point or its text.
            all_tokens: Whether every surviving token is wanted, not just what the head reads.
            reduction: Counts what survives, where the reducer has been loaded already.
        """
        if reduction is None:
            from supervit.reducers import load_reducer

            reduction = load_reducer(self.reducer)
        reads_one = self.reads_class_token_only and not (all_tokens or reduction.keeps_aside)
        rows_read = 1 if self.exact_savings and reads_one else None
        return Plan.resolve(
            Complexity.of(complexity), self.depth, self.drop_blocks, rows_read,
            prefix=self.num_prefix_tokens, reduction=reduction,
        )  # fmt: skip

    def replace(self, **changes: Any) -> Self:
        """A copy with other values; unknown field names are refused."""
        check_names(type(self), changes)
        if changes.get("in_chans", self.in_chans) != self.in_chans:
            changes = {"mean": (), "std": (), **changes}
        if changes.get("num_classes", self.num_classes) != self.num_classes:
            changes = {"class_names": (), **changes}
        if "depth" in changes and self.drop_blocks == _default_drop_blocks(self.depth):
            changes = {"drop_blocks": SuperViTConfig.drop_blocks, **changes}
        return dataclasses.replace(self, **changes)

    def with_channels(self, in_chans: int) -> Self:
        """A copy for images of another channel count with weights made for this one: the normalisation is averaged (1) or
        repeated, as `storage.override` does with the patch embedding.
        """
        if in_chans == self.in_chans:
            return self
        both = {name: getattr(self, name) for name in ("mean", "std")}
        grey = {name: (sum(values) / len(values),) for name, values in both.items()}
        repeated = {name: tuple(values[i % len(values)] for i in range(in_chans)) for name, values in both.items()}
        return self.replace(in_chans=in_chans, **(grey if in_chans == 1 else repeated))

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain values for JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The config with these fields; unknown keys are refused."""
        if isinstance(values, Mapping):
            _check_lengths(values)
        return from_plain(cls, values)


def _check_lengths(values: Mapping[str, Any]) -> None:
    """Refuse long lists before their items are looked at."""
    for name, most in _MOST_ENTRIES.items():
        value = values.get(name, ())
        if isinstance(value, list | tuple) and len(value) > most:
            raise InputError(f"{name} has {len(value)} values; {most} at most")


def _default_normalisation(in_chans: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    return (IMAGENET_MEAN, IMAGENET_STD) if in_chans == 3 else ((0.5,) * in_chans, (0.5,) * in_chans)


def _default_drop_blocks(depth: int) -> tuple[int, ...]:
    """The paper's 3, 6, 9 where there are so many blocks, else a quarter, half and three quarters of the depth, not block 0."""
    paper = SuperViTConfig.drop_blocks
    if max(paper) < depth:
        return paper
    return tuple(sorted({depth * quarter // 4 for quarter in (1, 2, 3)} - {0}))
