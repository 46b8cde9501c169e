"""Plug-ins are modules of a package, found by their file name: no registering, no global tables."""

import importlib
import pkgutil
from types import ModuleType
from typing import TypeVar

from supervit.errors import InputError, unknown_name

Made = TypeVar("Made")


def plugin_names(package: ModuleType) -> list[str]:
    """Names of the plug-ins in a package: its public modules, sorted."""
    return sorted(m.name for m in pkgutil.iter_modules(package.__path__) if not m.name.startswith("_"))


def load_plugin(package: ModuleType, name: str) -> ModuleType:
    """The module `name` of a plug-in package, or any module by its full name, such as `my_package.my_module`.

    Raises:
        InputError: no such plug-in; the message lists the near names.
    """
    if "." in name:
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{name}.".startswith(f"{error.name}."):
                raise  # something that the plug-in imports
            raise InputError(f"there is no module {name!r}; install it, or put its folder on PYTHONPATH") from error
    names = plugin_names(package)
    if name not in names:
        raise unknown_name(package.__name__.rpartition(".")[2].removesuffix("s"), name, names)
    return importlib.import_module(f"{package.__name__}.{name}")


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
