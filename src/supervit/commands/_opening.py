"""What the commands share: the model in a runtime, its operating points, its classes.

A command's module imports options alone; what runs is imported in its `run`, so that help is there at once.
"""

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from supervit.complexity import Complexity, GridSize, sides
from supervit.config import Interpolation, Resize, SuperViTConfig
from supervit.data import SourceConfig, Split
from supervit.errors import InputError
from supervit.files import read_object, refusing
from supervit.options import Precision

if TYPE_CHECKING:
    from supervit.data import EpochLoader
    from supervit.model import SuperViT
    from supervit.runtimes import Runtime

Points = Annotated[tuple[str, ...], tyro.conf.arg(metavar="GRID[@RATE]|@FILE ...")]


@dataclass(frozen=True)
class _RunOptions:
    runtime: str | None = None
    """What runs it: eager, compiled, cuda_graphs, onnx_runtime or openvino (default: eager, or what the artefact is for)."""
    precision: Precision | None = None
    """Arithmetic (default: float32, or that of the artefact)."""
    threads: int | None = None
    """CPU threads (default: as many as PyTorch takes)."""
    device: str = "auto"
    """Torch device; auto takes the GPU if there is one and the runtime can use it."""
    trust: bool = False
    """Open artefacts of torch_export and aot_inductor, which can run code of whoever wrote them."""

    def open(self, path: str, **overrides: Any) -> "Runtime":
        """The model or the exported artefact at a path, in the runtime asked for.

        Args:
            path: Whatever `supervit.load` takes, or the directory of an artefact.
            overrides: Fields of the model's config that differ from the stored ones.

        Raises:
            InputError: as `supervit.load`, `open_runtime` and `open_artefact`, or options that do not fit each other.
        """
        from supervit.checkpoints import load
        from supervit.storage import is_artefact

        if is_artefact(Path(path)):
            return self._open_artefact(Path(path), overrides)
        return self.run(load(path, **overrides))

    def run(self, model: "SuperViT") -> "Runtime":
        """A model in the runtime asked for.

        Raises:
            InputError: as `open_runtime`, or int8, which needs images.
        """
        from supervit.runtimes import RuntimeConfig, open_runtime

        if self.precision == "int8":
            raise InputError(
                "int8 is calibrated on images: supervit export MODEL --target openvino --precision int8 --data.root DATA "
                "--out ARTEFACT, then give ARTEFACT instead of MODEL"
            )
        config = RuntimeConfig(self.device, self.precision or "float32", self.threads)
        return open_runtime(self.runtime or "eager", model, config)

    def _open_artefact(self, path: Path, overrides: dict[str, Any]) -> "Runtime":
        from supervit.runtimes import open_artefact

        if overrides:
            raise InputError(f"{str(path)!r} is an exported artefact and cannot change {', '.join(overrides)}; export it anew")
        if self.device not in ("auto", "cpu"):
            raise InputError(f"device {self.device!r}: artefacts run on the CPU here; leave --device out")
        opened = open_artefact(path, self.precision, self.threads, self.trust)
        if self.runtime not in (None, opened.name):
            raise InputError(f"{str(path)!r} is for {opened.name}, not {self.runtime}; leave --runtime out, or give the model")
        return opened


RunOptions = Annotated[_RunOptions, tyro.conf.arg(name="")]


@dataclass(frozen=True)
class _Overrides:
    """What a weights file cannot tell, or should be otherwise."""

    num_heads: int | None = None
    """Attention heads (default: what the config.json beside the weights says, else those of the known variant of that width,
    else 64 channels a head)."""
    grid_sizes: tuple[GridSize, ...] | None = None
    """Grid sizes of the menu, for weights with one position table (default: the paper's, in proportion)."""
    drop_blocks: tuple[int, ...] | None = None
    """0-based indices of the blocks that drop tokens (default: 3 6 9; of less than ten blocks those at 1/4, 1/2 and 3/4)."""
    mean: tuple[float, ...] | None = None
    """Channel means of the normalisation (default: what the files beside the weights say, else ImageNet's)."""
    std: tuple[float, ...] | None = None
    """Channel standard deviations of the normalisation (default: likewise)."""
    crop_pct: float | None = None
    """Evaluation: image size / size of the short side before the centre crop (default: likewise, else 0.875)."""
    interpolation: Interpolation | None = None
    """Evaluation: how files are resized before the crop (default: likewise, else bicubic)."""
    resize: Resize | None = None
    """How images reach a grid's size."""
    reducer: str | None = None
    """Token reduction: class_attention, evit, tome, ... or my_package.my_module (default: the model's)."""

    def given(self) -> dict[str, Any]:
        """The fields that were given."""
        return {name: value for name, value in vars(self).items() if value is not None}


Overrides = Annotated[_Overrides, tyro.conf.arg(name="")]


def parse_points(texts: Sequence[str], menu: Sequence[Complexity]) -> list[Complexity]:
    """The operating points of these texts, `@FILE` standing for those of a menu in a file; the menu where there are none."""
    named = [point for text in texts for point in ([Complexity.of(text)] if text[:1] != "@" else _points_of(Path(text[1:])))]
    return named or list(menu)


def _points_of(file: Path) -> list[Complexity]:
    with refusing(f"{str(file)!r} is not a menu of operating points", "write one: supervit search --out"):
        texts = read_object(file).get("points")
        if not isinstance(texts, list) or not texts:
            raise InputError('it must hold a list of points, such as {"points": ["8@0.5", "14"]}')
        return [Complexity.of(text) for text in texts]


def check_classes(classes: Sequence[str], config: SuperViTConfig, data: str = "the data", *, is_listed: bool = False) -> None:
    """Refuse data whose class indices are not the model's.

    Args:
        classes: Classes of the data in index order.
        config: Of the model.
        data: What the data are called.
        is_listed: Whether the user gave their order. Names of another kind than the model's (`n01440764` and `tench`, not
            one in common) are then taken to be in it.
    """
    is_same = tuple(classes) == config.class_names or (is_listed and not set(classes) & set(config.class_names))
    if config.class_names and not is_same:
        raise InputError(
            f"the classes of {data} ({', '.join(classes[:5])}, ...) are not the model's "
            f"({', '.join(config.class_names[:5])}, ...); use the data it was trained for, or give --data.class-list"
        )
    if len(classes) != config.num_classes:
        raise InputError(
            f"{data} have {len(classes)} classes, the model {config.num_classes}; give --data.class-list, "
            "a file with one class folder name per line in the model's order"
        )


def open_loader(data: SourceConfig, split: Split, config: SuperViTConfig) -> "EpochLoader":
    """The images of a part of the data, in order, whose classes are the model's."""
    import torch

    from supervit.data import EpochLoader, open_dataset
    from supervit.limits import check_bytes

    dataset = open_dataset(data, split, config)
    name = "the data" if data.root is None else f"the data in {str(data.root)!r}"
    check_classes(dataset.classes, config, name, is_listed=data.class_list is not None)
    batch = min(data.batch_size, len(dataset))  # before they are read into memory
    check_bytes(
        f"batches of {batch} images", 4 * batch * config.in_chans * math.prod(sides(config.image_size)), torch.device("cpu")
    )
    return EpochLoader(dataset, data.batch_size, data.workers, max_damaged=data.max_damaged)


def print_damaged(loader: "EpochLoader") -> None:
    """Say which images were skipped, on standard error."""
    for name, reason in loader.damaged.items():
        print(f"skipped a damaged image: {name} ({reason})", file=sys.stderr)
