"""What all pictures share: one look, axes whose ticks can be read, and files in all forms, each whole or not at all."""

import importlib.util
import math
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from supervit.errors import InputError, unknown_name
from supervit.files import whole_file

if TYPE_CHECKING:
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

FORMS = ("png", "svg", "pdf")
"""Suffixes of the files that a picture is written to."""

_ONE_AT_A_TIME = threading.RLock()  # matplotlib's settings are those of the whole process
_FONTS = ["DejaVu Sans", "Noto Sans CJK SC", "Noto Sans CJK JP", "WenQuanYi Zen Hei", "PingFang SC", "Hiragino Sans"]
_FONTS += ["Microsoft YaHei", "Malgun Gothic", "Arial Unicode MS"]  # DejaVu lacks the characters of these, for class names
_LOOK: dict[str, Any] = {
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.labelsize": 8,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": 9,
    "font.size": 8,
    "grid.color": "0.92",
    "legend.fontsize": 7,
    "legend.frameon": False,
    "pdf.fonttype": 42,
    "savefig.dpi": 200,
    "svg.fonttype": "none",
    "svg.hashsalt": "supervit",  # the same picture is the same file
    "text.parse_math": False,  # $ in the name of a file or class is no formula
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
}
_UNDATED = {"png": {"Software": None}, "svg": {"Date": None}, "pdf": {"CreationDate": None}}


def check_plotting() -> None:
    """Refuse to start what would end in a picture that cannot be drawn."""
    if importlib.util.find_spec("matplotlib") is None:
        raise InputError("the plot needs matplotlib; pip install 'supervit[plot]'")


def picture_files(directory: Path, name: str) -> list[Path]:
    """The files of a picture in all forms."""
    return [directory / f"{name}.{form}" for form in FORMS]


@contextmanager
def picture(files: Sequence[Path], width: float, height: float) -> Iterator["Figure"]:
    """A figure to draw on within, which is written to the files in the end.

    Args:
        files: Where to; the suffix says how: png, svg or pdf.
        width: Inches.
        height: Inches.

    Raises:
        InputError: matplotlib is not installed, another suffix, or a file cannot be written.
    """
    check_plotting()
    for file in files:
        if file.suffix[1:] not in FORMS:
            raise unknown_name("form of pictures", file.suffix[1:], FORMS)
    import matplotlib.style
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.font_manager import fontManager

    fonts = [font for font in _FONTS if font in fontManager.get_font_names()]
    with _ONE_AT_A_TIME, matplotlib.style.context(["default", {**_LOOK, "font.family": fonts}]), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from")  # a box in its place; the SVG has the text
        figure = Figure(figsize=(width, height), layout="constrained")
        FigureCanvasAgg(figure)
        yield figure
        for file in files:
            with whole_file(file) as temporary:
                figure.savefig(temporary, format=file.suffix[1:], metadata=_UNDATED[file.suffix[1:]])


def log_ticks(low: float, high: float) -> list[float]:
    """The numbers to write on a logarithmic axis from `low` to `high`, both positive: three to eight where there is room.

    Powers of two (over many octaves every second one, or third); of less than three and a half also those between, and of less
    than one and a half, where a logarithmic axis is nearly a linear one, multiples of 1, 2 or 5 times a power of ten.
    """
    octaves = math.log2(high / low)
    if octaves < 1.5:
        return _even_ticks(low, high)
    stride = math.ceil(octaves / 8)
    exponents = range(math.ceil(math.log2(low) - 1e-9) - 1, math.floor(math.log2(high) + 1e-9) + 1)
    ticks = [2.0**exponent for exponent in exponents if exponent % stride == 0]
    if octaves < 3.5:
        ticks = sorted([*ticks, *(1.5 * tick for tick in ticks)])
    return [tick for tick in ticks if low * (1 - 1e-9) <= tick <= high * (1 + 1e-9)]


def _even_ticks(low: float, high: float) -> list[float]:
    """Multiples of the finest of 1, 2 and 5 times a power of ten that gives at most seven; the middle where none fits."""
    span = high - low
    if span <= 1e-9 * high:
        return [low]
    start = math.floor(math.log10(span)) - 1
    for step in (digit * 10.0**power for power in (start, start + 1, start + 2) for digit in (1, 2, 5)):
        first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
        if last - first < 7:
            break
    return [index * step for index in range(first, last + 1)]


def tick_text(value: float) -> str:
    """A number of an axis: 0.25, 1.5, 12, 2,048."""
    return f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"


def make_logarithmic(axis: "Axis", values: Sequence[float]) -> None:
    """Make an axis logarithmic, with room around its values and ticks that can be read.

    Args:
        axis: `axes.xaxis` or `axes.yaxis`.
        values: All that is drawn along it, positive.
    """
    from matplotlib.ticker import FixedLocator, NullLocator

    low, high = min(values), max(values)
    room = max((high / low) ** 0.07, 1.02)
    low, high = low / room, high * room
    ticks = log_ticks(low, high)
    name = axis.axis_name  # type: ignore[attr-defined]
    axis.axes.set(**{f"{name}scale": "log", f"{name}lim": (low, high)})
    axis.set_major_locator(FixedLocator(ticks))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(lambda value, _: tick_text(value))
