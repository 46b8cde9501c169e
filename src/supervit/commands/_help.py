"""The options of a command, and its help: what tyro parses, said in groups and in the words of the field.

tyro's own help cannot say it so: it groups by nested dataclass alone, so that half of a command's options are one list; it
prints `{None}|INT` and `(default: None)` beside defaults that the text tells; and it draws boxes, also into files and pipes. No
marker or option of `tyro.cli` (1.0) changes these. What is listed here also finds the near names of a misspelt option.
"""

import ast
import dataclasses
import inspect
import re
import shutil
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from itertools import pairwise
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import tyro

from supervit.commands._texts import METAVARS, text_of

_WIDEST = 100
_INDENT = 26
_NAMES = {int: "INT", float: "FLOAT", str: "TEXT", Path: "PATH"}
_GROUPS = {
    "data": ("split", "images", "calibration_images", "timed_images"),
    "output": ("out", "overwrite", "form", "top_k", "draw", "draw_points", "plot", "tensorboard", "wandb", "log_every"),
    "run": ("resume", "seed", "device", "threads", "batch_size", "batch_sizes", "repeats", "warmup", "workers"),
    "checkpoints": ("save_every", "save_minutes", "keep_checkpoints", "eval_every"),
    "model": ("init",),
}
_ABOUT_FILE = re.compile(r"\.(json|ya?ml)'")
_GROUP_OF = {name: group for group, names in _GROUPS.items() for name in names}


@dataclass(frozen=True)
class Option:
    """One option of a command, as the command line takes it."""

    flags: tuple[str, ...]
    """Such as --data.root; empty for an argument that is known by its place."""
    metavar: str
    help: str
    group: str
    default: Any = field(compare=False)

    @property
    def is_required(self) -> bool:
        """Whether it must be given."""
        return self.default is dataclasses.MISSING

    @property
    def head(self) -> str:
        """What is typed."""
        return " ".join(filter(None, (", ".join(self.flags), self.metavar)))

    @property
    def text(self) -> str:
        """What it is, and its default where the help does not say it."""
        if self.is_required:
            return f"{self.help} (required)"
        if self.default in (None, (), "") or "default:" in self.help:
            return self.help
        values = self.default if isinstance(self.default, tuple) else (self.default,)
        return f"{self.help} (default: {' '.join(map(text_of, values))})"


def options_of(command: type, default: Any = None, prefix: str = "", group: str = "") -> Iterator[Option]:
    """The options of a dataclass and of those inside.

    Args:
        command: The dataclass.
        default: An instance with the defaults, where they are not those of the class.
        prefix: Of the flags, such as `data.`.
        group: Of all of them; default: each by its name.
    """
    documentation, hints = _documentation(command), get_type_hints(command, include_extras=True)
    for each in dataclasses.fields(command):
        hint, value = hints[each.name], _default(each, default)
        marks, inner = (hint.__metadata__, hint.__origin__) if get_origin(hint) is Annotated else ((), hint)
        if isinstance(inner, type) and dataclasses.is_dataclass(inner):
            if value is not None and value is not dataclasses.MISSING:
                inner = type(value)
            is_bare = any(getattr(mark, "name", None) == "" for mark in marks)
            group_inside = {"run_by": "run", "overrides": "model"}.get(each.name, each.name)
            yield from options_of(inner, value, prefix if is_bare else f"{prefix}{each.name}.", group_inside)
            continue
        flag = f"{prefix}{each.name}".replace("_", "-")
        is_positional = tyro.conf.Positional in marks
        metavar = next((mark.metavar for mark in marks if getattr(mark, "metavar", None)), None) or _metavar(inner)
        flags: tuple[str, ...] = (f"--{flag}",)
        if inner is bool:
            head, _, last = flag.rpartition(".")
            flags, metavar = (*flags, f"--{head + '.' if head else ''}no-{last}"), ""
        if is_positional:
            flags, metavar = (), each.name.upper() + (" ..." if get_origin(inner) is tuple else "")
        where = "arguments" if is_positional else group or _GROUP_OF.get(each.name, "options")
        yield Option(flags, metavar, documentation.get(each.name, ""), where, value)


def in_flags(text: str, options: Iterable[Option]) -> str:
    """A message with the flags of a command's options in the place of their names in Python.

    A name of one word is one where a value stands behind it, as in `lr 0`. A name that several options end in stays, unless
    all of it is there (`data.batch_size`); and in a message about a file of settings all do, as the file has them so.
    """
    if _ABOUT_FILE.search(text):
        return text
    flags: dict[str, list[str]] = {}
    for option in options:
        for flag in option.flags[:1]:
            name = flag.removeprefix("--").replace("-", "_")
            for known in {name, name.rpartition(".")[2]}:
                flags.setdefault(known, []).append(flag)
    for name, found in flags.items():
        shape = rf"(?<![\w./'-]){re.escape(name)}(?![\w./'-])"
        if not re.search("[_.]", name):
            shape = rf"{shape}(?= ?=| (-?\d|-?inf|nan|None))|^{name}(?= ')"
        if len(found) == 1:
            text = re.sub(shape, found[0], text)
    return text


def _default(each: "dataclasses.Field[Any]", instance: Any) -> Any:
    if instance is not None:
        value = getattr(instance, each.name)
    elif each.default_factory is not dataclasses.MISSING:
        value = each.default_factory()
    else:
        value = each.default
    return dataclasses.MISSING if value is tyro.MISSING else value


def _metavar(hint: Any) -> str:
    """How a value of a type is written, such as INT or {train,val}."""
    if hint in METAVARS:
        return METAVARS[hint]
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return "|".join(_metavar(each) for each in arguments if each is not NoneType)
    if origin is Literal:
        return "{" + ",".join(map(str, arguments)) + "}"
    if origin is tuple:
        return f"{_metavar(arguments[0])} ..." if arguments[-1] is ... else " ".join(map(_metavar, arguments))
    return _NAMES.get(hint, "VALUE")


@cache
def _documentation(command: type) -> dict[str, str]:
    """The texts below the fields of a dataclass and of those that it inherits from."""
    texts = {}
    for cls in reversed(command.__mro__):
        if not dataclasses.is_dataclass(cls):
            continue
        (tree,) = ast.parse(textwrap.dedent(inspect.getsource(cls))).body
        body = tree.body if isinstance(tree, ast.ClassDef) else []
        for here, below in pairwise(body):
            if isinstance(here, ast.AnnAssign) and isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant):
                texts[ast.unparse(here.target)] = " ".join(str(below.value.value).split())
    return texts


def usage_of(program: str, options: list[Option]) -> str:
    """The line that says how a command is called."""
    required = [option.head for option in options if option.flags and option.is_required]
    places = [option.metavar for option in options if not option.flags]
    return f"usage: {' '.join([program, '[options]', *required, *places])}"


def help_of(program: str, about: str, options: list[Option]) -> str:
    """The help of a command: what it does and its options in groups, no wider than the terminal and 100 columns."""
    groups: dict[str, dict[str, str]] = {}
    for option in options:
        groups.setdefault(option.group, {})[option.head] = option.text
    order = ("arguments", "options", "model", "data", "run", "checkpoints", "output")
    ordered = {name: groups[name] for name in sorted(groups, key=lambda name: (*order, name).index(name))}
    ordered.setdefault("options", {})
    return _page(usage_of(program, options), about, {**ordered, "": {"-h, --help": "Show this and stop."}})


def list_of(program: str, about: str, kind: str, names: Mapping[str, str], options: Mapping[str, str]) -> str:
    """The help of what has subcommands: their names, each with what it does, and the options there are before them."""
    return _page(f"usage: {program} {kind.upper()} [options]", about, {f"{kind}s": names, "options": options})


def _page(usage: str, about: str, groups: Mapping[str, Mapping[str, str]]) -> str:
    width = max(min(shutil.get_terminal_size().columns, _WIDEST), 40)
    parts = [usage, textwrap.fill(about, width)]
    for name, lines in groups.items():
        said = [f"{name}:"] if name else []
        for head, text in lines.items():
            indent = " " * min(_INDENT, width // 3)
            start = f"  {head}  ".ljust(len(indent))
            body = textwrap.wrap(text, width - len(indent), break_on_hyphens=False) or [""]
            if len(start) > len(indent):
                said.append(start.rstrip())
                start = indent
            said += [start + body[0], *(indent + line for line in body[1:])]
        if len(said) > 1 or not name:
            parts.append("\n".join(said))
    return "\n\n".join(parts)
