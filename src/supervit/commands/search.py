"""`supervit search`."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tyro

from supervit.commands._opening import RunOptions, open_loader, print_damaged
from supervit.commands._output import check_output, facts_of
from supervit.complexity import Complexity
from supervit.data import SourceConfig, Split
from supervit.errors import InputError
from supervit.files import make_directory, write_json
from supervit.options import SAFETY

if TYPE_CHECKING:
    from torch import Tensor

    from supervit.config import SuperViTConfig
    from supervit.cost_table import Cost, CostTable
    from supervit.data import EpochLoader
    from supervit.runtimes import Runtime
    from supervit.search import Found, Menus, SearchSpace


@dataclass(frozen=True)
class Search:
    """Find the most accurate setting for each cost, among grids, keep rates of each drop block and exits."""

    model: tyro.conf.Positional[str]
    """Model directory or weights file (whatever `supervit.load` takes)."""
    data: SourceConfig = field(default_factory=lambda: SourceConfig(batch_size=64))
    """The data: half of it chooses the settings, the other half confirms them."""
    split: Split = "val"
    """Part of the data; not the one that the model was trained with."""
    between: bool = False
    """Also try grids between the trained ones."""
    keep_rates: tuple[float, ...] = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
    """What each drop block may keep."""
    exit_blocks: tuple[int, ...] | None = None
    """Exits to try (default: those that the model was trained with)."""
    passes: int = 6
    """Passes over the half that chooses; the first one is that of the model's own menu."""
    candidates: int = 64
    """New settings in a pass: all see a quarter of the images (200 at least), the best quarter of them all images."""
    minutes: float = 0
    """No pass begins after so long; 0 for no limit."""
    costs: Path | None = None
    """Cost by measured latency: the costs.json of `supervit profile` here, whose missing settings are measured (default:
    executed MACs)."""
    cost_batch_size: int | None = None
    """Images per batch of these latencies (default: the only size that the cost table has)."""
    safety: float = SAFETY
    """Standard errors of the difference: by so much may a setting seem worse and still see all images, and by so much must a
    cheaper one be better on the half that confirms for it to go, one of the model's own menu too."""
    seed: int = 0
    """Seed of the halves and of the search."""
    out: Path | None = None
    """Directory for menu.json, which is written after each pass, and the plot; with --costs also for the menu's costs.json."""
    overwrite: bool = False
    """Write over results of another model or other data in `out`."""
    run_by: RunOptions = field(default_factory=RunOptions)

    def run(self) -> None:
        """Print what each pass finds and the confirmed menu beside the model's own, write both."""
        from supervit.calibrate import halves
        from supervit.pictures import check_plotting
        from supervit.search import Menus, SearchSpace

        self._check()
        if self.out is not None:
            check_plotting()
            make_directory(self.out)
        runtime = self.run_by.open(self.model)
        config, exits = runtime.model_config, self.exit_blocks
        space = SearchSpace.of(config, self.keep_rates, config.exit_blocks if exits is None else exits, between=self.between)
        facts = facts_of(runtime, self.data, self.split)
        check_output(self.out, "menu.json", facts, overwrite=self.overwrite)
        table = self._open_costs(runtime)
        loader = open_loader(self.data, self.split, config.view(Complexity(grid) for grid in space.grid_sizes))
        if len(loader.dataset) < 2:
            raise InputError(f"{len(loader.dataset)} images cannot be halved; give at least 2")
        chosen_by, held_out = halves(len(loader.dataset), self.seed)
        work = _Work(runtime, loader)
        report = {"model": self.model, **facts, "seed": self.seed, "cost": "executed_macs" if table is None else "latency_ms"}
        found = self._search(work, space, chosen_by, report)
        costs: dict[Complexity, float] = {point: work.macs(point) for point in found.hits}
        if table is not None:
            table = _measured(runtime, table, list(found.hits))
            costs = {row.complexity: row.latency_ms_p50 for row in table.rows}
        points = list(dict.fromkeys([*found.front(costs.__getitem__), *runtime.points]))
        hits = dict(zip(points, work.ask(points, held_out), strict=True))
        print_damaged(loader)
        menus = Menus.of(found, costs.__getitem__, runtime.points, hits, self.safety)
        _print_menus(menus, config, None if table is None else table.at()[0].batch_size)
        if self.out is not None:
            images = len(next(iter(found.hits.values())))
            report |= {"confirmed": True, "calibration_images": images, "tried": found.tried, **_record(menus, config)}
            _write(menus, report, table, self.out)
            print(f"\nwrote {self.out}")

    def _check(self) -> None:
        if self.passes < 1 or self.candidates < 1:
            raise InputError(f"passes {self.passes} and candidates {self.candidates} must be at least 1")
        if not self.minutes >= 0 or not self.safety >= 0:
            raise InputError(f"minutes {self.minutes:g} and safety {self.safety:g} must be at least 0")

    def _open_costs(self, runtime: "Runtime") -> "CostTable | None":
        from supervit.cost_table import CostTable, Setup

        if self.costs is None:
            return None
        table = CostTable.load(self.costs)
        table.check(Setup.of(runtime))
        return replace(table, rows=tuple(table.at(self.cost_batch_size)))

    def _search(self, work: "_Work", space: "SearchSpace", images: "Tensor", report: Mapping[str, Any]) -> "Found":
        """The passes, each with a line and, where there is a directory, what it has found so far."""
        from supervit.search import search

        config, end = work.runtime.model_config, time.monotonic() + 60 * self.minutes
        start = [*work.runtime.points, *space.menu(config)]
        limits: dict[str, Any] = {"candidates": self.candidates, "seed": self.seed, "safety": self.safety}
        for number, found in enumerate(search(work.ask, start, space, work.macs, images, **limits), start=1):
            front = found.front(work.macs)
            seen = f"{found.tried} settings tried, {len(found.hits)} of them on all {len(found.hits[front[0]])} images"
            best = f"{len(front)} are best for their cost, up to {found.top1(front[-1]):.2f} %"
            print(f"pass {number}: {seen}; {best}", flush=True)
            if self.out is not None:
                calibration = {str(point): found.top1(point) for point in front}
                points = {"points": list(calibration), "results": [], "calibration_top1": calibration}
                write_json(self.out / "menu.json", {**report, "confirmed": False, "passes": number, **points})
            if number == self.passes or (self.minutes and time.monotonic() > end):
                break
        return found


@dataclass(frozen=True)
class _Work:
    """What a search asks of a model and its data."""

    runtime: "Runtime"
    loader: "EpochLoader"
    known_macs: dict[Complexity, int] = field(default_factory=dict)

    def macs(self, point: Complexity) -> int:
        """Executed MACs per image."""
        from supervit.macs import executed_macs

        if point not in self.known_macs:
            self.known_macs[point] = executed_macs(self.runtime.model_config, point)
        return self.known_macs[point]

    def ask(self, points: Sequence[Complexity], images: "Tensor") -> "Tensor":
        """Whether operating points (P) are right about images of these indices (P, N), by one reading of them."""
        import torch

        from supervit.data import batches_of
        from supervit.evaluate import evaluate

        hits: dict[Complexity, list[Tensor]] = {point: [] for point in points}

        def note(point: Complexity, labels: "Tensor", answers: "Tensor") -> None:
            hits[point].append((labels == answers).cpu())

        evaluate(self.runtime, batches_of(self.loader, images), points, on_answers=note)
        return torch.stack([torch.cat(each) for each in hits.values()])


def _measured(runtime: "Runtime", table: "CostTable", points: Sequence[Complexity]) -> "CostTable":
    """The rows of a cost table for operating points, measured where they are not in it."""
    from supervit.profiling import profile

    known: dict[Complexity, Cost] = {row.complexity: row for row in table.at()}
    if missing := [point for point in points if point not in known]:
        known |= {row.complexity: row for row in profile(runtime, missing, (table.at()[0].batch_size,)).rows}
    return replace(table, rows=tuple(known[point] for point in points))


def _print_menus(menus: "Menus", config: "SuperViTConfig", batch_size: int | None) -> None:
    from supervit.evaluate import standard_error
    from supervit.macs import executed_macs
    from supervit.report import aligned_table, mac_unit, with_error

    macs = {row.point: executed_macs(config, row.point) for row in menus.rows}
    unit, divisor = mac_unit(max(macs.values()))
    cells = [["complexity", "menu", "top-1 %", "chosen by %", f"executed {unit}", "ms p50"][: 5 if batch_size is None else 6]]
    for row in menus.rows:
        menu = " and ".join(name for name, has in (("found", row.is_found), ("own", row.is_own)) if has)
        top1 = with_error(row.top1, standard_error(row.top1, menus.images))
        texts = [top1, f"{row.calibration_top1:.2f}", f"{macs[row.point] / divisor:.3f}", f"{row.cost:.2f}"]
        cells.append([str(row.point), menu, *texts][: len(cells[0])])
    print(f"\n{menus.images} images that had no part in the choice say:\n")
    print(aligned_table(cells), end="")
    if menus.left_out:
        print(f"\nnot confirmed, so left out: {', '.join(map(str, menus.left_out))}")
    if menus.gain is not None:
        gain, cost = menus.gain, "executed MACs" if batch_size is None else f"latency at batch size {batch_size}"
        text = f"{gain.mean:+.2f} \u00b1 {gain.standard_error:.2f} points"
        print(f"\nfound against the best of the model's own menu at equal or lower {cost}: {text} in the mean")


def _record(menus: "Menus", config: "SuperViTConfig") -> dict[str, Any]:
    from supervit.evaluate import standard_error, tabulate
    from supervit.report import records

    results = [
        replace(result, top1=row.top1, top1_standard_error=standard_error(row.top1, menus.images))
        for row, result in zip(menus.rows, tabulate(config, [row.point for row in menus.rows]), strict=True)
    ]
    more = [
        {"images": menus.images, "calibration_top1": row.calibration_top1, "cost": row.cost, "found": row.is_found}
        for row in menus.rows
    ]
    return {
        "images": menus.images,
        "points": [str(point) for point in menus.points],
        "not_confirmed": [str(point) for point in menus.left_out],
        "gain": None if menus.gain is None else menus.gain._asdict(),
        "results": [record | each for record, each in zip(records(results), more, strict=True)],
    }


def _write(menus: "Menus", report: Mapping[str, Any], table: "CostTable | None", out: Path) -> None:
    from supervit.evaluate import standard_error
    from supervit.figures import draw_menu
    from supervit.pictures import picture_files
    from supervit.pictures.tradeoff import Measured
    from supervit.report import mac_unit

    unit, divisor = mac_unit(max(row.cost for row in menus.rows)) if table is None else ("", 1.0)
    title = f"executed {unit} per image" if table is None else f"ms per batch of {table.at()[0].batch_size}"
    write_json(out / "menu.json", report)
    own = [
        Measured(row.point, row.cost / divisor, row.top1, standard_error(row.top1, menus.images))
        for row in menus.rows
        if row.is_own
    ]
    found = [(row.cost / divisor, row.top1) for row in menus.rows if row.is_found]
    draw_menu(found, own, [row.point for row in menus.rows if row.is_own_best], title, picture_files(out, "menu"))
    if table is not None:
        rows = tuple(row for row in table.rows if row.complexity in menus.points)
        top1 = {row.point: row.top1 for row in menus.rows}
        replace(table, rows=rows).with_accuracies(top1).save(out / "costs.json")
