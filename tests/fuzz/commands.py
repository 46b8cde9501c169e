"""Command lines: every command and flag, with values that nobody expects; on small models and data, so as to be fast."""

import contextlib
import io
import json
import os
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from random import Random

from tests.fuzz.mutations import ODD_TEXTS, as_json, mutated, mutated_value
from tests.fuzz.workshop import Door, Workshop, picture_bytes

FLAGS = Path(__file__).parents[1] / "integration" / "cli_flags.txt"
_COUNTS = ("-1", "0", "1", "2", "1.5", "x", "")  # of work: what is asked for many times takes long, and rightly so
_NUMBERS = (
    "-1",
    "0",
    "1",
    "3",
    "1e-9",
    "0.5",
    "nan",
    "inf",
    "-inf",
    "1e400",
    "10000000",
    "99999999999999999999",
    "1_0",
    "٤",
    "",
)
_WORK = (
    "epochs", "repeats", "warmup", "images", "every", "cooldown", "timed", "max-rungs", "minutes", "micro-batches", "workers",
    "bins",
    "top-k", "limit", "grid-checkpointing",
)  # fmt: skip
_YAML = b"""epochs: 1
lr: 1.0e-3
precision: float32
paths: ["4"]
model: {embed_dim: 24, num_heads: 3, depth: 2}
data:
  batch_size: 4
  scale: [0.5, 1.0]
"""
_ODD_YAML = (
    b"", b"- 1", b"a: &a [*a]",
    b"a: &a [x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b]\nd: [*c,*c,*c,*c,*c,*c]",
    b"!!python/object/apply:os.mkdir [executed]", b"lr: .nan", b"lr: 1e-3", b"{" * 5000, b"epochs: 2001-01-01", b"? [a]\n: b",
    b"a: b: c",
    b"epochs: 1\nepochs: 2", b"\xff\xfe", b"lr: 0x10", b"1: 2", b"epochs: yes", b"model:", b"model.depth: 2", b"--- 1\n--- 2",
    b"%TAG ! x",
)  # fmt: skip
# The network, other programs, a compiler, or processes that outlive the case.
_LEFT_OUT = ("download", "repository", "wandb", "tensorboard", "compile", "workers", "token", "teacher", "trust", "help")


class Refused(Exception):
    """A command said in one line why it does not do it."""


def make(rng: Random, folder: Path, workshop: Workshop) -> tuple[str, list[Door]]:
    """The command line, and the door to try."""
    (folder / "cat.jpg").write_bytes(picture_bytes())
    (folder / "bad.jpg").write_bytes(picture_bytes()[:300])
    (folder / "text.txt").write_text("no image\n")
    os.mkfifo(folder / "pipe")
    os.mkfifo(folder / "pipe.yaml")
    told = json.loads((workshop.run_folder / "train_config.json").read_text())
    (folder / "run.json").write_bytes(as_json(mutated_value(told, rng), rng))
    (folder / "run.yaml").write_bytes(mutated(_YAML, rng) if rng.random() < 0.5 else rng.choice(_ODD_YAML))
    name, arguments = rng.choice(templates(workshop))
    arguments, is_right = list(arguments), name not in ("runtimes", "label") and not {"bad.jpg", "text.txt"} & {*arguments}
    values = _values(workshop)
    for _ in range(rng.choice((0, 1, 1, 1, 2, 3))):
        _change(name, arguments, rng, values)
    line = [name, *arguments] if rng.random() < 0.97 else rng.choice(_ODD_LINES)
    is_right = is_right and (name, tuple(line[1:])) in templates(workshop)
    said = shlex.join(line).replace(str(workshop.root), "WORK")
    return f"{'right: ' * is_right}{said[:300]}", [(f"supervit {name}", lambda: run(line))]


_ODD_LINES = (
    [], [""], ["--version"], ["-h"], ["--help"], ["trian"], ["train"], ["train", "--list"], ["train", "--help"], ["train",
    "digit"], ["\x1b[31m"],
    ["predict"], ["evaluate", "--help"], ["macs", "\ud800"], ["macs", "deit_smal"], ["macs", "deit_small", "--pointz",
    "14"], ["--"], ["macs", "a" * 100_000],
)  # fmt: skip


@cache
def templates(workshop: Workshop) -> list[tuple[str, tuple[str, ...]]]:
    """Command lines that are right, by command."""
    models = [str(workshop.models["rgb"]), *map(str, workshop.artefacts.values())]
    data, tables = ("--data.root", str(workshop.folder), "--data.workers", "0"), workshop.tables
    found: list[tuple[str, tuple[str, ...]]] = [
        ("macs", ("deit_small",)), ("macs", ("lvvit_tiny", "--points", "14@0.7", "8")),
        ("benchmark", (models[0], "--batch-size", "2", "--repeats", "1", "--warmup", "0")),
        ("convert", (str(workshop.models["rgb"]), "converted")),
        ("profile", (models[0], "--batch-sizes", "1", "--repeats", "1", "--warmup", "0", "--out", "profile")),
        ("profile", (models[0], "--accuracies", str(tables / "results.json"), "--points", "4@0.5", "7",
         "--batch-sizes", "1", "--repeats", "1", "--out", "profile")),
        ("cascade", (models[0], *data, "--points", "4@0.5", "7", "--target-top1", "10", "--timed-images", "1", "--out",
        "ladder")),
        ("search", (models[0], *data, "--passes", "1", "--costs", str(tables / "costs.json"), "--cost-batch-size", "1",
         "--out", "found")),
        ("evaluate", (models[0], *data, "--repeats", "0", "--points", f"@{tables / 'menu.json'}")),
        # A compiler is part of what it measures: as far as the data, and no further.
        ("runtimes", (models[0], "--data.root", "nowhere", "--points", "4", "--repeats", "1", "--images", "2",
        "--calibration-images", "2")),
        ("export", (models[0], "--target", "torch_export", "--points", "4", "--out", "artefact")),
        ("label", ("--root", str(workshop.folder), "--out", "labels", "--teacher", "no_such_teacher")),
        ("predict", (models[0], "cat.jpg", "bad.jpg", "--ladder", str(tables / "ladder.json"))),
        ("train", _training("image_folder", workshop)), ("train", _training("deit_small", workshop)),
    ]  # fmt: skip
    for model in models:
        trust = ["--trust"] if model == str(workshop.artefacts.get("torch_export")) else []  # which asks for it
        found += [
            ("predict", (model, "cat.jpg", *trust, "--form", "json", "--point", "4")),
            ("predict", (model, "cat.jpg", "text.txt", ".", *trust)),
            ("evaluate", (model, *data, *trust, "--points", "4", "--repeats", "0")),
            ("evaluate", (model, *data, *trust, "--points", "4", "--repeats", "1", "--data.batch-size", "2",
             "--out", "out")),
        ]  # fmt: skip
    return found


def _training(recipe: str, workshop: Workshop) -> tuple[str, ...]:
    small = "embed-dim 24 --model.num-heads 3 --model.patch-size 4 --model.grid-sizes 4 5 --model.depth 2 --model.drop-blocks 1"
    quick = "--data.workers 0 --data.batch-size 4 --epochs 1 --warmup-epochs 0 --no-plot --throughput-repeats 0 --paths 4"
    where = ("--data.name", "image_folder", "--data.root", str(workshop.folder), "--out", "run")
    return recipe, *f"--model.{small} --device cpu".split(), *quick.split(), *where


@cache
def _flags(command: str) -> list[str]:
    lines = [line.split() for line in FLAGS.read_text().splitlines()]
    return sorted(
        {line[-1] for line in lines if line and line[0] == command and not any(word in line[-1] for word in _LEFT_OUT)}
    )


@cache
def _values(workshop: Workshop) -> list[str]:
    """Values of all kinds: numbers, points, names, files that are there and others."""
    files = [
        workshop.models["grey"],
        workshop.models["rgb"] / "model.safetensors",
        workshop.folder,
        workshop.tables,
        workshop.run_folder,
    ]
    files += [*workshop.tables.iterdir(), *workshop.artefacts.values(), workshop.folder / "train/cat/0.png", workshop.shards]
    words = (
        "eager onnx_runtime openvino int8 bfloat16 float16 cpu cuda cuda:9 mps meta auto json table csv val train "
        "none True random image_folder digits webdataset hugging_face "
        "cifar10 mean margin deit_tiny class_attention nearest bicubic 4@0.5 7 4 5@0.7"
    )
    return [
        *map(str, files),
        *words.split(),
        *ODD_TEXTS,
        *_NUMBERS,
        "/dev/null",
        "cat.jpg",
        "bad.jpg",
        "text.txt",
        "text.txt/below",
        "pipe",
        "cat.jpg/x",
        ".",
        "new/er/directory",
        "-",
        "--",
        "-x",
        "@file",
        "a=b",
    ]


def _change(command: str, arguments: list[str], rng: Random, values: list[str]) -> None:
    """One accident of a command line, in place."""
    value = rng.choice(values)[:100_000]
    flags = _flags(command)
    match rng.randrange(6):
        case 0 if arguments:
            del arguments[rng.randrange(len(arguments))]
        case 1 if arguments:
            place = rng.randrange(len(arguments))
            if not arguments[place].startswith("-"):
                arguments[place] = rng.choice(_COUNTS) if place and _is_work(arguments[place - 1]) else value
        case 2 if flags:
            flag = rng.choice(flags)
            arguments += [flag[: rng.randrange(3, len(flag) + 1)] + rng.choice(("", "x", "s"))]
        case 3 | 4 | 5 if flags:
            flag = "--config" if "--config" in flags and rng.random() < 0.2 else rng.choice(flags)
            value = rng.choice(("run.yaml", "run.json", "pipe.yaml")) if flag == "--config" and rng.random() < 0.8 else value
            count = rng.choice((0, 1, 1, 1, 1, 2))
            arguments += [flag, *([rng.choice(_COUNTS if _is_work(flag) else (value, value, rng.choice(_NUMBERS)))] * count)]
        case _:
            arguments.append(value)


def _is_work(flag: str) -> bool:
    return any(word in flag for word in _WORK)


def run(line: list[str]) -> str:
    """What a command printed.

    Raises:
        Refused: it ended with status 1 or 2, and what it said.
        AssertionError: with another status, or with no word, or with a traceback.
    """
    from supervit.cli import main

    with _captured() as (out, err):
        try:
            main(line)
        except SystemExit as stop:
            code = stop.code
        else:
            code = 0
    said = err.getvalue()
    assert "Traceback" not in said, said
    if code in (0, None):
        return out.getvalue()
    assert code in (1, 2), f"status {code}"
    assert said.strip(), "status without a word"
    mine = [text for text in said.splitlines() if text.startswith("supervit: error: ")]
    assert mine or code == 1 or "╭" in said or "rror" in said, said
    raise Refused(mine[-1] if mine else said.strip().splitlines()[-1])


@contextlib.contextmanager
def _captured() -> Iterator[tuple[io.StringIO, io.StringIO]]:
    """What Python prints, within; anything else goes nowhere."""
    out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8", "strict", write_through=True) for _ in range(2))
    texts = io.StringIO(), io.StringIO()
    columns = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = "100"
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            yield texts
    finally:
        for file, text in zip((out, err), texts, strict=True):
            text.write(file.buffer.getvalue().decode())  # type: ignore[attr-defined]
        os.environ.pop("COLUMNS") if columns is None else os.environ.update(COLUMNS=columns)
