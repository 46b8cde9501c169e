"""The commands `profile`, `cascade`, `export` and `predict`."""

import json
import random
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import tyro
from torch import Tensor

from supervit.calibrate import Answers, Calibrated, calibrate, collect_answers, halves, paper_ladder, pick_cascade
from supervit.cascade import Confidence, Ladder
from supervit.checkpoints import load
from supervit.complexity import Complexity
from supervit.config import SuperViTConfig
from supervit.cost_table import Cost, Setup
from supervit.data import EpochLoader, SourceConfig, Split, open_dataset
from supervit.errors import InputError
from supervit.evaluate import pick_device
from supervit.export import ExportConfig, export_model
from supervit.figures import draw_cascade, draw_costs
from supervit.predictor import Answer, Failure, Predictor
from supervit.profiling import measure_ladders, profile
from supervit.report import aligned_table, check_plotting, mac_unit
from supervit.storage import write_text

Points = Annotated[tuple[str, ...], tyro.conf.arg(metavar="[GRID[@RATE] ...]")]


def parse_points(texts: Sequence[str], config: SuperViTConfig) -> list[Complexity]:
    """The operating points of these texts; the model's menu where there are none."""
    return [Complexity.of(text) for text in texts] or list(config.space)


def check_classes(classes: Sequence[str], config: SuperViTConfig) -> None:
    """Refuse data whose class indices are not the model's."""
    if config.class_names and tuple(classes) != config.class_names:
        raise InputError(
            f"the data's classes ({', '.join(classes[:5])}, ...) are not the model's "
            f"({', '.join(config.class_names[:5])}, ...); use the data it was trained for, or give --data.class-list"
        )
    if len(classes) != config.num_classes:
        raise InputError(
            f"the data have {len(classes)} classes, the model {config.num_classes}; give --data.class-list, "
            "a file with one class folder name per line in the model's order"
        )


@dataclass(frozen=True)
class Profile:
    """What every operating point costs on this device: latency, images/s, memory and energy, as a cost table."""

    model: tyro.conf.Positional[str]
    """Model directory or weights file (whatever `supervit.load` takes)."""
    complexities: Points = ()
    """Operating points, trained or not, such as 8@0.5 13@0.6 14 (default: the model's menu)."""
    batch_sizes: tuple[int, ...] = (1,)
    """Images per batch."""
    repeats: int = 30
    """Timed batches per operating point and batch size."""
    warmup: int = 3
    """Batches per operating point and batch size before the clock starts."""
    device: str = "auto"
    """Torch device; auto takes the GPU if there is one."""
    accuracies: Path | None = None
    """The results.json of `supervit evaluate --out` for this model: adds accuracies, the Pareto set and a plot."""
    out: Path | None = None
    """Directory for costs.json and the plot."""

    def run(self) -> None:
        """Print the rows, the Pareto set if accuracies are known, write both."""
        if self.out is not None and self.accuracies is not None:
            check_plotting()
        top1 = {} if self.accuracies is None else read_accuracies(self.accuracies)
        model = load(self.model).to(pick_device(self.device))
        points = parse_points(self.complexities, model.config)
        if self.accuracies is not None and (missing := [str(point) for point in points if point not in top1]):
            raise InputError(f"{str(self.accuracies)!r} has no accuracy of {', '.join(missing)}; evaluate these too")
        table = profile(model, points, self.batch_sizes, self.repeats, self.warmup).with_accuracies(top1)
        print(f"{table.setup.device}, {table.setup.runtime}, {table.setup.precision}, {table.setup.threads} threads\n")
        print(_cost_table(table.rows), end="")
        sizes = sorted(set(self.batch_sizes))
        for size in sizes if top1 else ():
            print(f"\nPareto set at batch size {size}: {', '.join(str(row.complexity) for row in table.pareto(size))}")
        if self.out is not None:
            table.save(self.out / "costs.json")
            for size in sizes if top1 else ():
                draw_costs(table, size, [self.out / f"latency_batch_{size}.{suffix}" for suffix in ("png", "svg")])
            print(f"\nwrote {self.out}")


@dataclass(frozen=True)
class Export(ExportConfig):
    """Write the model for another runtime: one file for all operating points, or for one; verified before it is written."""

    model: tyro.conf.Positional[str] = tyro.MISSING
    """Model directory or weights file (whatever `supervit.load` takes)."""
    data: SourceConfig = field(default_factory=SourceConfig)
    """int8: the data whose validation images it is calibrated on."""
    calibration_images: int = 256
    """int8: how many of them."""

    def run(self) -> None:
        """Export, print how each point differs from PyTorch."""
        model = load(self.model)
        report = export_model(model, self.target, self.out, self.points, self.precision, self._calibration(model.config))
        cells = [["complexity", "image side", "keep", "largest difference"]]
        for point in report.points:
            keep = " ".join(map(str, point.keep))
            cells.append([point.complexity, str(point.image_size), keep, f"{point.difference:.1e}"])
        print(aligned_table(cells), end="")
        print(f"\nwrote {self.out}: {report.form} {report.target}, {report.precision}, inputs {', '.join(report.inputs)}")

    def _calibration(self, config: SuperViTConfig) -> Tensor | None:
        if self.precision != "int8":
            return None
        dataset = open_dataset(self.data, "val", config)
        chosen = random.Random("supervit calibration").sample(range(len(dataset)), min(self.calibration_images, len(dataset)))
        return torch.stack([dataset[index][0] for index in sorted(chosen)])


def read_accuracies(file: Path) -> dict[Complexity, float]:
    """Top-1 in percent of the operating points in a `results.json`.

    Raises:
        InputError: the file is missing or damaged, or holds no accuracies.
    """
    try:
        records = json.loads(file.read_text())["results"]
        return {Complexity.of(record["complexity"]): float(record["top1"]) for record in records}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{str(file)!r} holds no accuracies ({error!r}); write it by supervit evaluate --out") from error


def _cost_table(rows: Sequence[Cost]) -> str:
    cells = [["complexity", "batch", "ms p50", "ms p95", "images/s", "MiB", "J/image", "top-1 %"]]
    for row in rows:
        measured = [(row.peak_memory_mib, ".1f"), (row.energy_j, ".3g"), (row.top1, ".2f")]
        optional = ["" if value is None else format(value, form) for value, form in measured]
        times = [f"{row.latency_ms_p50:.2f}", f"{row.latency_ms_p95:.2f}", f"{row.throughput_ips:.1f}"]
        cells.append([str(row.complexity), str(row.batch_size), *times, *optional])
    return aligned_table(cells)


@dataclass(frozen=True)
class Cascade:
    """Find the best early exit: a ladder of operating points and its thresholds, by one pass over labelled data."""

    model: tyro.conf.Positional[str]
    """Model directory or weights file (whatever `supervit.load` takes)."""
    data: SourceConfig = field(default_factory=lambda: SourceConfig(batch_size=64))
    """The data: half of it chooses the cascade, the other half says what it is worth."""
    split: Split = "val"
    """Part of the data; not the one that the model was trained with."""
    complexities: Points = ()
    """Operating points that may be rungs, such as 8@0.5 14 (default: the model's menu)."""
    confidence: Confidence = "probability"
    """When the model is sure: by its highest probability, its margin over the second, or the entropy of all."""
    max_rungs: int = 3
    """Most operating points in a ladder."""
    target_top1: float | None = None
    """Take the cheapest cascade of at least this accuracy in percent (default: that of the dearest operating point)."""
    target_macs: float | None = None
    """Take the most accurate cascade of at most so many executed MACs per image in the mean."""
    timed_images: int = 512
    """Held-out images whose time is measured, in memory; 0 for none."""
    seed: int = 0
    """Seed of the halves."""
    device: str = "auto"
    """Torch device; auto takes the GPU if there is one."""
    out: Path | None = None
    """Directory for ladder.json, cascade.json and the plot."""

    def run(self) -> None:
        """Print the cascade beside the dearest operating point and the paper's pair, write ladder and curve."""
        if self.timed_images < 0:
            raise InputError(f"timed_images {self.timed_images} must be at least 0")
        if self.target_top1 is not None and self.target_macs is not None:
            raise InputError(f"target_top1 {self.target_top1} and target_macs {self.target_macs}: give one of the two")
        if self.out is not None:
            check_plotting()
        model = load(self.model).to(pick_device(self.device))
        points = parse_points(self.complexities, model.config)
        dataset = open_dataset(self.data, self.split, model.config)
        check_classes(dataset.classes, model.config)
        loader = EpochLoader(dataset, self.data.batch_size, self.data.workers, max_damaged=self.data.max_damaged)
        answers = collect_answers(model, (batch[:2] for batch in loader.epoch()), points, self.confidence)
        for name, reason in loader.damaged.items():
            print(f"skipped a damaged image: {name} ({reason})", file=sys.stderr)
        found = self._search(answers, model.config)
        chosen = self._choose(found)
        images = self._held_out_images(loader, len(answers))
        ladders = [each.ladder for each in chosen.values()]
        throughputs_ips = measure_ladders(model, ladders, images, self.data.batch_size) if len(images) else {}
        print(f"chosen by {len(answers) // 2} images; {len(answers) - len(answers) // 2} held-out images say:\n")
        print(_cascade_table(chosen, throughputs_ips), end="")
        if self.out is not None:
            report: dict[str, Any] = {"model": self.model, "data": str(self.data.root or self.data.name), "split": self.split}
            report |= {"batch_size": self.data.batch_size, "timed_images": len(images), "setup": asdict(Setup.of(model))}
            report |= {name: _record(each, throughputs_ips) for name, each in chosen.items()}
            report |= {name: [_record(each, {}) for each in line] for name, line in vars(found).items()}
            chosen["cascade"].ladder.save(self.out / "ladder.json")
            write_text(self.out / "cascade.json", json.dumps(report, indent=2) + "\n")
            files = [self.out / f"cascade.{suffix}" for suffix in ("png", "svg")]
            draw_cascade(found.curve, found.singles, found.paper_curve, files)
            print(f"\nwrote {self.out}")

    def _search(self, answers: Answers, config: SuperViTConfig) -> "_Found":
        search = partial(calibrate, answers, config, seed=self.seed)
        pair = paper_ladder(config.space)
        return _Found(
            curve=search(max_rungs=self.max_rungs),
            singles=[search(ladders=[[point]])[0] for point in answers.points],
            paper_curve=search(ladders=[pair]) if len({*pair} & {*answers.points}) == 2 else [],
        )

    def _choose(self, found: "_Found") -> dict[str, Calibrated]:
        """The dearest operating point, the cascade for the target, and the paper's pair as accurate as that, or as it gets."""
        dearest = max(found.singles, key=lambda each: each.calibration.mean_macs)
        has_target = self.target_top1 is not None or self.target_macs is not None
        target_top1 = self.target_top1 if has_target else dearest.calibration.top1
        cascade = pick_cascade(found.curve, target_top1, self.target_macs)
        chosen = {"dearest": dearest, "cascade": cascade}
        if found.paper_curve:
            as_good = (each for each in found.paper_curve if each.calibration.top1 >= cascade.calibration.top1)
            chosen["paper_pair"] = next(as_good, found.paper_curve[-1])
        return chosen

    def _held_out_images(self, loader: EpochLoader, images: int) -> Tensor:
        """The first `timed_images` of the held-out half (N, C, S, S)."""
        if not self.timed_images:
            return torch.empty(0)
        _, held_out = halves(images, self.seed)
        wanted, first, parts = held_out[: self.timed_images], 0, []
        for batch, *_ in loader.epoch():
            here = wanted[(wanted >= first) & (wanted < first + len(batch))] - first
            parts.append(batch[here])
            first += len(batch)
            if first > wanted[-1]:
                break
        return torch.cat(parts)


@dataclass(frozen=True)
class _Found:
    """Pareto sets of cascades."""

    curve: list[Calibrated]  # of all
    singles: list[Calibrated]  # each operating point alone
    paper_curve: list[Calibrated]  # of the paper's pair; empty where the operating points have no such pair


def _cascade_table(found: Mapping[str, Calibrated], throughputs_ips: Mapping[Ladder, float]) -> str:
    unit, divisor = mac_unit(max(each.held_out.mean_macs for each in found.values()))
    cells = [["", "rungs", "thresholds", "top-1 %", f"mean executed {unit}", "images/s"]]
    for name, each in found.items():
        rungs, thresholds = each.ladder.rungs, each.ladder.thresholds
        cost = f"{each.held_out.mean_macs / divisor:.3f}"
        speed = f"{throughputs_ips[each.ladder]:.1f}" if throughputs_ips else ""
        texts = [" ".join(map(str, rungs)), " ".join(f"{threshold:.3f}" for threshold in thresholds)]
        cells.append([name, *texts, f"{each.held_out.top1:.2f}", cost, speed])
    return aligned_table(cells)


def _record(each: Calibrated, throughputs_ips: Mapping[Ladder, float]) -> dict[str, Any]:
    measured = {"throughput_ips": throughputs_ips[each.ladder]} if throughputs_ips else {}
    return {**each.ladder.to_dict(), "calibration": asdict(each.calibration), "held_out": asdict(each.held_out), **measured}


@dataclass(frozen=True)
class Predict:
    """Class, probability and cost of images, at any operating point."""

    model: tyro.conf.Positional[str]
    """Model directory or weights file (whatever `supervit.load` takes)."""
    images: tyro.conf.Positional[tuple[Path, ...]]
    """Image files; one that cannot be read is reported, the others are answered."""
    complexity: str | None = None
    """Operating point, such as 8@0.5 (default: the largest grid, uncut)."""
    form: Literal["table", "json"] = "table"
    """A table, or a line of JSON for each image as soon as its batch is done."""
    batch_size: int = 16
    """Images per batch."""
    reduced_decoding: bool = True
    """Whether JPEGs for grids below the largest are decoded no further than the grid needs."""
    device: str = "auto"
    """Torch device; auto takes the GPU if there is one."""

    def run(self) -> None:
        """Print an answer for each image, in their order."""
        model = load(self.model).to(pick_device(self.device))
        predictor = Predictor(model, self.complexity, self.batch_size, self.reduced_decoding)
        answers = predictor.stream(self.images)
        if self.form == "table":
            print(_answer_table(list(answers)), end="")
            return
        for answer in answers:
            point = {} if isinstance(answer, Failure) else {"complexity": str(answer.complexity)}
            print(json.dumps(asdict(answer) | point), flush=True)


def _answer_table(answers: Sequence[Answer]) -> str:
    cells = [["image", "class", "probability", "complexity", "executed MACs"]]
    for answer in answers:
        if isinstance(answer, Failure):
            cells.append([answer.source, f"cannot be read: {answer.reason}", "", "", ""])
            continue
        name = str(answer.class_index) if answer.class_name is None else answer.class_name
        cost = f"{answer.executed_macs:,}"
        cells.append([answer.source, name, f"{answer.probability:.3f}", str(answer.complexity), cost])
    return aligned_table(cells)
