"""Does the training paradigm do what the paper says? Table 3 and Figure 4 in small, on 20,000 images of Fashion-MNIST.

`python benchmarks/paradigm.py --root FASHION_MNIST --out RUNS` trains, one after the other and at equal epochs: one SuperViT;
its twelve twins, each trained alone at one operating point; and the ablations: grid sizes only, keep rates only, labels
everywhere, all twelve paths in each step; moreover our variants (antialiased resize, the largest grid as teacher). Runs that
are finished already are not repeated, and one that was interrupted goes on. Prints the tables, writes `paradigm.json`.
"""

import argparse
import json
import resource
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from supervit.evaluate import environment
from supervit.recipes import load_recipe
from supervit.train import TrainConfig, run_training


def runs(base: TrainConfig) -> Iterator[tuple[str, TrainConfig]]:
    """The experiments by name, those first that the tables need most."""
    model = base.model
    yield "supervit", base
    for point in model.space:
        yield f"alone {point}", replace(base, paths=(str(point),), teacher="labels")
    yield "cross-entropy everywhere", replace(base, teacher="labels")
    yield "sizes only", replace(base, model=model.replace(keep_rates=(1.0,)))
    yield "rates only", replace(base, model=model.replace(grid_sizes=model.grid_sizes[-1:]))
    yield "all paths", replace(base, paths=("all",))
    yield "ours: larger grid teaches", replace(base, teacher="larger_grid")
    yield "ours: antialiased resize", replace(base, model=model.replace(resize="antialias"))


def measure(config: TrainConfig) -> dict[str, Any]:
    """Top-1 at each operating point, and what the training took; read where the run is finished already."""
    path = config.out / "measured.json"
    if path.exists():
        stored: dict[str, Any] = json.loads(path.read_text())
        return stored
    wall, cpu = time.perf_counter(), _cpu_s()
    results = run_training(config)
    measured = {
        "top1": {str(result.complexity): result.top1 for result in results},
        "wall_s": time.perf_counter() - wall,
        "cpu_s": _cpu_s() - cpu,
    }
    path.write_text(json.dumps(measured, indent=2) + "\n")
    return measured


def _cpu_s() -> float:
    """Processor time of this process and its workers: unlike wall time hardly disturbed by what else the machine does."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def table(measured: dict[str, list[dict[str, Any]]], points: list[str]) -> str:
    """Mean top-1 over the seeds: a row for each operating point, a column for each way of training."""
    means = {name: _means([run["top1"] for run in seeds]) for name, seeds in measured.items()}
    alone = {point: means[f"alone {point}"][point] for point in points if f"alone {point}" in means}
    columns = {name: values for name, values in means.items() if not name.startswith("alone")}
    lines = [" | ".join(["point", "trained alone", *columns, "gain over alone"])]
    for point in points:
        cells = [alone.get(point), *(values.get(point) for values in columns.values())]
        gain = means["supervit"][point] - alone[point] if point in alone else None
        lines.append(" | ".join([point, *("" if cell is None else f"{cell:.2f}" for cell in (*cells, gain))]))
    costs = {name: sum(run["cpu_s"] for run in seeds) / len(seeds) for name, seeds in measured.items()}
    together = sum(cost for name, cost in costs.items() if name.startswith("alone"))
    shown = {name: cost for name, cost in costs.items() if not name.startswith("alone")}
    lines.append(" | ".join(["CPU s", f"{together:.0f}", *(f"{cost:.0f}" for cost in shown.values()), ""]))
    return "\n".join(lines)


def _means(seeds: list[dict[str, float]]) -> dict[str, float]:
    return {point: sum(top1[point] for top1 in seeds) / len(seeds) for point in seeds[0]}


def main() -> None:
    """Run what is left, print the table after each run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True, help="folder with the four files of Fashion-MNIST")
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    recipe = load_recipe("fashion_mnist")
    base = replace(recipe, data=replace(recipe.data, root=options.root, workers=options.workers), epochs=options.epochs)
    base = replace(base, eval_every=options.epochs, throughput_repeats=0, plot=False, resume=True)
    points = [str(point) for point in base.model.space]
    measured: dict[str, list[dict[str, Any]]] = {}
    for seed in options.seeds:
        for name, config in runs(base):
            folder = options.out / f"seed{seed}" / name.replace(" ", "-").replace(":", "")
            measured.setdefault(name, []).append(measure(replace(config, seed=seed, out=folder)))
            print(f"\n{name} (seed {seed})\n{table(measured, points)}", flush=True)
            report = {"command": vars(options) | {"root": "", "out": ""}, **environment(torch.device("cpu")), "runs": measured}
            (options.out / "paradigm.json").write_text(json.dumps(report, indent=1, default=str) + "\n")


if __name__ == "__main__":
    main()
