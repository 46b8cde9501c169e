"""The command `supervit`: its subcommands, and what a user sees of an error."""

import contextlib
import io
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from supervit.backbones import variant_config
from supervit.checkpoints import load
from supervit.commands import (
    Cascade,
    Export,
    Points,
    Predict,
    Profile,
    RunOptions,
    Runtimes,
    open_loader,
    parse_points,
    print_damaged,
)
from supervit.config import Interpolation, Resize
from supervit.data import SourceConfig, Split
from supervit.errors import InputError, SuperViTError
from supervit.evaluate import Result, evaluate, measure_throughput, runtime_environment, tabulate
from supervit.files import make_directory
from supervit.label import LabelConfig, label_folder
from supervit.macs import executed_macs, macs
from supervit.model import create_model
from supervit.recipes import describe_recipe, load_recipe, recipe_names
from supervit.report import check_plotting, markdown_table, write_report
from supervit.train import TrainConfig, run_training


@dataclass(frozen=True)
class Overrides:
    """What a weights file cannot tell, or should be otherwise."""

    num_heads: int | None = None
    """Attention heads (default: those of the known variant of that width, else 64 channels a head)."""
    grid_sizes: tuple[int, ...] | None = None
    """Grid sizes of the menu, for weights with one position table (default: the paper's, in proportion)."""
    drop_blocks: tuple[int, ...] | None = None
    """0-based indices of the blocks that drop tokens (default: 3 6 9)."""
    mean: tuple[float, ...] | None = None
    """Channel means of the normalisation (default: ImageNet's)."""
    std: tuple[float, ...] | None = None
    """Channel standard deviations of the normalisation (default: ImageNet's)."""
    crop_pct: float | None = None
    """Evaluation: image size / size of the short side before the centre crop."""
    interpolation: Interpolation | None = None
    """Evaluation: how files are resized before the crop."""
    resize: Resize | None = None
    """How images reach a grid's size."""
    reducer: str | None = None
    """Token selection: class_attention or random."""

    def given(self) -> dict[str, Any]:
        """The fields that were given."""
        return {name: value for name, value in vars(self).items() if value is not None}


_Overrides = Annotated[Overrides, tyro.conf.arg(name="")]


@dataclass(frozen=True)
class Evaluate:
    """Accuracy, cost and images/s of every operating point, in one pass over the data."""

    model: tyro.conf.Positional[str]
    """Model directory, weights file (whatever `supervit.load` takes), or what `supervit export` wrote."""
    data: SourceConfig = field(default_factory=lambda: SourceConfig(batch_size=64))
    """The data."""
    split: Split = "val"
    """Part of the data."""
    complexities: Points = ()
    """Operating points, such as 8@0.5 14 (default: the model's menu)."""
    repeats: int = 10
    """Timed batches per operating point for images/s (paper: 50); 0 leaves images/s out."""
    out: Path | None = None
    """Directory for results.csv, results.json, results.md and the plot."""
    run_by: RunOptions = field(default_factory=RunOptions)
    overrides: _Overrides = field(default_factory=Overrides)

    def run(self) -> None:
        """Print the table, write the report."""
        if self.repeats < 0:
            raise InputError(f"repeats {self.repeats} must be at least 0")
        if self.out is not None:
            check_plotting()
            make_directory(self.out)
        runtime = self.run_by.open(self.model, **self.overrides.given())
        config, points = runtime.model_config, parse_points(self.complexities, runtime.points)
        loader = open_loader(self.data, self.split, config)
        accuracies = evaluate(runtime, loader.epoch(), points)
        print_damaged(loader)
        batch_size = self.data.batch_size
        throughputs = measure_throughput(runtime, points, batch_size, self.repeats) if self.repeats else None
        results = tabulate(config, points, accuracies, throughputs)
        context: dict[str, Any] = {"model": self.model, "data": str(self.data.root or self.data.name), "split": self.split}
        context |= {"images": next(iter(accuracies.values())).images, "batch_size": batch_size, "repeats": self.repeats}
        context |= {"fingerprint": runtime.fingerprint(), **runtime_environment(runtime)}
        _report(results, self.out, context)


@dataclass(frozen=True)
class Benchmark:
    """Images/s of every operating point on this device: batch-size * repeats / total time."""

    model: tyro.conf.Positional[str]
    """Name of a variant, such as deit_small, a model directory, a weights file, or what `supervit export` wrote."""
    complexities: Points = ()
    """Operating points, such as 8@0.5 14 (default: the model's menu)."""
    batch_size: int = 64
    """Images per batch (paper: 512)."""
    repeats: int = 10
    """Timed batches per operating point (paper: 50)."""
    warmup: int = 2
    """Batches per operating point before the clock starts."""
    out: Path | None = None
    """Directory for results.csv, results.json and results.md."""
    run_by: RunOptions = field(default_factory=RunOptions)

    def run(self) -> None:
        """Print the table, write the report."""
        if self.out is not None:
            make_directory(self.out)
        is_stored = Path(self.model).exists()
        runtime = self.run_by.open(self.model) if is_stored else self.run_by.run(create_model(self.model).eval())
        points = parse_points(self.complexities, runtime.points)
        throughputs = measure_throughput(runtime, points, self.batch_size, self.repeats, self.warmup)
        context = {"model": self.model, "batch_size": self.batch_size, "repeats": self.repeats, **runtime_environment(runtime)}
        _report(tabulate(runtime.model_config, points, throughputs=throughputs), self.out, context)


@dataclass(frozen=True)
class Macs:
    """The cost of every operating point in multiply-accumulates, without data or weights."""

    model: tyro.conf.Positional[str]
    """Name of a variant, such as deit_small."""
    complexities: Points = ()
    """Operating points, such as 8@0.5 14 (default: the model's menu)."""

    def run(self) -> None:
        """Print the table."""
        config = variant_config(self.model)
        points = parse_points(self.complexities, list(config.space))
        print(markdown_table(tabulate(config, points)), end="")
        together = executed_macs(config, points)
        share = together / sum(executed_macs(config, point) for point in points)
        print(f"\nall {len(points)} through forward_paths: {together / 1e9:.3f} GMACs executed, {share:.0%} of single passes")


@dataclass(frozen=True)
class Convert:
    """Write any weights that `supervit.load` takes as a model directory of ours."""

    source: tyro.conf.Positional[str]
    """Weights file: released SuperViT, or DeiT/ViT with timm's or Hugging Face's names."""
    out: tyro.conf.Positional[Path]
    """Directory to write model.safetensors and config.json into."""
    overrides: _Overrides = field(default_factory=Overrides)

    def run(self) -> None:
        """Load, then write."""
        model = load(self.source, **self.overrides.given())
        model.save(self.out)
        config = model.config
        cost = macs(config, config.space.largest) / 1e9
        print(
            f"wrote {self.out}: {config.family}, width {config.embed_dim}, {config.depth} blocks, {config.num_heads} heads, "
            f"{config.num_classes} classes, grid sizes {', '.join(map(str, config.grid_sizes))}, {cost:.2f} GMACs uncut"
        )


if TYPE_CHECKING:
    _Recipe = TrainConfig
else:
    _Recipe = tyro.extras.subcommand_type_from_defaults(
        {name: load_recipe(name) for name in recipe_names()},
        {name: describe_recipe(name) for name in recipe_names()},
    )


@dataclass(frozen=True)
class Train:
    """Train one SuperViT by a recipe, then measure all its operating points; `supervit train --list` lists the recipes."""

    recipe: Annotated[_Recipe, tyro.conf.arg(name="")]

    def run(self) -> None:
        """Train, print the table."""
        results = run_training(self.recipe)
        if os.environ.get("RANK", "0") != "0":  # one process of several talks
            return
        print(markdown_table(results), end="")
        print(f"\nmodel: {self.recipe.out / 'model'}   table: results.md, .csv, .json   plot: tradeoff.png, .svg")


@dataclass(frozen=True)
class Label(LabelConfig):
    """Make label maps of an image folder with any timm teacher: what token labelling (LV-ViT) learns from."""

    def run(self) -> None:
        """Label what has no label map yet, say what was done."""
        done = label_folder(self)
        for image in done.damaged:
            print(f"skipped a damaged image: {image}", file=sys.stderr)
        print(f"wrote {done.written} label maps into {self.out}, kept {done.kept}, skipped {len(done.damaged)} damaged images")


Command = (
    Annotated[Train, tyro.conf.subcommand("train")]
    | Annotated[Evaluate, tyro.conf.subcommand("evaluate")]
    | Annotated[Benchmark, tyro.conf.subcommand("benchmark")]
    | Annotated[Macs, tyro.conf.subcommand("macs")]
    | Annotated[Convert, tyro.conf.subcommand("convert")]
    | Annotated[Label, tyro.conf.subcommand("label")]
    | Annotated[Profile, tyro.conf.subcommand("profile")]
    | Annotated[Cascade, tyro.conf.subcommand("cascade")]
    | Annotated[Runtimes, tyro.conf.subcommand("runtimes")]
    | Annotated[Export, tyro.conf.subcommand("export")]
    | Annotated[Predict, tyro.conf.subcommand("predict")]
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; what a user can mend is one line on standard error and exit status 2."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    try:
        if arguments == ["train", "--list"]:  # beside the recipes, which are subcommands
            _list_recipes()
        else:
            _parse_arguments(arguments).run()
    except (SuperViTError, OSError) as error:
        print(f"supervit: error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None


def _list_recipes() -> None:
    width = max(map(len, recipe_names()))
    for name in recipe_names():
        print(f"{name:{width}}  {describe_recipe(name)}")


def _parse_arguments(arguments: Sequence[str]) -> Any:
    """The command asked for; a value that our own configs refuse is raised as they raised it, without tyro's box."""
    errors = io.StringIO()
    try:
        with contextlib.redirect_stderr(errors):
            return tyro.cli(
                Command,
                prog="supervit",
                description="One vision transformer, trained once, that runs at any compute budget.",
                args=arguments,
                config=(tyro.conf.OmitSubcommandPrefixes,),
            )
    except SystemExit as stop:
        cause: BaseException | None = stop
        while cause is not None:
            if isinstance(cause, SuperViTError):
                raise cause from None
            cause = cause.__context__
        print(errors.getvalue(), end="", file=sys.stderr)
        raise


def _report(results: list[Result], out: Path | None, context: dict[str, Any]) -> None:
    print(markdown_table(results), end="")
    if out is not None:
        write_report(results, out, context, title=f"One SuperViT, {len(results)} operating points")
        print(f"\nwrote {out}")
