"""What early exit is worth on images that had no part in its choice: accuracy and cost over many halves, and wall time.

One pass over labelled images gives what every operating point says of each. Then, for several random halves: cascades are
chosen by one half for the accuracy of the dearest operating point there, and the other half says what they are worth:

- `mean`, `last`: the rungs climbed answer together, or the last one alone (`supervit cascade --answer`);
- `paper's pair`: the paper's two operating points, at the thresholds that get nearest to that accuracy;
- `at the pair's cost`: the most accurate cascade (`mean`) that costs no more than the pair there.

Reported are top-1 against the dearest operating point and executed MACs over its own, both on the other half: means over the
halves and standard deviations. With `--timed` the first half's cascade, its pair and the dearest operating point also run, in
turns, over that many of its held-out images in memory: how many times as fast as the dearest they are.

    python benchmarks/early_exit.py MODEL --root DATA --out early_exit.json
"""

import argparse
import statistics
from collections.abc import Mapping
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

from torch import Tensor

import supervit
from supervit.calibrate import (
    Calibrated,
    MeanAnswers,
    calibrate,
    collect_answers,
    halves,
    paper_ladder,
    pick_cascade,
)
from supervit.cascade import climb_macs
from supervit.cost_table import Setup
from supervit.data import EpochLoader, SourceConfig, draw_images, open_dataset
from supervit.files import write_json
from supervit.options import SAFETY, Confidence, Precision
from supervit.profiling import measure_ladders
from supervit.report import aligned_table
from supervit.runtimes import Runtime, RuntimeConfig, open_runtime


def choose_cascades(answers: MeanAnswers, runtime: Runtime, seed: int, safety: float) -> dict[str, Calibrated]:
    """The dearest operating point and the cascades of the docstring above, chosen by one half."""
    climb = partial(climb_macs, runtime.model_config, shares_prefixes=runtime.shares_prefixes)
    search, last = partial(calibrate, climb=climb, seed=seed), answers.last()
    (dearest,) = search(last, ladders=[[max(answers.points, key=lambda point: climb([point])[0])]])
    target_top1 = dearest.calibration.top1
    curve, pairs = search(answers), search(last, ladders=[paper_ladder(runtime.model_config.space)])
    pair = next((each for each in pairs if each.calibration.top1 >= target_top1), pairs[-1])
    return {
        "dearest": dearest,
        "mean": pick_cascade(curve, target_top1, safety=safety),
        "last": pick_cascade(search(last), target_top1, safety=safety),
        "paper's pair": pair,
        "at the pair's cost": pick_cascade(curve, target_macs=pair.calibration.mean_macs),
    }


def compare(found: Mapping[str, Calibrated]) -> dict[str, dict[str, Any]]:
    """Every cascade against the dearest operating point, on held-out images."""
    dearest = found["dearest"].held_out
    return {
        name: {
            "top1_change": each.held_out.top1 - dearest.top1,
            "cost": each.held_out.mean_macs / dearest.mean_macs,
            "rungs": " ".join(map(str, each.ladder.rungs)),
        }
        for name, each in found.items()
        if name != "dearest"
    }


def summarise(draws: list[dict[str, dict[str, Any]]]) -> dict[str, dict[str, float]]:
    """Means over the halves, and standard deviations."""
    rows = {}
    for name in draws[0]:
        changes, costs = ([draw[name][key] for draw in draws] for key in ("top1_change", "cost"))
        rows[name] = {
            "top1_change": statistics.mean(changes), "top1_change_sd": statistics.stdev(changes),
            "cost": statistics.mean(costs), "cost_sd": statistics.stdev(costs),
        }  # fmt: skip
    return rows


def time_cascades(found: Mapping[str, Calibrated], runtime: Runtime, images: Tensor, batch_size: int) -> dict[str, Any]:
    """Images per second of the cascades over images (N, C, S, S) that had no part in their choice."""
    ladders = {name: found[name].ladder for name in ("dearest", "mean", "paper's pair")}
    throughputs = measure_ladders(runtime, list(ladders.values()), images, batch_size)
    rows = {}
    for name, ladder in ladders.items():
        throughput_ips = throughputs[ladder]
        speedup = throughput_ips / throughputs[ladders["dearest"]]
        rows[name] = {**ladder.to_dict(), "throughput_ips": throughput_ips, "speedup": speedup}
    return {"images": len(images), "batch_size": batch_size, "ladders": rows}


def main() -> None:
    """Measure, print the tables, write them as JSON on request."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="whatever supervit.load takes")
    parser.add_argument("--root", type=Path, required=True, help="image folder with val/CLASS/*")
    parser.add_argument("--class-list", type=Path, help="class folders in the model's order")
    parser.add_argument("--images", type=int, default=10_000, help="random ones of those")
    parser.add_argument("--halves", type=int, default=10)
    parser.add_argument("--safety", type=float, default=SAFETY)
    parser.add_argument("--confidences", nargs="+", default=["probability", "margin"])
    parser.add_argument("--runtime", default="eager")
    parser.add_argument("--precision", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--timed", type=int, default=1024, help="images whose time is measured; 0 for none")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="write the results as JSON")
    options = parser.parse_args()
    if options.halves < 2 or options.timed < 0:
        parser.error("--halves must be at least 2, --timed 0")
    config = RuntimeConfig(precision=cast(Precision, options.precision), threads=options.threads)
    runtime = open_runtime(options.runtime, supervit.load(options.model), config)
    source = SourceConfig(root=options.root, class_list=options.class_list, batch_size=options.batch_size)
    loader = EpochLoader(open_dataset(source, "val", runtime.model_config), source.batch_size, source.workers)
    images, labels = draw_images(loader, options.images, options.seed)
    batches = zip(images.split(options.batch_size), labels.split(options.batch_size), strict=True)
    answers = collect_answers(runtime, batches)
    images = images[halves(len(images), options.seed)[1][: options.timed]]
    report: dict[str, Any] = {"images": len(answers), "halves": options.halves, "safety": options.safety}
    report |= {"setup": asdict(Setup.of(runtime)), "confidences": {}}
    for confidence in cast(list[Confidence], options.confidences):
        here = replace(answers, confidence=confidence)
        found = [choose_cascades(here, runtime, options.seed + draw, options.safety) for draw in range(options.halves)]
        draws = [compare(each) for each in found]
        rows = summarise(draws)
        report["confidences"][confidence] = {"means": rows, "draws": draws}
        cells = [["cascade", "top-1 change", "(sd)", "cost", "(sd)"]]
        cells += [
            [name, *(f"{value:{'+' if key == 'top1_change' else ''}.3f}" for key, value in row.items())]
            for name, row in rows.items()
        ]
        print(f"confidence by {confidence}, {options.halves} halves of {len(answers) // 2} images\n\n{aligned_table(cells)}")
        if options.timed:
            timed = time_cascades(found[0], runtime, images, options.batch_size)
            report["confidences"][confidence]["timed"] = timed
            for name, row in timed["ladders"].items():
                print(f"{name}: {' '.join(map(str, row['rungs']))}, {row['throughput_ips']:.1f} images/s, {row['speedup']:.2f}")
            print()
        if options.out is not None:
            write_json(options.out, report)


if __name__ == "__main__":
    main()
