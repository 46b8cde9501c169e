"""Two checkouts of this package, point by point, in turns: what a change did to the time of a forward pass.

Each checkout runs in a process of its own; they take turns call by call, so that what else the machine does meets both alike.

    git worktree add ../before COMMIT
    python benchmarks/compare_checkouts.py ../before . --out docs/results/compare_checkouts.json
"""

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

_WORKER = """
import sys, time, torch
torch.set_num_threads(int(sys.argv[1]))
import supervit
torch.manual_seed(0)
model, sizes = supervit.create_model("deit_small").eval(), {}
for line in sys.stdin:
    point, batch = line.split()
    images = sizes.setdefault(batch, torch.randn(int(batch), 3, 224, 224))
    with torch.inference_mode():
        begin = time.perf_counter()
        model(images, point)
        print(time.perf_counter() - begin, flush=True)
"""


def worker(checkout: Path, threads: int) -> "subprocess.Popen[str]":
    """A process that times single calls of a checkout."""
    environment = {**os.environ, "PYTHONPATH": str(checkout.resolve() / "src")}
    command = [sys.executable, "-c", _WORKER, str(threads)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)


def time_one(process: "subprocess.Popen[str]", point: str, batch_size: int) -> float:
    """Seconds of one call."""
    assert process.stdin is not None
    assert process.stdout is not None
    print(point, batch_size, file=process.stdin, flush=True)
    return float(process.stdout.readline())


def compare(options: argparse.Namespace) -> list[dict[str, Any]]:
    """A row for each batch size and point: medians of both, and the median of the ratios of neighbouring calls."""
    processes = [worker(checkout, options.threads) for checkout in (options.before, options.after)]
    rows, order = [], random.Random(0)
    for batch_size in options.batch_sizes:
        seconds: dict[str, list[list[float]]] = {point: [[], []] for point in options.points}
        for repeat in range(-2, options.repeats):
            for point in order.sample(options.points, len(options.points)):
                for which in order.sample([0, 1], 2):
                    elapsed = time_one(processes[which], point, batch_size)
                    if repeat >= 0:
                        seconds[point][which].append(elapsed)
        for point, (before, after) in seconds.items():
            ratio = statistics.median(b / a for a, b in zip(before, after, strict=True))
            medians = {"before_ms": 1e3 * statistics.median(before), "after_ms": 1e3 * statistics.median(after)}
            rows.append({"batch_size": batch_size, "point": point, **medians, "after_over_before": ratio})
            print(
                f"{batch_size:3} {point:7} {medians['before_ms']:8.2f} {medians['after_ms']:8.2f} ms  {ratio:.3f}", flush=True
            )
    return rows


def main() -> None:
    """Compare, print, write JSON on request."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    parser.add_argument("--points", nargs="*", default=[f"{g}{r}" for g in (8, 10, 12, 14) for r in ("@0.5", "@0.7", "")])
    parser.add_argument("--batch-sizes", nargs="*", type=int, default=[1, 16])
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    rows = compare(options)
    if options.out is not None:
        options.out.write_text(
            json.dumps({"threads": options.threads, "repeats": options.repeats, "rows": rows}, indent=2) + "\n"
        )


if __name__ == "__main__":
    main()
