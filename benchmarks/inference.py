"""How fast every operating point is in every runtime and precision, as a ratio to timm's model with the same weights.

Measured per runtime, precision and batch size: timm's eager float32 over ours, for each operating point and for token
merging (ToMe) at some r; what alternating between the dearest and the cheapest point costs over running each alone; and
which point is slower than a dearer one: in at least three quarters of the turns, its lower quartile of seconds over the
other's, turn by turn, being above 1. Weights, images and the calibration of int8 are random: they decide no speed.

Threads of one runtime wait actively and disturb the next, so each runtime has a block of its own in which timm is measured
again, and is closed after it. In a block all ways take turns, in random order; before each timed call there is a pause
(CPU) and a call of the same way that does not count, so that nothing is left of the way before. That is a server that waits
for requests; `--settle 5` lets five calls run into each timed one, as under load, where caches, clock and threads are warm.
Reported is the ratio of the medians, with the quartiles of the ratio within the turns. Our times include resizing the images.

On a GPU images and logits stay there, timm's model compiled in bfloat16 is a second reference, and executed FLOP/s are
given as a share of what a large matrix product reaches in the same precision (float32: without TF32).

    python benchmarks/inference.py --threads 2 --out inference.json
    python benchmarks/inference.py --model deit_tiny --points 14 8@0.5 --runtimes eager:float32 openvino:int8 --merge 8
    python benchmarks/inference.py --device cuda --repeats 30 --out inference_gpu.json
"""

import argparse
import copy
import functools
import gc
import itertools
import os
import random
import shlex
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors.torch import save_file
from torch import Tensor

import supervit
from supervit import Complexity, SuperViT, SuperViTConfig
from supervit.evaluate import device_name, environment, time_call
from supervit.files import write_json
from supervit.macs import executed_macs, macs
from supervit.runtimes import Availability, Precision, RuntimeConfig, available_runtimes, open_runtime, pick_device

Run = Callable[[Tensor], Any]
Seconds = dict[str, list[float]]

TIMM = "timm eager float32"
TIMM_COMPILED = "timm compiled bfloat16"
DTYPES: dict[Precision, torch.dtype] = {"float32": torch.float32, "bfloat16": torch.bfloat16}
ALTERNATING_ROUNDS = 3  # timed calls in a row of each point, alone and alternating
PAUSE_S = 0.1  # ONNX Runtime's threads spin for some 50 ms after a call


@dataclass(frozen=True)
class Way:
    """One thing that is timed, and its MACs per image."""

    run: Run
    macs: int
    executed_macs: int


@dataclass(frozen=True)
class Block:
    """What is measured together: the operating points of one runtime, or token merging at several r."""

    name: str
    precision: Precision
    open: Callable[[], dict[str, Way]]
    model: SuperViT | None = None
    """Whose operating points these are."""


class Timer:
    """Times calls in turns, each after a pause and calls that do not count."""

    def __init__(self, repeats: int, warmup: int, settle: int, pause_s: float, seed: int):
        self.repeats = repeats
        self.warmup = warmup
        self.settle = settle
        self.pause_s = pause_s
        self.order = random.Random(seed)

    @torch.inference_mode()
    def take_turns(self, ways: dict[str, Run], images: Tensor) -> Seconds:
        """Seconds of one call of each way in each turn."""
        runs = {name: [run] for name, run in ways.items()}
        seconds: Seconds = {name: [] for name in ways}
        for turn in range(-self.warmup, self.repeats):
            for name in self.order.sample(list(runs), len(runs)):
                elapsed = self._time_rounds(runs[name], images, rounds=1)
                if turn >= 0:
                    seconds[name] += elapsed
        return seconds

    @torch.inference_mode()
    def alternate(self, first: Run, second: Run, images: Tensor) -> dict[str, Any]:
        """What alternating between two ways costs over running some calls of one, then some of the other."""
        runs = {"first": [first], "second": [second], "alternating": [first, second]}
        turns: dict[str, list[list[float]]] = {name: [] for name in runs}
        for _ in range(max(2, self.repeats // 2)):
            for name in self.order.sample(list(runs), len(runs)):
                turns[name].append(self._time_rounds(runs[name], images, ALTERNATING_ROUNDS))
        alone_s = sum(statistics.median(itertools.chain(*turns[name])) for name in ("first", "second"))
        alternating_s = statistics.median(itertools.chain(*turns["alternating"]))
        medians = ([statistics.median(rounds) for rounds in turns[name]] for name in runs)
        shares = [100 * (both / (one + other) - 1) for one, other, both in zip(*medians, strict=True)]
        return {
            "alone_ms": 1e3 * alone_s,
            "alternating_ms": 1e3 * alternating_s,
            "overhead_percent": 100 * (alternating_s / alone_s - 1),
            "quartiles_percent": quartiles(shares),
        }

    def _time_rounds(self, runs: Sequence[Run], images: Tensor, rounds: int) -> list[float]:
        """Seconds of each of some rounds, in which all runs are called once; those before them do not count."""
        time.sleep(self.pause_s)
        return [sum(time_call(run, images) for run in runs) for _ in range(self.settle + rounds)][self.settle :]


def quartiles(values: Sequence[float]) -> list[float]:
    """Lower and upper quartile."""
    low, _, high = statistics.quantiles(values, n=4)
    return [low, high]


def compare(slow: Sequence[float], fast: Sequence[float]) -> dict[str, Any]:
    """The ratio of the medians, and the quartiles of the ratio within the turns."""
    within = [s / f for s, f in zip(slow, fast, strict=True)]
    return {"ratio": statistics.median(slow) / statistics.median(fast), "quartiles": quartiles(within)}


def slower_although_cheaper(seconds: Seconds, ways: dict[str, Way]) -> list[dict[str, Any]]:
    """Pairs in which the way that executes less takes longer in at least three quarters of the turns."""
    found = []
    for cheap, dear in itertools.permutations(ways, 2):
        slowdown = compare(seconds[cheap], seconds[dear])
        if ways[cheap].executed_macs < ways[dear].executed_macs and slowdown["quartiles"][0] > 1:
            found.append({"cheaper": cheap, "dearer": dear, **slowdown})
    return found


def matmul_peak(device: torch.device, precision: Precision, side: int = 8192) -> float:
    """FLOP/s of a large square matrix product."""
    matrix = torch.randn(side, side, device=device, dtype=DTYPES[precision])
    seconds = [time_call(torch.mm, matrix, matrix) for _ in range(23)]
    return 2 * side**3 / statistics.median(seconds[3:])


def same_models(name: str) -> tuple[Any, SuperViT]:
    """Timm's model and ours with the same random weights."""
    reference = timm.create_model(f"{name}_patch16_224").eval()
    with tempfile.TemporaryDirectory() as directory:
        save_file(reference.state_dict(), Path(directory) / f"{name}.safetensors")
        return reference, supervit.load(Path(directory) / f"{name}.safetensors")


def casting_run(model: Any, precision: Precision) -> Run:
    """The model run on float32 images in a precision that it has already."""
    return lambda images: model(images.to(DTYPES[precision]))


def runtime_ways(
    model: SuperViT, points: Sequence[str], name: str, precision: Precision, options: argparse.Namespace
) -> dict[str, Way]:
    """The operating points in a runtime."""
    config = model.config
    shape = (options.calibration_images, config.in_chans, *config.pixels(config.grid_sizes[-1]))
    calibration = torch.randn(shape) if precision == "int8" else None
    runtime = open_runtime(name, model, RuntimeConfig(options.device, precision, options.threads, calibration))

    runs = {point: functools.partial(runtime.logits, complexity=Complexity.of(point)) for point in points}
    return {point: Way(run, macs(config, point), executed_macs(config, point)) for point, run in runs.items()}


def merging_point(config: SuperViTConfig, count: int) -> Complexity:
    """The operating point of the largest grid at which each block merges `count` tokens, as long as there are as many."""
    tokens, rates = config.space.largest.num_patches + config.num_prefix_tokens, []
    for _ in range(config.depth):
        merged = min(count, (tokens - config.num_prefix_tokens) // 2)
        rates.append((tokens - merged) / tokens)
        tokens -= merged
    return Complexity(config.grid_sizes[-1], tuple(rates))


def merging_ways(
    model: SuperViT, counts: Sequence[int], name: str, precision: Precision, options: argparse.Namespace
) -> dict[str, Way]:
    """The model with token merging (ToMe) in each block instead of dropping."""
    config = model.config.replace(reducer="tome", drop_blocks=tuple(range(model.config.depth)))
    merging = SuperViT.of_weights(config, model.state_dict(), "the model")
    points = {f"r={count}": str(merging_point(config, count)) for count in counts}
    ways = runtime_ways(merging, list(points.values()), name, precision, options)
    return {text: ways[point] for text, point in points.items()}


def blocks_of(
    model: SuperViT, runtimes: Sequence[Availability], points: Sequence[str], options: argparse.Namespace
) -> Iterator[Block]:
    """Everything to measure."""
    for each in runtimes:
        opening = functools.partial(runtime_ways, model, points, each.name, each.precision, options)
        yield Block(each.name, each.precision, opening, model)
    if options.merge:
        forms: list[tuple[str, Precision]] = [("eager", "float32")]
        if options.device == "cuda":
            forms.append(("compiled", "bfloat16"))
        for name, precision in forms:
            opening = functools.partial(merging_ways, model, options.merge, name, precision, options)
            yield Block(f"merging {name}", precision, opening)


def measure_block(
    block: Block, references: dict[str, Run], batches: Sequence[Tensor], timer: Timer, peaks: dict[Precision, float]
) -> list[dict[str, Any]]:
    """One result per batch size; what was opened for them is gone afterwards."""
    ways = block.open()
    by_cost = sorted(ways, key=lambda name: ways[name].executed_macs)
    cheapest, dearest = by_cost[0], by_cost[-1]
    head: dict[str, Any] = {"runtime": block.name, "precision": block.precision}
    if block.model is not None:
        images = batches[0][:2]
        with torch.inference_mode():
            difference = ways[dearest].run(images).float().cpu() - block.model(images.cpu(), dearest)
        head["difference_from_eager"] = difference.abs().max().item()
    results = []
    for images in batches:
        seconds = timer.take_turns(references | {name: way.run for name, way in ways.items()}, images)
        rows = []
        for name, way in ways.items():
            median_s = statistics.median(seconds[name])
            images_per_s = len(images) / median_s
            row: dict[str, Any] = {"way": name, "macs": way.macs, "executed_macs": way.executed_macs}
            row |= {"median_ms": 1e3 * median_s, "images_per_s": images_per_s}
            row["speed_over"] = {reference: compare(seconds[reference], seconds[name]) for reference in references}
            if block.precision in peaks:
                row["share_of_peak"] = 2 * way.executed_macs * images_per_s / peaks[block.precision]
            rows.append(row)
        timm_ms = {name: 1e3 * statistics.median(seconds[name]) for name in references}
        result = head | {"batch_size": len(images), "timm_ms": timm_ms, "rows": rows}
        result["slower_although_cheaper"] = slower_although_cheaper(seconds, ways)
        if block.model is not None and cheapest != dearest:
            result["alternating"] = timer.alternate(ways[dearest].run, ways[cheapest].run, images)
        results.append(result)
    return results


def close_block() -> None:
    """Free what a block left: sessions and their threads, memory, compiled code, which counts towards a limit."""
    gc.collect()
    torch.compiler.reset()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def print_results(results: Sequence[dict[str, Any]]) -> None:
    """A table per batch size, then what else was found."""
    for batch_size in dict.fromkeys(result["batch_size"] for result in results):
        title = f"{'runtime':>16} {'precision':>9} {'way':>7} {'GMACs':>6} {'ms':>8} {'images/s':>9}"
        print(f"\nbatch {batch_size}\n{title}  speed over {TIMM} (quartiles)")
        for result in (result for result in results if result["batch_size"] == batch_size):
            start = f"{result['runtime']:>16} {result['precision']:>9}"
            for name, median_ms in result["timm_ms"].items():
                print(f"{start} {'timm':>7} {'':6} {median_ms:8.2f} {1e3 * batch_size / median_ms:9.1f}  {name}")
            for row in result["rows"]:
                print(start, describe_row(row))
            for pair in result["slower_although_cheaper"]:
                print(f"{start} {pair['cheaper']} is cheaper than {pair['dearer']} and takes {pair['ratio']:.2f} times as long")
            if both := result.get("alternating"):
                low, high = both["quartiles_percent"]
                share = f"{both['overhead_percent']:+.1f} % (quartiles {low:+.1f} ... {high:+.1f})"
                print(f"{start} alternating between dearest and cheapest: {share} of {both['alone_ms']:.2f} ms")


def describe_row(row: dict[str, Any]) -> str:
    """A line of the table."""
    speed = row["speed_over"][TIMM]
    line = f"{row['way']:>7} {row['executed_macs'] / 1e9:6.3f} {row['median_ms']:8.2f} {row['images_per_s']:9.1f}"
    line += f" {speed['ratio']:6.2f} ({speed['quartiles'][0]:.2f}-{speed['quartiles'][1]:.2f})"
    if other := row["speed_over"].get(TIMM_COMPILED):
        line += f", over {TIMM_COMPILED} {other['ratio']:.2f} ({other['quartiles'][0]:.2f}-{other['quartiles'][1]:.2f})"
    return line + (f", {100 * row['share_of_peak']:.1f} % of peak" if "share_of_peak" in row else "")


def parse_options() -> argparse.Namespace:
    """The command line, with the defaults that depend on the device filled in."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=["deit_tiny", "deit_small", "deit_base"], default="deit_small")
    parser.add_argument("--batch-sizes", type=int, nargs="+", help="default: 16 1; on a GPU 512 64 1")
    parser.add_argument("--repeats", type=int, default=10, help="turns; alternating takes half as many")
    parser.add_argument("--warmup", type=int, default=2, help="turns before those")
    parser.add_argument("--settle", type=int, default=1, help="calls in a row before a timed one")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--points", nargs="+", help="operating points; default: the menu")
    parser.add_argument("--runtimes", nargs="*", help="such as eager:float32 openvino:int8; default: all that run here")
    parser.add_argument("--merge", type=int, nargs="*", default=[8, 13, 16], help="tokens that token merging merges per block")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--calibration-images", type=int, default=24, help="random images that int8 is calibrated on")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="write the results as JSON")
    options = parser.parse_args()
    options.batch_sizes = options.batch_sizes or ([512, 64, 1] if options.device == "cuda" else [16, 1])
    found = available_runtimes(options.device)
    known = {f"{each.name}:{each.precision}": each for each in found}
    if unknown := set(options.runtimes or []) - set(known):
        parser.error(f"unknown --runtimes {' '.join(sorted(unknown))}; use some of {' '.join(known)}")
    if options.repeats < 2 or options.warmup < 0 or options.settle < 1 or min(options.batch_sizes) < 1:
        parser.error("--repeats must be at least 2, --warmup 0, --settle and --batch-sizes 1")
    options.runtimes = found if options.runtimes is None else [known[name] for name in dict.fromkeys(options.runtimes)]
    return options


def describe_setup(options: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """How and on what is measured."""
    return {
        "command": shlex.join(["python", *sys.argv]),
        **{name: getattr(options, name) for name in ("model", "repeats", "warmup", "settle", "seed")},
        **environment(device),
        "host": device_name(torch.device("cpu")),
        "cores_usable": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "unavailable": {f"{each.name}:{each.precision}": each.obstacle for each in options.runtimes if each.obstacle},
    }


def main() -> None:
    """Measure, print the tables, write them as JSON on request."""
    options = parse_options()
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    torch._dynamo.config.recompile_limit = 64  # token merging at several r needs more graphs of a block than 8
    device = pick_device(options.device)
    found = describe_setup(options, device)
    for name, obstacle in found["unavailable"].items():
        print(f"{name} cannot run here: {obstacle}")
    peaks = {precision: matmul_peak(device, precision) for precision in DTYPES} if device.type == "cuda" else {}
    for precision, flops in peaks.items():
        print(f"a matrix product reaches {flops / 1e12:.1f} TFLOP/s in {precision}")

    reference, model = same_models(options.model)
    size = model.config.pixels(model.config.grid_sizes[-1])
    batches = [torch.randn(count, 3, *size, device=device) for count in dict.fromkeys(options.batch_sizes)]
    points = [str(Complexity.of(point)) for point in options.points or model.config.space]
    with torch.inference_mode():
        difference = (model(batches[0][:2].cpu()) - reference(batches[0][:2].cpu())).abs().max().item()
    print(f"uncut, the logits differ from timm's by {difference:.1e}")
    found |= {"matmul_peak_flops": peaks, "difference_from_timm": difference}
    references: dict[str, Run] = {TIMM: reference.to(device)}
    if device.type == "cuda":
        compiled = torch.compile(copy.deepcopy(reference).bfloat16(), dynamic=False, fullgraph=True)  # for each batch size
        references[TIMM_COMPILED] = casting_run(compiled, "bfloat16")

    pause_s = 0 if device.type == "cuda" else PAUSE_S
    timer = Timer(options.repeats, options.warmup, options.settle, pause_s, options.seed)
    results = []
    able = [each for each in options.runtimes if each.obstacle is None]
    for block in blocks_of(model, able, points, options):
        start = time.perf_counter()
        results += measure_block(block, references, batches, timer, peaks)
        close_block()
        print(f"{block.name} {block.precision}: {time.perf_counter() - start:.0f} s", flush=True)
        if options.out is not None:  # after each block, so that a run that is cut short leaves what it has
            write_json(options.out, {**found, "results": results})
    print_results(results)


if __name__ == "__main__":
    main()
