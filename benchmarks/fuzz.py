"""Malformed and odd input through every door: what comes out is an answer or a refusal in a line, in bounded time and memory.

Cases are made anew from their numbers (`tests/fuzz`), in processes of their own. What is counted goes into `--out`; while a run
lasts, each verdict goes into a file beside it, so that a run that is interrupted goes on. Exit status 1: there were faults.

    python benchmarks/fuzz.py --images 20000 --weights 2000 --json 2000 --tars 2000 --artefacts 500 --commands 500
    python benchmarks/fuzz.py --again images:1234 --keep faults
"""

import argparse
import contextlib
import importlib
import json
import os
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

ROOT = Path(__file__).resolve().parents[1]
KINDS = ("images", "weights", "json", "tars", "artefacts", "commands")


OFFLINE = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE")
IMPORTED = (
    "supervit.cli",
    "onnxruntime",
    "openvino",
    "datasets",
    "webdataset",
    "torch.export",
    "torch._dynamo",
    "matplotlib.pyplot",
)


def load_harness(work: Path, kinds: Sequence[str]) -> tuple[Any, Any]:
    """The module that runs cases, and all that those of these kinds damage, made in `work`."""
    for variable in (*OFFLINE, "OMP_NUM_THREADS", "MKL_NUM_THREADS"):  # processes are forked, which threads do not survive
        os.environ[variable] = "1"
    sys.path[:0] = [str(ROOT)]
    import torch

    torch.set_num_threads(1)
    children = importlib.import_module("tests.fuzz.children")
    for package in IMPORTED if {"json", "artefacts", "commands"} & {*kinds} else ():
        try:
            importlib.import_module(package)  # once, instead of in each process
        except ImportError:
            continue
    workshop = importlib.import_module("tests.fuzz.workshop").Workshop(work)
    work.mkdir(parents=True, exist_ok=True)
    with silence():
        _in_another_process(lambda: workshop.build(kinds), work / "error.txt")  # what runs a model there may leave threads
    workshop.build(kinds)
    with silence():  # of libtiff
        importlib.import_module("tests.fuzz.images").encoded()
    return children, workshop


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """Within, nothing is printed, not even by libraries in C."""
    kept, nowhere = [os.dup(descriptor) for descriptor in (1, 2)], os.open(os.devnull, os.O_WRONLY)
    try:
        for descriptor in (1, 2):
            os.dup2(nowhere, descriptor)
        yield
    finally:
        for descriptor, before in zip((1, 2), kept, strict=True):
            os.dup2(before, descriptor)
            os.close(before)
        os.close(nowhere)


def _in_another_process(work: Any, error: Path) -> None:
    process = os.fork()
    if process == 0:
        try:
            work()
        except BaseException:
            error.write_text(traceback.format_exc())
            os._exit(1)
        os._exit(0)
    if os.waitpid(process, 0)[1]:
        raise SystemExit(f"the files to be damaged could not be made: {error.read_text() if error.exists() else 'a crash'}")


def done_before(progress: Path, seed: int) -> list[dict[str, Any]]:
    """The verdicts of a run of this seed that was interrupted."""
    if not progress.exists():
        return []
    lines = [json.loads(line) for line in progress.read_text().splitlines() if line.endswith("}")]
    return lines[1:] if lines and lines[0] == {"seed": seed} else []


def cases_left(kind: str, count: int, verdicts: list[dict[str, Any]]) -> list[int]:
    """Numbers after the last one that was done."""
    return list(range(max((verdict["number"] for verdict in verdicts if verdict["kind"] == kind), default=-1) + 1, count))


def run_kind(kind: str, numbers: list[int], arguments: argparse.Namespace, harness: tuple[Any, Any]) -> Iterator[Any]:
    """Verdicts on cases of a kind, with a bar."""
    children, workshop = harness
    with tqdm(total=len(numbers), desc=f"{kind:9}", unit="case", mininterval=1, disable=None if numbers else True) as bar:
        faults = 0
        for verdict in children.run(kind, numbers, arguments.seed, workshop, arguments.keep):
            faults += verdict.is_fault
            bar.set_postfix(faults=faults, refresh=False)
            bar.update(max(verdict.number - (numbers[0] + bar.n) + 1, 0))
            yield verdict


def summary(verdicts: list[dict[str, Any]], counts: dict[str, int], seed: int, seconds: float) -> dict[str, Any]:
    """Outcomes by kind and door, the slowest and the hungriest inputs, and all faults."""
    import torch

    kinds = {}
    for kind in KINDS:
        mine = [verdict for verdict in verdicts if verdict["kind"] == kind]
        doors = {
            door: dict(Counter(v["outcome"] for v in mine if v["door"] == door)) for door in sorted({v["door"] for v in mine})
        }
        extremes = {
            f"most_{field}": [
                {name: v[name] for name in ("number", "what", "door", field)} for v in sorted(mine, key=lambda v: -v[field])[:5]
            ]
            for field in ("seconds", "mib")
        }
        outcomes = dict(Counter(v["outcome"] for v in mine))
        kinds[kind] = {"cases": counts[kind], "outcomes": outcomes, "doors": doors, **extremes}
    faults = [v for v in verdicts if v["outcome"] not in ("answered", "refused")]
    versions = {
        "python": sys.version.split()[0],
        "torch": torch.__version__,
        "pillow": importlib.import_module("PIL").__version__,
    }
    limits = {"seconds": 5, "mib": 600}
    return {"seed": seed, "limits": limits, "seconds": round(seconds), "versions": versions, "kinds": kinds, "faults": faults}


def again(text: str, arguments: argparse.Namespace, harness: tuple[Any, Any]) -> int:
    """Run one case and print its verdicts; 1 where one is a fault."""
    kind, _, number = text.partition(":")
    children, workshop = harness
    verdicts = list(children.run(kind, [int(number)], arguments.seed, workshop, arguments.keep))
    for verdict in verdicts:
        print(
            f"{verdict.what}\n{verdict.door}: {verdict.outcome} in {verdict.seconds} s, {verdict.mib} MiB\n{verdict.detail}\n"
        )
    return int(any(verdict.is_fault for verdict in verdicts))


def parse() -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for kind, count in zip(KINDS, (20000, 2000, 2000, 2000, 500, 500), strict=True):
        parser.add_argument(f"--{kind}", type=int, default=count, metavar="N", help=f"cases (default: {count})")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("fuzz.json"), help="where the figures go")
    parser.add_argument("--keep", type=Path, help="folder for the files of cases with faults")
    parser.add_argument("--work", type=Path, help="folder for what is damaged (default: a temporary one)")
    parser.add_argument("--again", metavar="KIND:NUMBER", help="run one case and say what came out")
    return parser.parse_args()


def main() -> int:
    """Run what is left, write the figures, say where the faults are."""
    arguments = parse()
    for name in ("out", "keep", "work"):
        if getattr(arguments, name) is not None:
            setattr(arguments, name, getattr(arguments, name).resolve())
    with tempfile.TemporaryDirectory(prefix="fuzz-") as temporary:
        counts = {kind: getattr(arguments, kind) for kind in KINDS}
        kinds = [arguments.again.partition(":")[0]] if arguments.again else [kind for kind in KINDS if counts[kind]]
        harness = load_harness(arguments.work or Path(temporary), kinds)
        if arguments.again:
            return again(arguments.again, arguments, harness)
        progress, began = arguments.out.with_suffix(".jsonl"), time.monotonic()
        verdicts = done_before(progress, arguments.seed)
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        with progress.open("a" if verdicts else "w") as file:
            if not verdicts:
                print(json.dumps({"seed": arguments.seed}), file=file, flush=True)
            for kind in KINDS:
                for verdict in run_kind(kind, cases_left(kind, counts[kind], verdicts), arguments, harness):
                    verdicts.append(verdict.to_dict())
                    print(json.dumps(verdicts[-1]), file=file, flush=True)
    found = summary(verdicts, counts, arguments.seed, time.monotonic() - began)
    arguments.out.write_text(json.dumps(found, indent=2) + "\n")
    progress.unlink()
    for kind, figures in found["kinds"].items():
        print(f"{kind:9} {figures['cases']:6} cases: {'  '.join(f'{name} {n}' for name, n in figures['outcomes'].items())}")
    print(f"{len(found['faults'])} faults; {arguments.out}")
    return int(bool(found["faults"]))


if __name__ == "__main__":
    sys.exit(main())
