"""Subcommands of `supervit`, a file each."""

from supervit.commands._train_config import names_settings, open_settings
from supervit.commands.benchmark import Benchmark
from supervit.commands.cascade import Cascade
from supervit.commands.convert import Convert
from supervit.commands.curves import Curves
from supervit.commands.evaluate import Evaluate
from supervit.commands.export import Export
from supervit.commands.label import Label
from supervit.commands.macs import Macs
from supervit.commands.predict import Predict
from supervit.commands.profile import Profile
from supervit.commands.runtimes import Runtimes
from supervit.commands.search import Search
from supervit.commands.train import Train, list_recipes

__all__ = [
    "Benchmark", "Cascade", "Convert", "Curves", "Evaluate", "Export", "Label", "Macs", "Predict", "Profile", "Runtimes",
    "Search", "Train", "list_recipes", "names_settings", "open_settings",
]  # fmt: skip
