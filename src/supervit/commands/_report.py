"""The table of results: printed, and written where the user wants it."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from supervit.evaluate import Result


def print_report(results: "Sequence[Result]", out: Path | None, context: dict[str, Any]) -> None:
    """Print the table; write it to a directory, if one is given, with what it was measured on."""
    from supervit.report import markdown_table, write_report

    print(markdown_table(results), end="")
    if out is not None:
        write_report(results, out, context, title=f"One SuperViT, {len(results)} operating points")
        print(f"\nwrote {out}")
