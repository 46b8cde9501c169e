"""Subcommands of `supervit`, a file each; those that need no file of their own are in `cli.py`."""

from supervit.commands._opening import Points, RunOptions, open_loader, parse_points, print_damaged
from supervit.commands.cascade import Cascade
from supervit.commands.export import Export
from supervit.commands.predict import Predict
from supervit.commands.profile import Profile
from supervit.commands.runtimes import Runtimes

__all__ = [
    "Cascade", "Export", "Points", "Predict", "Profile", "RunOptions", "Runtimes",
    "open_loader", "parse_points", "print_damaged",
]  # fmt: skip
