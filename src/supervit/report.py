"""Tables of operating points, and their plot."""

import csv
import io
import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from supervit import pareto
from supervit.errors import printable
from supervit.evaluate import Result
from supervit.files import make_directory, write_json, write_text
from supervit.pictures import picture_files
from supervit.pictures.tradeoff import Curve, Measured, draw_tradeoff

_NUMBER = re.compile(r"[+-]?\d[\d,]*(\.\d+)?(e[+-]?\d+)?( ± [\d.]+)?")


@dataclass(frozen=True)
class _Column:
    title: str
    value: Callable[[Result], Any]
    text: str  # format of the value for people


def mac_unit(most_macs: float) -> tuple[str, float]:
    """The unit that shows MACs of up to this many well, and its size."""
    return ("GMACs", 1e9) if most_macs >= 1e8 else ("MMACs", 1e6)


def _columns(results: Sequence[Result]) -> list[_Column]:
    """The columns that have values."""
    unit, divisor = mac_unit(max(result.macs for result in results))
    columns = [
        _Column("complexity", lambda r: str(r.complexity), "{}"),
        _Column("top-1 %", _top1_text, "{}"),
        _Column("top-5 %", lambda r: r.top5, "{:.2f}"),
        _Column(unit, lambda r: r.macs / divisor, "{:.3f}"),
        _Column(f"executed {unit}", lambda r: r.executed_macs / divisor, "{:.3f}"),
        _Column("images/s", lambda r: r.throughput_ips, "{:.1f}"),
    ]
    return [column for column in columns if any(column.value(result) is not None for result in results)]


def _top1_text(result: Result) -> str | None:
    return None if result.top1 is None else with_error(result.top1, result.top1_standard_error)


def with_error(percent: float, standard_error: float | None) -> str:
    """An accuracy as a text: `71.25 ± 1.43`."""
    return f"{percent:.2f}" if standard_error is None else f"{percent:.2f} ± {standard_error:.2f}"


def markdown_table(results: Sequence[Result]) -> str:
    """The columns that have values, as `aligned_table`."""
    columns = _columns(results)
    cells = [[column.title for column in columns]]
    for result in results:
        values = [column.value(result) for column in columns]
        cells.append(["" if v is None else c.text.format(v) for c, v in zip(columns, values, strict=True)])
    return aligned_table(cells)


def aligned_table(cells: Sequence[Sequence[str]]) -> str:
    """A table of text, its titles in the first row: Markdown that reads well in a terminal too.

    Columns of numbers end where their titles end, all others start where these start.
    """
    columns = []
    for texts in zip(*cells, strict=True):
        column = [_one_cell(text) for text in texts]
        is_number = any(column[1:]) and all(_NUMBER.fullmatch(cell) for cell in column[1:] if cell)
        width = max(map(_width, column))
        pads = [" " * (width - _width(cell)) for cell in column]
        title, *rows = (f" {pad}{cell} " if is_number else f" {cell}{pad} " for cell, pad in zip(column, pads, strict=True))
        columns.append([title, "-" * (width + 1) + ":" if is_number else ":" + "-" * (width + 1), *rows])
    return "".join(f"|{'|'.join(row)}|\n" for row in zip(*columns, strict=True))


def _one_cell(text: str) -> str:
    """A text that does not end its cell or line, whatever file or class it is the name of."""
    return (text if text.isprintable() else printable(text)).replace("|", r"\|")


def _width(text: str) -> int:
    """Columns of a terminal; Chinese, Japanese and Korean characters take two."""
    return len(text) + sum(unicodedata.east_asian_width(char) in "WF" for char in text)


def records(results: Sequence[Result]) -> list[dict[str, Any]]:
    """The rows of `results.json`."""
    return [
        {
            "complexity": str(r.complexity),
            "grid_size": r.complexity.grid_size,
            "keep_rate": r.complexity.keep_rate,
            "exit_block": r.complexity.exit_block,
            "top1": r.top1,
            "top5": r.top5,
            "macs": r.macs,
            "executed_macs": r.executed_macs,
            "throughput_ips": r.throughput_ips,
            "top1_standard_error": r.top1_standard_error,
        }
        for r in results
    ]


def csv_table(results: Sequence[Result]) -> str:
    """The table as CSV, exact values; nothing where nothing was measured."""
    rows = records(results)
    out = io.StringIO()
    writer = csv.DictWriter(out, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def write_report(
    results: Sequence[Result], directory: Path, context: dict[str, Any], title: str = "", plot: bool = True
) -> None:
    """Write `results.csv`, `results.json`, `results.md`; with accuracies also the plot, `tradeoff.{png,svg,pdf}`.

    Args:
        results: The table's rows.
        directory: Made if need be.
        context: What the numbers were measured with (model, data, machine, versions); goes into the JSON.
        title: Title of the plot.
        plot: Whether to draw it.

    Raises:
        InputError: the directory cannot be written, or there is no matplotlib for the plot.
    """
    make_directory(directory)
    write_text(directory / "results.csv", csv_table(results))
    write_json(directory / "results.json", {**context, "results": records(results)})
    write_text(directory / "results.md", markdown_table(results))
    if plot and any(result.top1 is not None for result in results):
        plot_tradeoff(results, picture_files(directory, "tradeoff"), title)


def pareto_set(results: Sequence[Result]) -> list[Result]:
    """The measured results that none beats at equal or lower MACs, cheapest first."""
    measured = [result for result in results if result.top1 is not None]
    return pareto.pareto_set(measured, cost=lambda r: r.macs, worth=lambda r: r.top1 or 0.0)


def plot_tradeoff(results: Sequence[Result], files: Sequence[Path], title: str = "") -> None:
    """Draw top-1 accuracy against MACs, the Pareto set connected.

    Raises:
        InputError: as `picture`.
    """
    unit, divisor = mac_unit(max(result.macs for result in results))
    measured = [
        Measured(result.complexity, result.macs / divisor, result.top1, result.top1_standard_error or 0.0)
        for result in results
        if result.top1 is not None
    ]
    frontier = [(result.macs / divisor, result.top1 or 0.0) for result in pareto_set(results)]
    draw_tradeoff(measured, [Curve(frontier)], f"{unit} per image", files, title)
