"""Plug-ins are modules of a package, found by their file name: no registering, no global tables."""

import importlib
import pkgutil
from types import ModuleType

from supervit.errors import InputError, unknown_name


def plugin_names(package: ModuleType) -> list[str]:
    """Names of the plug-ins in a package: its public modules, sorted."""
    return sorted(m.name for m in pkgutil.iter_modules(package.__path__) if not m.name.startswith("_"))


def load_plugin(package: ModuleType, name: str) -> ModuleType:
    """The module `name` of a plug-in package.

    Raises:
        InputError: no such plug-in; the message lists the near names.
    """
    names = plugin_names(package)
    if name not in names:
        raise unknown_name(package.__name__.rpartition(".")[2].removesuffix("s"), name, names)
    return importlib.import_module(f"{package.__name__}.{name}")


def import_extra(package: str, extra: str) -> ModuleType:
    """The optional package `package`, which `pip install 'supervit[extra]'` brings.

    Raises:
        InputError: it is not installed; the message names the extra.
    """
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise InputError(f"this needs {package}; pip install 'supervit[{extra}]'") from error
