"""`supervit cascade`."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tyro

from supervit.commands._opening import Points, RunOptions, open_loader, parse_points, print_damaged
from supervit.commands._output import check_output
from supervit.data import SourceConfig, Split
from supervit.errors import InputError
from supervit.files import make_directory, write_json
from supervit.options import SAFETY, Answering, Confidence

if TYPE_CHECKING:
    from torch import Tensor

    from supervit.calibrate import Calibrated, MeanAnswers
    from supervit.cascade import Ladder
    from supervit.data import EpochLoader
    from supervit.runtimes import Runtime


@dataclass(frozen=True)
class Cascade:
    """Find the best early exit: a ladder of operating points and its thresholds, by one pass over labelled data."""

    model: tyro.conf.Positional[str]
    """Model directory, weights file (whatever `supervit.load` takes), or what `supervit export` wrote."""
    data: SourceConfig = field(default_factory=lambda: SourceConfig(batch_size=64))
    """The data: half of it chooses the cascade, the other half says what it is worth."""
    split: Split = "val"
    """Part of the data; not the one that the model was trained with."""
    points: Points = ()
    """Operating points that may be rungs, such as 8@0.5 14 (default: the model's menu)."""
    confidence: Confidence = "probability"
    """When the model is sure: by its highest probability, its margin over the second, or the entropy of all."""
    answer: Answering = "mean"
    """What answers at a rung: the mean of the probabilities of all rungs climbed so far, or that of the last one alone."""
    max_rungs: int = 3
    """Most operating points in a ladder."""
    target_top1: float | None = None
    """Take the cheapest cascade of at least this accuracy in percent (default: that of the dearest operating point)."""
    target_macs: float | None = None
    """Take the most accurate cascade of at most so many executed MACs per image in the mean."""
    safety: float = SAFETY
    """Standard errors by which it must be above that accuracy on the images that choose it: the best of many is lucky there."""
    timed_images: int = 512
    """Held-out images whose time is measured, in memory; 0 for none."""
    seed: int = 0
    """Seed of the halves."""
    out: Path | None = None
    """Directory for ladder.json, cascade.json and the plot."""
    overwrite: bool = False
    """Write over results of another model or other data in `out`."""
    run_by: RunOptions = field(default_factory=RunOptions)

    def run(self) -> None:
        """Print the cascade beside the dearest operating point and the paper's pair, write ladder and curve."""
        from supervit.calibrate import collect_answers
        from supervit.cost_table import Setup
        from supervit.figures import draw_cascade
        from supervit.pictures import check_plotting, picture_files
        from supervit.profiling import measure_ladders

        if self.timed_images < 0 or self.safety < 0 or self.max_rungs < 1:
            raise InputError(
                f"timed_images {self.timed_images} and safety {self.safety:g} must be at least 0, max_rungs {self.max_rungs} 1"
            )
        if self.target_top1 is not None and self.target_top1 <= 1:
            raise InputError(f"target_top1 {self.target_top1:g} is in percent; write such as 70")
        if self.target_top1 is not None and self.target_macs is not None:
            raise InputError(f"target_top1 {self.target_top1} and target_macs {self.target_macs}: give one of the two")
        if self.out is not None:
            check_plotting()
            make_directory(self.out)
        runtime = self.run_by.open(self.model)
        points = parse_points(self.points, runtime.points)
        setup = asdict(Setup.of(runtime))
        facts = {f"setup.{name}": setup[name] for name in ("model", "runtime", "precision")}
        report: dict[str, Any] = {"data": self.data.place, "split": self.split}
        check_output(self.out, "cascade.json", facts | report, overwrite=self.overwrite)
        loader = open_loader(self.data, self.split, runtime.model_config.view(points))
        answers = collect_answers(runtime, (batch[:2] for batch in loader.epoch()), points, self.confidence)
        print_damaged(loader)
        found = self._search(answers, runtime)
        report = {"model": self.model, **report, "batch_size": self.data.batch_size, "setup": setup}
        report |= {name: [_record(each, {}) for each in line] for name, line in vars(found).items()}
        if self.out is not None:  # now, as the target may be out of reach
            (self.out / "ladder.json").unlink(missing_ok=True)
            write_json(self.out / "cascade.json", report)
            draw_cascade(found.curve, found.singles, found.paper_curve, picture_files(self.out, "cascade"))
        chosen = self._choose(found)
        images = self._held_out_images(loader, len(answers))
        ladders = [each.ladder for each in chosen.values()]
        throughputs_ips = measure_ladders(runtime, ladders, images, self.data.batch_size) if len(images) else {}
        print(f"chosen by {len(answers) // 2} images; {len(answers) - len(answers) // 2} held-out images say:\n")
        print(_cascade_table(chosen, throughputs_ips), end="")
        if self.out is not None:
            report |= {"timed_images": len(images)} | {name: _record(each, throughputs_ips) for name, each in chosen.items()}
            replace(chosen["cascade"].ladder, model=runtime.fingerprint()).save(self.out / "ladder.json")
            write_json(self.out / "cascade.json", report)
            print(f"\nwrote {self.out}")

    def _search(self, answers: "MeanAnswers", runtime: "Runtime") -> "_Found":
        from supervit.calibrate import calibrate, paper_ladder
        from supervit.cascade import climb_macs

        config = runtime.model_config
        climb = partial(climb_macs, config, shares_prefixes=runtime.shares_prefixes)
        search, last = partial(calibrate, climb=climb, seed=self.seed), answers.last()
        pair = paper_ladder(config.space)
        return _Found(
            curve=search(answers if self.answer == "mean" else last, max_rungs=self.max_rungs),
            singles=[search(last, ladders=[[point]])[0] for point in answers.points],
            paper_curve=search(last, ladders=[pair]) if len({*pair} & {*answers.points}) == 2 else [],
        )

    def _choose(self, found: "_Found") -> "dict[str, Calibrated]":
        """The dearest operating point, the cascade for the target, and the paper's pair as accurate as that, or as it gets."""
        from supervit.calibrate import pick_cascade

        dearest = max(found.singles, key=lambda each: each.calibration.mean_macs)
        has_target = self.target_top1 is not None or self.target_macs is not None
        target_top1 = self.target_top1 if has_target else dearest.calibration.top1
        cascade = pick_cascade(found.curve, target_top1, self.target_macs, self.safety)
        chosen = {"dearest": dearest, "cascade": cascade}
        if found.paper_curve:
            as_good = (each for each in found.paper_curve if each.calibration.top1 >= cascade.calibration.top1)
            chosen["paper_pair"] = next(as_good, found.paper_curve[-1])
        return chosen

    def _held_out_images(self, loader: "EpochLoader", images: int) -> "Tensor":
        """The first `timed_images` of the held-out half (N, C, S, S)."""
        import torch

        from supervit.calibrate import halves

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

    curve: "list[Calibrated]"  # of all
    singles: "list[Calibrated]"  # each operating point alone
    paper_curve: "list[Calibrated]"  # of the paper's pair; empty where the operating points have no such pair


def _cascade_table(found: "Mapping[str, Calibrated]", throughputs_ips: "Mapping[Ladder, float]") -> str:
    from supervit.report import aligned_table, mac_unit, with_error

    unit, divisor = mac_unit(max(each.held_out.mean_macs for each in found.values()))
    cells = [["", "rungs", "thresholds", "top-1 %", f"mean executed {unit}", "images/s"]]
    for name, each in found.items():
        rungs, thresholds = each.ladder.rungs, each.ladder.thresholds
        cost = f"{each.held_out.mean_macs / divisor:.3f}"
        speed = f"{throughputs_ips[each.ladder]:.1f}" if throughputs_ips else ""
        top1 = with_error(each.held_out.top1, each.held_out.standard_error)
        texts = [" ".join(map(str, rungs)), " ".join(f"{threshold:.3f}" for threshold in thresholds)]
        cells.append([name, *texts, top1, cost, speed])
    return aligned_table(cells)


def _record(each: "Calibrated", throughputs_ips: "Mapping[Ladder, float]") -> dict[str, Any]:
    measured = {"throughput_ips": throughputs_ips[each.ladder]} if throughputs_ips else {}
    return {**each.ladder.to_dict(), "calibration": asdict(each.calibration), "held_out": asdict(each.held_out), **measured}
