"""Does speed follow cost? Every operating point of DeiT-S against timm's `deit_small_patch16_224`, same weights, same process.

The bar: the uncut 14x14 point at least 1.04 times as fast as timm (it computes 7 % less for the same output), each other
point at least 0.95 * (timm's MACs / its MACs) times. All models take turns, a batch each, in random order; reported is
the ratio of the medians, with the quartiles of the ratio within the turns as its spread.

    python benchmarks/speed_follows_cost.py --batch-size 16 --repeats 20 --threads 2
"""

import argparse
import random
import statistics
import tempfile
from pathlib import Path

import timm
import torch
from safetensors.torch import save_file

import supervit
from supervit import Complexity
from supervit.evaluate import environment, time_call
from supervit.files import write_json
from supervit.macs import macs


def main() -> None:
    """Measure, print the table, write it as JSON on request."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--warmup", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, help="write the results as JSON")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)

    reference = timm.create_model("deit_small_patch16_224").eval()
    with tempfile.TemporaryDirectory() as directory:
        save_file(reference.state_dict(), Path(directory) / "deit_small.safetensors")
        model = supervit.load(Path(directory) / "deit_small.safetensors")
    points = list(model.config.space)
    images = torch.randn(options.batch_size, 3, 224, 224)
    seconds: dict[str, list[float]] = {"timm": [], **{str(point): [] for point in points}}
    order = random.Random(0)
    with torch.inference_mode():
        difference = (model(images) - reference(images)).abs().max().item()
        for repeat in range(-options.warmup, options.repeats):
            for name in order.sample(list(seconds), len(seconds)):
                elapsed = time_call(reference, images) if name == "timm" else time_call(model, images, Complexity.of(name))
                if repeat >= 0:
                    seconds[name].append(elapsed)

    base, largest = macs(model.config, "14"), model.config.space.largest
    throughput_ips = options.batch_size / statistics.median(seconds["timm"])
    print(f"timm: {throughput_ips:.1f} images/s; largest difference of logits {difference:.1e}")
    print(f"{'point':>8} {'GMACs':>6} {'speed / timm':>12} {'quartiles':>15} {'bar':>6} {'speed / bar':>11}")
    rows = []
    for point in points:
        own = seconds[str(point)]
        ratio = statistics.median(seconds["timm"]) / statistics.median(own)
        low, _, high = statistics.quantiles([t / o for t, o in zip(seconds["timm"], own, strict=True)], n=4)
        bar = 1.04 if point == largest else 0.95 * base / macs(model.config, point)
        cost = macs(model.config, point)
        rows.append({"complexity": str(point), "macs": cost, "speed_over_timm": ratio, "quartiles": [low, high], "bar": bar})
        print(f"{point!s:>8} {cost / 1e9:6.3f} {ratio:12.2f} {low:7.2f}-{high:.2f} {bar:6.2f} {ratio / bar:11.2f}")
    if options.out is not None:
        settings = {"batch_size": options.batch_size, "repeats": options.repeats, "precision": "float32", "mode": "eager"}
        write_json(options.out, {**settings, **environment(torch.device("cpu")), "results": rows})


if __name__ == "__main__":
    main()
