"""Every reducer without parameters on the same weights, untrained: accuracy at points, and what they execute.

    python benchmarks/reducers.py WEIGHTS --tar IMAGES.tar --synsets SYNSETS.txt --out docs/results/reducers.json

The archive holds images below folders named by synset, the list the synsets in the order of the model's classes.
"""

import argparse
import json
import math
import tarfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import supervit
import supervit.reducers
from supervit.data import evaluation_transform, read_image
from supervit.evaluate import environment
from supervit.macs import executed_macs
from supervit.plugins import plugin_names
from supervit.reducers import load_reducer


def read_images(archive: Path, synsets: Path, config: supervit.SuperViTConfig) -> tuple[Tensor, Tensor]:
    """Normalised images (N, C, H, W) and their classes (N)."""
    index = {name: number for number, name in enumerate(synsets.read_text().split())}
    transform, images, labels = evaluation_transform(config), [], []
    with tarfile.open(archive) as tar:
        for member in tar:
            names = [part for part in Path(member.name).parts if part in index]
            file = tar.extractfile(member) if member.isfile() and names else None
            if file is not None:
                images.append(transform(read_image(file.read())))
                labels.append(index[names[-1]])
    return torch.stack(images), torch.tensor(labels)


@torch.inference_mode()
def top1(model: supervit.SuperViT, images: Tensor, labels: Tensor, points: list[str], batch_size: int) -> dict[str, float]:
    """Percent of each point."""
    hits = dict.fromkeys(points, 0)
    for batch, right in zip(images.split(batch_size), labels.split(batch_size), strict=True):
        for point, logits in zip(points, model.forward_paths(batch, points), strict=True):
            hits[point] += int((logits.argmax(dim=1) == right).sum())
    return {point: 100 * count / len(labels) for point, count in hits.items()}


def main() -> None:
    """Measure, print, write JSON on request."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights")
    parser.add_argument("--tar", type=Path, required=True)
    parser.add_argument("--synsets", type=Path, required=True)
    parser.add_argument("--points", nargs="*", default=["14", "14@0.9", "14@0.8", "14@0.7", "14@0.5"])
    parser.add_argument("--norm", type=float, help="mean and std of every channel, where no file says them")
    parser.add_argument("--crop-pct", type=float, help="likewise, of evaluation")
    parser.add_argument("--batch-size", type=int, default=50)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    overrides: dict[str, Any] = {} if options.crop_pct is None else {"crop_pct": options.crop_pct}
    if options.norm is not None:
        overrides |= {"mean": (options.norm,) * 3, "std": (options.norm,) * 3}
    plain = supervit.load(options.weights, **overrides)
    images, labels = read_images(options.tar, options.synsets, plain.config)
    rows: list[dict[str, Any]] = []
    for name in plugin_names(supervit.reducers):
        reducer = load_reducer(name)
        if reducer.is_learned or reducer.keeps_aside:  # these need training, or another head
            continue
        config = plain.config.replace(reducer=name)
        model = supervit.SuperViT.of_weights(config, plain.state_dict(), options.weights)
        torch.manual_seed(0)
        found = top1(model, images, labels, options.points, options.batch_size)
        for point, percent in found.items():
            error = 100 * math.sqrt(percent / 100 * (1 - percent / 100) / len(labels))
            gmacs = executed_macs(config, point) / 1e9
            rows.append({"reducer": name, "point": point, "top1": percent, "standard_error": error, "executed_gmacs": gmacs})
            print(f"{name:20} {point:8} {percent:6.2f} +- {error:.2f} %  {gmacs:.3f} GMACs", flush=True)
    if options.out is not None:
        content = {"images": len(labels), "environment": environment(torch.device("cpu")), "rows": rows}
        options.out.write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    main()
