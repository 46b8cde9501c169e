"""What reading JPEGs for a small grid saves, from their bytes to predictions, and what it changes.

Three tables over a tar of JPEGs, one folder per class in the model's order:

1. As they are: top-1 in evaluation's reading and in the one for the grid, agreement, and the mean difference of the pixels.
   Images not twice as large as the model's are decoded whole either way, but reach the grid in one step.
2. As a model of half the image size sees them: each image is then decoded at 1/2 or less and has hardly a pixel too many,
   the worst case for accuracy. What that model would see is classified by this one at its largest operating point.
3. How many times as fast, in several runtimes; also for the pictures enlarged to the sizes of photographs, as enlarging adds
   no detail.

The two ways take turns, a batch each. Reported is the ratio of the medians, with the quartiles of the ratio within the turns.

    python benchmarks/decoding.py WEIGHTS IMAGES.tar --out decoding.json
"""

import argparse
import gc
import io
import json
import statistics
import tarfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor

import supervit
from supervit import SuperViT, SuperViTConfig
from supervit.complexity import GridSize
from supervit.data import evaluation_transform, open_image, read_for_grid, read_image
from supervit.evaluate import environment
from supervit.files import write_json
from supervit.layers import resize_images
from supervit.predictor import Prediction, Predictor
from supervit.report import aligned_table
from supervit.runtimes import Precision, RuntimeConfig, open_runtime


def read_tar(file: Path, step: int) -> tuple[list[bytes], Tensor]:
    """Every `step`-th JPEG of a tar, and the class of each: the rank of its folder."""
    with tarfile.open(file) as tar:
        members = [member for member in tar if member.isfile()]
        folders = sorted({member.name.split("/")[0] for member in members})
        labels = [folders.index(member.name.split("/")[0]) for member in members[::step]]
        return [tar.extractfile(member).read() for member in members[::step]], torch.tensor(labels)  # type: ignore[union-attr]


def compare_answers(answers: Sequence[Tensor], labels: Tensor) -> dict[str, float]:
    """Top-1 of the answers (N) with full and with reduced decoding and their agreement, in percent."""
    full, reduced = answers
    shares = {"top1_full": full == labels, "top1_reduced": reduced == labels, "agreement": full == reduced}
    return {name: 100 * share.double().mean().item() for name, share in shares.items()}


def see(files: Sequence[bytes], config: SuperViTConfig, grid_size: GridSize) -> tuple[Tensor, Tensor, float]:
    """What the model sees (N, C, H, W) with full and with reduced decoding; mean difference in levels of 255."""
    transform, size = evaluation_transform(config), config.pixels(grid_size)
    full, reduced = [], []
    for file in files:
        full.append(resize_images(transform(read_image(file))[None], size, config.resize))
        with open_image(file) as image:
            seen = read_for_grid(image, config, grid_size)
        reduced.append(full[-1] if seen is None else seen[None])
    std = torch.tensor(config.std).view(-1, 1, 1)
    difference = torch.tensor([((a - b) * std).abs().mean() for a, b in zip(full, reduced, strict=True)]).mean().item()
    return torch.cat(full), torch.cat(reduced), 255 * difference


def classify(predictor: Predictor, images: Any, point: str) -> Tensor:
    """Class indices (N) of images that can all be read."""
    return torch.tensor([answer.class_index for answer in predictor(images, point) if isinstance(answer, Prediction)])


def time_both(pair: Sequence[Predictor], files: Sequence[bytes], point: str, repeats: int) -> dict[str, Any]:
    """Time of a batch with full and with reduced decoding, and their ratio."""
    size, seconds = pair[0].batch_size, {predictor: list[float]() for predictor in pair}
    for repeat in range(-2, repeats):
        batch = [files[(repeat * size + index) % len(files)] for index in range(size)]
        for predictor, each in seconds.items():
            start = time.perf_counter()
            predictor(batch, point)
            if repeat >= 0:
                each.append(time.perf_counter() - start)
    ratios = [a / b for a, b in zip(*seconds.values(), strict=True)]
    full_s, reduced_s = (statistics.median(each) for each in seconds.values())
    low, _, high = statistics.quantiles(ratios, n=4)
    times = {"full_ms": 1e3 * full_s, "reduced_ms": 1e3 * reduced_s, "speedup": full_s / reduced_s}
    return {"point": point, "batch_size": size, **times, "quartiles": [low, high]}


def time_runtime(
    name: str, model: SuperViT, pictures: Sequence[Sequence[bytes]], options: argparse.Namespace
) -> list[dict[str, Any]]:
    """Both ways in a runtime, such as openvino:bfloat16, which is closed afterwards: its threads would disturb the next."""
    runtime, precision = cast(tuple[str, Precision], name.split(":"))
    opened, rows = open_runtime(runtime, model, RuntimeConfig(precision=precision, threads=options.threads)), []
    for files in pictures:
        short = {"runtime": name, "short_side": min(read_image(files[0]).size)}
        for point in options.points if files is pictures[0] else options.points[:1]:
            for size in (1, 16):
                pair = [Predictor(opened, batch_size=size, reduced_decoding=way) for way in (False, True)]
                rows.append(short | time_both(pair, files, point, options.repeats))
    del opened, pair
    gc.collect()
    return rows


def enlarge(file: bytes, short: int) -> bytes:
    """The picture as a JPEG of that many pixels on its short side, with the noise of a camera."""
    image = read_image(file).convert("RGB")
    factor = short / min(image.size)
    pixels = np.asarray(image.resize((round(image.width * factor), round(image.height * factor)), Image.Resampling.BICUBIC))
    noisy = pixels + np.random.default_rng(0).normal(0, 3, pixels.shape)
    stream = io.BytesIO()
    Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(stream, "JPEG", quality=90)
    return stream.getvalue()


def main() -> None:
    """Measure, print the tables, write them as JSON on request."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", type=Path, help="whatever supervit.load takes")
    parser.add_argument("images", type=Path, help="tar of CLASS/FILE.jpg")
    parser.add_argument("--norm", type=float, help="mean and std of all channels, where they are not ImageNet's")
    parser.add_argument("--points", nargs="+", default=["8@0.5", "8", "10"])
    parser.add_argument("--step", type=int, default=1, help="take every step-th image")
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--short-sides", nargs="*", type=int, default=[512, 1024, 3024], help="of enlarged pictures")
    parser.add_argument(
        "--runtimes", nargs="+", default=["eager:float32", "onnx_runtime:float32", "openvino:float32"], help="not in int8"
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, help="write the results as JSON")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    overrides = {} if options.norm is None else {"mean": (options.norm,) * 3, "std": (options.norm,) * 3}
    model = supervit.load(options.weights, **overrides)
    files, labels = read_tar(options.images, options.step)
    full, reduced = (Predictor(model, reduced_decoding=way) for way in (False, True))
    report: dict[str, Any] = {"images": len(files), "environment": environment(torch.device("cpu"))}

    report["as they are"] = []
    for point in options.points:
        answers = [classify(predictor, files, point) for predictor in (full, reduced)]
        *_, difference = see(files[:200], model.config, supervit.Complexity.of(point).grid_size)
        report["as they are"].append({"point": point, **compare_answers(answers, labels), "difference_levels": difference})
    half = model.config.replace(patch_size=model.config.patch_size // 2)
    report["model of half the size"] = []
    for grid_size in half.grid_sizes[:-1]:
        *seen, difference = see(files, half, grid_size)
        answers = [classify(full, each, str(half.grid_sizes[-1])) for each in seen]
        shares = compare_answers(answers, labels)
        report["model of half the size"].append({"point": str(grid_size), **shares, "difference_levels": difference})
    pictures = [files, *([enlarge(file, short) for file in files[:2]] for short in options.short_sides)]
    report["times"] = [row for name in options.runtimes for row in time_runtime(name, model, pictures, options)]

    for name in ("as they are", "model of half the size", "times"):
        rows = [[cell if isinstance(cell, str) else json.dumps(cell) for cell in _rounded(row)] for row in report[name]]
        print(f"{name}\n\n{aligned_table([list(report[name][0]), *rows])}")
    if options.out is not None:
        write_json(options.out, report)


def _rounded(row: dict[str, Any]) -> list[Any]:
    return json.loads(json.dumps(list(row.values())), parse_float=lambda text: round(float(text), 2))


if __name__ == "__main__":
    main()
