"""What an artefact says of itself, for those who run it without this package."""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from supervit.complexity import GridSize, sides
from supervit.config import PILLOW_MODES
from supervit.errors import InputError
from supervit.export._graph import Interface, keep_counts
from supervit.files import check_regular, file_digest, refusing, write_text
from supervit.model import SuperViT
from supervit.modes import evaluation_mode

_BATCH = 16

EXAMPLE = '''"""Classifies an image with the artefact beside this file: python example.py IMAGE [POINT]

Needs numpy, pillow and {packages}. The points are in export.json; the default is the last.
"""

import json
import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

if len(sys.argv) < 2 or not Path(sys.argv[1]).is_file():
    sys.exit(f"usage: python {{sys.argv[0]}} IMAGE [POINT]; no file {{sys.argv[1:2]}}")
here = Path(__file__).resolve().parent
about = json.loads((here / "export.json").read_text(encoding="utf-8"))
points = {{point["complexity"]: point for point in about["points"]}}
point = points[sys.argv[2]] if len(sys.argv) > 2 else about["points"][-1]
see, side, config = about["preprocessing"], point["image_size"], about["config"]
height, width = side if isinstance(side, list) else (side, side)
whole_height, whole_width = see["crop_size"]  # what the largest grid sees
formats = ("JPEG", "PNG", "WEBP", "BMP", "TIFF")  # none that starts a program
image = ImageOps.exif_transpose(Image.open(sys.argv[1], formats=formats))
if image.mode[0] in "IF":
    sys.exit(f"{{sys.argv[1]}} is grey of more than 8 bits (mode {{image.mode}}), which Pillow would cut: save it with 8")
image = image.convert(see["pillow_mode"])
if whole_height == whole_width:
    short = int(whole_height / see["crop_pct"])  # what the short side becomes, then the middle is cut out
    size = [short * length // min(image.size) for length in image.size]
else:  # the picture just covers crop_size / crop_pct, then the middle is cut out
    cover = int(whole_width / see["crop_pct"]), int(whole_height / see["crop_pct"])
    ratio = min(length / wanted for length, wanted in zip(image.size, cover))
    size = [round(length / ratio) for length in image.size]
image = image.resize(size, Image.Resampling[see["interpolation"].upper()])
left, top = round((image.width - whole_width) / 2), round((image.height - whole_height) / 2)
image = image.crop((left, top, left + whole_width, top + whole_height))
if height < whole_height and config["resize"] == "antialias":
    image = image.resize((width, height), Image.Resampling.BILINEAR)
pixels = np.asarray(image, dtype=np.float32).reshape(image.height, image.width, -1) / 255
for wanted in (height, width):  # linear between the pixels around each place, one axis after the other
    length = len(pixels)
    if length != wanted:
        if config["resize"] == "align_corners":
            places = np.linspace(0, length - 1, wanted)
        else:
            places = np.maximum((np.arange(wanted) + 0.5) * length / wanted - 0.5, 0)
        low = np.minimum(places.astype(int), length - 2)
        share = (places - low).astype(np.float32)[:, None, None]
        pixels = pixels[low] * (1 - share) + pixels[low + 1] * share
    pixels = pixels.transpose(1, 0, 2)
pixels = (pixels - np.float32(see["mean"])) / np.float32(see["std"])
inputs = {{"images": np.ascontiguousarray(pixels.transpose(2, 0, 1)[None])}}
if "keep" in about["inputs"]:
    inputs["keep"] = np.array(point["keep"], dtype=np.int64)

{run}

probabilities = np.exp(logits - logits.max())
probabilities /= probabilities.sum()
best = int(probabilities.argmax())
print(f"{{about['class_names'][best] if about['class_names'] else f'class {{best}}'}} {{probabilities[best]:.4f}}")
'''


@dataclass(frozen=True)
class Preprocessing:
    """How a picture becomes `images`: resized, cut, scaled to [0, 1], then (value - mean) / std in each channel."""

    layout: str
    """Of the input: NCHW, rows from the top."""
    channels: str
    """Order of the channels: RGB, grey, or how many there are."""
    pillow_mode: str | None
    """Mode of a Pillow image with these channels."""
    orientation: str
    """EXIF's is applied first."""
    interpolation: str
    """Of the picture's resizing, which low-pass filters where it shrinks."""
    crop_pct: float
    """The picture just covers crop_size / crop_pct pixels, rounded down; then the middle of crop_size is cut out, for smaller
    grids resized to theirs as the config's `resize` says."""
    crop_size: tuple[int, int]
    """Height and width in pixels: what the largest grid sees."""
    value_range: tuple[float, float]
    """Of the values before mean and std."""
    mean: tuple[float, ...]
    """By channel."""
    std: tuple[float, ...]
    """By channel."""


def preprocessing_of(interface: Interface) -> Preprocessing:
    """That of the operating points of a graph."""
    config = interface.config.view(interface.points)
    return Preprocessing(
        layout="NCHW",
        channels={1: "grey", 3: "RGB"}.get(config.in_chans, f"{config.in_chans} channels"),
        pillow_mode=PILLOW_MODES.get(config.in_chans),
        orientation="as EXIF says",
        interpolation=config.interpolation,
        crop_pct=config.crop_pct,
        crop_size=sides(config.image_size),
        value_range=(0.0, 1.0),
        mean=config.mean,
        std=config.std,
    )


@dataclass(frozen=True)
class TensorReport:
    """An input or output of the graph."""

    name: str
    dtype: str
    shape: tuple[str, ...]
    """Sizes; `batch` is any, `side` (or `height`, `width`) that of the operating point."""
    meaning: str


def tensors_of(interface: Interface) -> tuple[TensorReport, ...]:
    """The inputs of a graph in their order, then its output."""
    config = interface.config
    grids = {point.grid_size for point in interface.points}
    both = ("height", "width") if any(isinstance(grid, tuple) for grid in grids) else ("side", "side")
    shape = ("batch", str(config.in_chans), *(both if len(grids) > 1 else map(str, interface.size(interface.points[0]))))
    found = [TensorReport("images", "float32", shape, "pictures after the preprocessing, at the image_size of their point")]
    if interface.is_elastic:
        blocks = ", ".join(str(block + 1) for block in sorted(config.drop_blocks))
        meaning = f"tokens that survive blocks {blocks}, prefix included: the keep of a point"
        found.append(TensorReport("keep", "int64", (str(len(set(config.drop_blocks))),), meaning))
    columns, meaning = (config.num_classes, "softmax of them are probabilities, in the order of class_names")
    if not columns:
        columns, meaning = config.embed_dim, "features: the model has no classes"
    return (*found, TensorReport("logits", "float32", ("batch", str(columns)), meaning))


def metadata_of(report: Mapping[str, Any]) -> dict[str, str]:
    """What a file's own metadata say, as texts: all that one needs to run it, without the checksums."""
    names = ("form", "precision", "tensors", "preprocessing", "class_names", "versions", "fingerprint")
    points = {each["complexity"]: {"image_size": each["image_size"], "keep": each["keep"]} for each in report["points"]}
    found = {name: report[name] for name in names} | {"points": points}
    return {f"supervit.{name}": each if isinstance(each, str) else json.dumps(each) for name, each in found.items()}


def write_examples(directory: Path, interface: Interface, packages: str, run: str) -> None:
    """Write `example.py`, where the model takes pictures."""
    if interface.config.in_chans in PILLOW_MODES and interface.config.num_classes:
        write_text(directory / "example.py", EXAMPLE.format(packages=packages, run=run))


def digests_of(directory: Path) -> dict[str, str]:
    """SHA-256 of each file of a directory, by name."""
    return {path.name: file_digest(path) for path in sorted(directory.iterdir())}


def check_files(directory: Path, files: Mapping[str, str]) -> None:
    """Refuse an artefact whose files are not those that were written.

    Raises:
        InputError: a file is missing or has changed, or is none that ends.
    """
    with refusing(f"{str(directory)!r} is damaged", "export it again"):
        for path in directory.iterdir():
            if not path.is_dir():
                check_regular(path)
    for name, digest in files.items():
        if Path(name).name != name:
            raise InputError(f"{str(directory)!r} names a file outside of itself, {name!r}; export it again")
        if not (directory / name).is_file():
            raise InputError(f"{str(directory)!r} lacks its file {name!r}; copy the whole directory, or export it again")
        if file_digest(directory / name) != digest:
            raise InputError(f"{str(directory / name)!r} is not the file that was exported; copy it again, or export it again")


def check_sizes(
    interface: Interface, image_sizes: tuple[GridSize, ...], keeps: tuple[tuple[int, ...], ...], held_bytes: int
) -> None:
    """Refuse a report that tells of another model than its files can hold, before anything of that size is made.

    Args:
        interface: As the report tells.
        image_sizes: Of its points.
        keeps: Of its points.
        held_bytes: Of its files together; a weight takes one at least.

    Raises:
        InputError: sizes beyond the files, or that do not fit each other.
    """
    config = interface.config
    grids = {point.grid_size for point in interface.points}
    width = config.embed_dim
    weights = config.depth * width * (4 * width + 2 * config.hidden_dim) + width * config.num_classes
    weights += width * (config.in_chans * config.patch_size**2 + sum(math.prod(sides(grid)) for grid in grids))
    if weights > held_bytes:
        raise InputError(f"it tells of {weights:.3g} weights and its files have {held_bytes:.3g} bytes")
    for point, image_size, keep in zip(interface.points, image_sizes, keeps, strict=True):
        if image_size != interface.image_size(point) or list(keep) != keep_counts(config, point).tolist():
            raise InputError(f"image_size {image_size} and keep {keep} are not those of {point}")


@dataclass(frozen=True)
class Quantised:
    """What an int8 artefact answers, compared with PyTorch in float32, on the images that it was calibrated on."""

    images: int
    """How many these were."""
    agreement: dict[str, float]
    """Images that get the class which float32 gives them, in percent, by operating point."""
    top1: dict[str, float] | None
    """Images that get their right class, in percent, by operating point; null without labels."""
    top1_float32: dict[str, float] | None
    """Likewise of float32."""


@torch.inference_mode()
def compare_answers(
    interface: Interface, run: Callable[..., Tensor], model: SuperViT, images: Tensor, labels: Tensor | None
) -> Quantised:
    """How often a quantised graph and PyTorch agree, and are right.

    Args:
        interface: Of the graph.
        run: The graph: a function from its inputs to logits.
        model: The model that it was made of.
        images: Normalised images (N, C, S, S).
        labels: Their class indices (N), if known.
    """
    device, points = next(model.parameters()).device, interface.points
    hits = {name: torch.zeros(len(points)) for name in ("agreement", "top1", "top1_float32")}
    with evaluation_mode(model):
        for first in range(0, len(images), _BATCH):
            batch = images[first : first + _BATCH]
            for row, expected in enumerate(model.forward_paths(batch.to(device), points)):
                found, wanted = run(*interface.inputs(batch, points[row])).argmax(dim=1), expected.argmax(dim=1).cpu()
                hits["agreement"][row] += (found == wanted).sum()
                if labels is not None:
                    hits["top1"][row] += (found == labels[first : first + _BATCH]).sum()
                    hits["top1_float32"][row] += (wanted == labels[first : first + _BATCH]).sum()
    percent = {
        name: {str(point): 100 * float(count) / len(images) for point, count in zip(points, counts, strict=True)}
        for name, counts in hits.items()
    }
    known = labels is not None
    return Quantised(
        len(images), percent["agreement"], percent["top1"] if known else None, percent["top1_float32"] if known else None
    )
