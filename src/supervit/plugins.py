"""Plug-ins are modules of a package, found by their file name: no registering, no global tables.

Whatever takes the name of a plug-in also takes the full name of a module, such as `my_package.my_module`, which is imported.
Files from strangers import nothing: a name in a file is taken where the module has been imported already, or where the
environment variable SUPERVIT_PLUGINS lists its package.
"""

import importlib
import os
import pkgutil
import sys
from types import ModuleType
from typing import Any, TypeVar

from supervit.errors import InputError, printable, unknown_name

Made = TypeVar("Made")
_TRUSTED = "SUPERVIT_PLUGINS"  # in the environment: packages, between commas


def plugin_names(package: ModuleType) -> list[str]:
    """Names of the plug-ins in a package: its public modules, sorted."""
    return sorted(m.name for m in pkgutil.iter_modules(package.__path__) if not m.name.startswith("_"))


def load_plugin(package: ModuleType, name: str) -> ModuleType:
    """The module `name` of a plug-in package, or any module by its full name, such as `my_package.my_module`.

    Raises:
        InputError: no such plug-in; the message lists the near names.
    """
    if _is_full(name):
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{name}.".startswith(f"{error.name}."):
                raise  # something that the plug-in imports
            raise InputError(f"there is no module {name!r}; install it, or put its folder on PYTHONPATH") from error
    full = f"{package.__name__}.{name}"
    if full in sys.modules and not name.startswith("_"):  # Cost: asked for at every count of MACs, and folders are slow to list
        return sys.modules[full]
    names = plugin_names(package)
    if name not in names:
        raise unknown_name(package.__name__.rpartition(".")[2].removesuffix("s"), name, names)
    return importlib.import_module(full)


def _is_full(name: str) -> bool:
    """Whether a name is one of a module in another package."""
    return "." in name and all(part.isidentifier() for part in name.split("."))


def check_named(name: Any) -> None:
    """Refuse a plug-in from outside that a file names, unless it has been imported or `SUPERVIT_PLUGINS` has its package.

    Raises:
        InputError: neither.
    """
    if not isinstance(name, str) or not _is_full(name) or name in sys.modules:
        return
    package = name.partition(".")[0]
    if package not in os.environ.get(_TRUSTED, "").split(","):
        raise InputError(
            f"it names the plug-in {printable(name, 80)!r} of another package; if you trust that, import it before, or set "
            f"{_TRUSTED}={printable(package, 40)}"
        )


def load_class(package: ModuleType, name: str, base: type[Made]) -> type[Made]:
    """The class of a plug-in that is named as its base, such as `Reducer`.

    Raises:
        InputError: no such plug-in, or it has no such class.
    """
    module = load_plugin(package, name)
    found = getattr(module, base.__name__, None)
    if not (isinstance(found, type) and issubclass(found, base)):
        raise InputError(f"{module.__name__} has no class {base.__name__} of {base.__module__}.{base.__name__}; write one")
    return found


def import_extra(package: str, extra: str) -> ModuleType:
    """The optional package `package`, which `pip install 'supervit[extra]'` brings.

    Raises:
        InputError: it is not installed; the message names the extra.
    """
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise InputError(f"this needs {package}; pip install 'supervit[{extra}]'") from error
