"""Answers on standard output: a table, or a line of JSON or lines of CSV for each image as soon as its batch is done."""

import csv
import json
import sys
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Literal

from supervit.errors import printable

if TYPE_CHECKING:
    from supervit.predictor import Answer

Form = Literal["table", "json", "csv"]

_TITLES = ("image", "class", "probability", "complexity", "executed MACs")
_COLUMNS = (
    "image", "rank", "class_index", "class_name", "probability", "complexity", "macs", "executed_macs", "failure",
)  # fmt: skip


def printed(answers: "Iterable[Answer]", form: Form) -> "Iterator[Answer]":
    """The answers, each printed as it passes; the table, whose columns must know all, when the last one has passed."""
    from supervit.report import aligned_table

    cells, writer = [[*_TITLES]], csv.writer(sys.stdout, lineterminator="\n")
    if form == "csv":
        writer.writerow(_COLUMNS)
    for answer in answers:
        if form == "json":
            print(json.dumps(_record(answer), allow_nan=False))
        elif form == "csv":
            writer.writerows([record.get(name) for name in _COLUMNS] for record in _ranks(answer))
        else:
            cells += _cells(answer)
        sys.stdout.flush()
        yield answer
    if form == "table":
        print(aligned_table(cells), end="")


def _record(answer: "Answer") -> dict[str, Any]:
    record = asdict(answer)
    return record | {"complexity": str(answer.complexity)} if hasattr(answer, "complexity") else record


def _ranks(answer: "Answer") -> Iterator[dict[str, Any]]:
    record = _record(answer)
    image = {"image": record.pop("source"), "failure": record.pop("reason", "")}
    for rank, candidate in enumerate(record.pop("top", [{}]), start=1):
        yield {**image, "rank": rank if candidate else "", **record, **candidate}


def _cells(answer: "Answer") -> Iterator[list[str]]:
    for record in _ranks(answer):
        if record["failure"]:
            yield [printable(record["image"]), f"cannot be read: {record['failure']}", "", "", ""]
            continue
        name = record["class_index"] if record["class_name"] is None else record["class_name"]
        once = [printable(record["image"]), str(record["complexity"]), f"{record['executed_macs']:,}"]
        image, point, cost = once if record["rank"] == 1 else ["", "", ""]
        yield [image, printable(str(name)), f"{record['probability']:.3f}", point, cost]
