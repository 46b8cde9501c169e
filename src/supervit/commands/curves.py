"""`supervit curves`."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from supervit.files import make_directory

if TYPE_CHECKING:
    from supervit.pictures.curves import RunHistory


@dataclass(frozen=True)
class Curves:
    """Draw loss, accuracy and learning rate of a training run, also while it goes on."""

    directory: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
    """Directory of the run (what `supervit train --out` named), or its log.jsonl."""
    out: Path | None = None
    """Directory for curves.png, curves.svg and curves.pdf (default: that of the run)."""

    def run(self) -> None:
        """Write the picture, say where the run stands."""
        from supervit.pictures import picture_files
        from supervit.pictures.curves import draw_curves

        log = self.directory if self.directory.is_file() else self.directory / "log.jsonl"
        out = log.parent if self.out is None else make_directory(self.out)
        history = draw_curves(log, picture_files(out, "curves"))
        if history.damaged:
            print(f"left out {history.damaged} damaged lines of {log}", file=sys.stderr)
        print(_standing(history))
        print(f"wrote {out / 'curves'}.png, .svg, .pdf")


def _standing(history: "RunHistory") -> str:
    parts = []
    if history.train:
        last = history.train[-1]
        loss = "not finite" if last.loss is None else f"{last.loss:.3f}"
        parts.append(f"epoch {last.epoch}, step {last.step}: loss {loss}, learning rate {last.lr:.3g}")
    if history.evaluate and (top1 := history.evaluate[-1].top1):
        points = dict.fromkeys((max(top1), min(top1)))
        accuracies = ", ".join(f"{top1[point]:.2f} % at {point}" for point in points)
        parts.append(f"top-1 after epoch {history.evaluate[-1].epoch}: {accuracies}")
    return "\n".join(parts)
