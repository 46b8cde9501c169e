"""The command `supervit`: its subcommands, and what a user sees of an error."""

import contextlib
import dataclasses
import difflib
import io
import math
import os
import re
import sys
import warnings
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, NoReturn, Union

import tyro

from supervit import commands
from supervit._version import __version__
from supervit.commands._help import Option, help_of, in_flags, list_of, options_of, usage_of
from supervit.commands._interrupting import exit_at_signals, raise_at_signals, report_interrupt
from supervit.commands._texts import REGISTRY
from supervit.errors import AssumptionWarning, InputError, SuperViTError, naming_lost_workers, printable, unknown_name
from supervit.files import Output, recording_output
from supervit.progress import bars_shown
from supervit.recipes import describe_recipe, load_recipe, recipe_names

ABOUT = "One vision transformer, trained once, that runs at any compute budget."
COMMANDS: dict[str, type] = {
    "train": commands.Train,
    "curves": commands.Curves,
    "evaluate": commands.Evaluate,
    "predict": commands.Predict,
    "macs": commands.Macs,
    "benchmark": commands.Benchmark,
    "profile": commands.Profile,
    "search": commands.Search,
    "cascade": commands.Cascade,
    "runtimes": commands.Runtimes,
    "export": commands.Export,
    "convert": commands.Convert,
    "label": commands.Label,
}
SHELLS = ("bash", "zsh", "fish")
_FORMER = {"--complexities": "--points", "--complexity": "--point", "--draw-complexities": "--draw-points"}
_HELP = ("-h", "--help")
_LARGEST = 2**31 - 1
_NO_MEMORY = re.compile("out of memory|allocate memory|not enough memory")  # what torch says of it, in a RuntimeError


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; what a user can mend is one line on standard error and exit status 2."""
    if arguments is None:  # the process is ours
        exit_at_signals()
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    _prepare_streams()
    try:
        try:
            with recording_output() as output, bars_shown(), naming_lost_workers(), warnings.catch_warnings():
                warnings.showwarning = _show_warning
                _run(arguments, output)
        except SystemExit as stop:
            if stop.code:  # it stays, whether or not somebody reads
                _forget_output()
            raise
        finally:
            sys.stdout.flush()
    except BrokenPipeError:  # who reads has seen enough, as of `| head`
        _forget_output()
        raise SystemExit(141) from None
    except (SuperViTError, OSError, MemoryError, RuntimeError) as error:
        reason = str(error)
        if isinstance(error, MemoryError) or _NO_MEMORY.search(reason):
            reason = "there is not enough memory for this; use smaller batches or fewer images"
        elif not isinstance(error, SuperViTError | OSError):
            raise
        print(f"supervit: error: {printable(reason)}", file=sys.stderr)
        _forget_output()
        raise SystemExit(2) from None
    except KeyboardInterrupt as interrupt:
        _forget_output()
        raise SystemExit(report_interrupt(interrupt, output)) from None


def _show_warning(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, file: Any = None, line: str | None = None
) -> None:
    """One line for what was assumed; warnings of other packages as Python shows them."""
    is_ours = issubclass(category, AssumptionWarning)
    text = f"supervit: warning: {message}\n" if is_ours else warnings.formatwarning(message, category, filename, lineno, line)
    with contextlib.suppress(OSError):  # nobody reads it
        print(text, end="", file=file or sys.stderr)


def _prepare_streams() -> None:
    """Streams that are closed swallow what is said; names that are no text are printed as escapes."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115, PTH123
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def _forget_output() -> None:
    """What could not be written would be tried again, and complained of, when Python ends."""
    try:
        sys.stdout.flush()
    except OSError:
        with contextlib.suppress(OSError), open(os.devnull, "w") as nowhere:  # noqa: PTH123
            os.dup2(nowhere.fileno(), sys.stdout.fileno())


def _run(arguments: list[str], output: Output) -> None:
    for index, argument in enumerate(arguments):
        if not argument or "\0" in argument:
            after = f" after {arguments[index - 1]!r}" if index else ""
            raise InputError(f"the argument{after} is empty or holds a NUL byte; give a value, or leave the option out")
    if not arguments:
        raise InputError(f"which command? {', '.join(COMMANDS)}; see supervit --help")
    name, *rest = arguments
    if name in _HELP:
        _print_help(_command_list())
    elif name in ("-V", "--version"):
        print(f"supervit {__version__}")
    elif name == "--completion":
        _print_completion(rest)
    elif name.startswith("-"):
        raise _unknown_option(name, ["--help", "--version", "--completion"], "supervit")
    elif name not in COMMANDS:
        raise unknown_name("command", name, COMMANDS)
    elif name == "train":
        _train(rest)
    else:
        rest = [_renamed(argument) for argument in rest]
        with _naming_flags(COMMANDS[name]):
            command = parse(COMMANDS[name], rest, f"supervit {name}")
            raise_at_signals(output)
            command.run()


def _renamed(argument: str) -> str:
    """An option by its name of now: scripts may have the one it had."""
    flag, sign, value = argument.partition("=")
    return _FORMER.get(flag, flag) + sign + value


def _train(arguments: list[str]) -> None:
    if not arguments:
        raise InputError("which recipe? supervit train RECIPE [options]; see supervit train --list")
    name, *rest = arguments
    if commands.names_settings(arguments):
        recipe, config, rest = commands.open_settings(arguments)
        about = describe_recipe(recipe) if recipe is not None else str(commands.Train.__doc__)
        program = f"supervit train {recipe or ''} --config FILE".replace("  ", " ")
        with _naming_flags(type(config), config):
            commands.Train(parse(type(config), rest, program, config, about), recipe).run()
    elif name == "--list":
        commands.list_recipes()
    elif name in _HELP:
        recipes = {name: describe_recipe(name) for name in recipe_names()}
        options = {
            "--list": "List the recipes.",
            "--config FILE": "Settings in a file, the train_config.json of a run or YAML such as 'recipe: finetune' and "
            "'epochs: 5'; options go before them, and they before the recipe, which need not be named then.",
            "-h, --help": "Show this, or after a recipe its options.",
        }
        _print_help(list_of("supervit train", str(commands.Train.__doc__), "recipe", recipes, options))
    elif name.startswith("-"):
        raise InputError(f"{printable(name)!r} comes before a recipe; write supervit train RECIPE [options], see --list")
    else:
        config, program = load_recipe(name), f"supervit train {name}"
        with _naming_flags(type(config), config):
            commands.Train(parse(type(config), rest, program, config, describe_recipe(name)), name).run()


def parse(command: type, arguments: list[str], program: str, default: Any = None, about: str = "") -> Any:
    """The command or config with the values of these arguments.

    Args:
        command: A dataclass.
        arguments: The command line after `program`.
        program: Such as `supervit evaluate`.
        default: An instance with the defaults, where they are not those of the class.
        about: What it does; default: its documentation.

    Raises:
        InputError: an unknown option (with the near ones), one that lacks or refuses its value, or an argument too much.
        SystemExit: with status 0, after the help, where it is asked for.
    """
    options = list(options_of(command, default))
    if any(argument in _HELP for argument in arguments):
        _print_help(help_of(program, about or str(command.__doc__).partition("\n")[0], options))
    known = [flag for option in options for flag in option.flags]
    for argument in arguments:
        flag = argument.partition("=")[0].replace("_", "-")
        if flag.startswith("--") and flag not in known:
            raise _unknown_option(flag, known, program, options)
    said, kind = io.StringIO(), {} if default is None else {"default": default}
    try:
        with contextlib.redirect_stderr(said):
            made = tyro.cli(command, prog=program, args=arguments, add_help=False, registry=REGISTRY, **kind)
    except SystemExit as stop:
        _raise_reason(stop, said.getvalue(), options, arguments, program)
    _check_numbers(made)
    return made


@contextlib.contextmanager
def _naming_flags(command: type, default: Any = None) -> Iterator[None]:
    """A block whose errors name options as this command has them, not as fields of a config in Python."""
    try:
        yield
    except SuperViTError as error:
        error.args = (in_flags(str(error), options_of(command, default)),)
        raise


def _print_help(text: str) -> NoReturn:
    print(text)
    raise SystemExit(0)


def _raise_reason(stop: SystemExit, said: str, options: list[Option], arguments: list[str], program: str) -> NoReturn:
    """Raise what a config of ours refused as it refused it, else what tyro says in its box as one line."""
    cause: BaseException | None = stop
    while cause is not None:
        if isinstance(cause, SuperViTError):
            raise cause from None
        cause = cause.__context__
    if "(required)" in said:
        given = {argument.partition("=")[0].replace("_", "-") for argument in arguments}
        required = [option for option in options if option.is_required]
        lacking = [option for option in required if option.flags and not given & {*option.flags}]
        names = " and ".join(option.head for option in lacking or [each for each in required if not each.flags])
        raise InputError(f"{names} missing; {usage_of(program, options)}") from None
    text = re.split(r"[─━]{3,}", said.partition("\n")[2])[0]  # below the title, above the rest
    text = " ".join(re.sub(r"[│┃╭╮╰╯]", " ", text).split()).rstrip(".")
    text = text.removeprefix("Error parsing ").replace("Unrecognized options:", "not understood:")
    raise InputError(f"{text}; see {program} --help") from None


def _unknown_option(flag: str, known: Sequence[str], program: str, options: Sequence[Option] = ()) -> InputError:
    """The error for a misspelt option: the near ones of this command, also those with its last part; or what has no flag."""
    places = {f"--{option.metavar.partition(' ')[0].lower()}": option.metavar for option in options if not option.flags}
    for near in difflib.get_close_matches(flag, [*places, *known], n=1):
        if near in places:
            usage = usage_of(program, [*options])
            return InputError(f"unknown option {printable(flag, 60)!r}; {places[near]} is written without one, {usage}")
    last = flag.rpartition(".")[2].lstrip("-")
    same = [each for each in known if each.rpartition(".")[2].lstrip("-") == last]
    if same:
        return InputError(f"unknown option {printable(flag, 60)!r}; did you mean {' or '.join(same[:3])}?")
    error = unknown_name("option", flag, known)
    return error if "did you mean" in str(error) else InputError(f"{str(error).partition(';')[0]}; see {program} --help")


def _check_numbers(made: Any) -> None:
    """Refuse numbers that nothing can be done with: NaN, infinities, and integers that most of PyTorch cannot take."""
    for name, value in vars(made).items():
        if dataclasses.is_dataclass(value):
            _check_numbers(value)
        for number in value if isinstance(value, tuple) else (value,):
            if isinstance(number, float) and not math.isfinite(number):
                raise InputError(f"{name} {number} is no finite number")
            if isinstance(number, int) and abs(number) > _LARGEST:
                raise InputError(f"{name} {number:.3g} is beyond {_LARGEST:,}")


def _command_list() -> str:
    names = {name: str(command.__doc__).partition("\n")[0] for name, command in COMMANDS.items()}
    options = {
        "-V, --version": "Print the version and stop.",
        "--completion SHELL": f"Print the completion of a shell ({', '.join(SHELLS)}), to be sourced there, and stop.",
        "-h, --help": "Show this, or after a command its options.",
    }
    return list_of("supervit", ABOUT, "command", names, options)


def _print_completion(arguments: list[str]) -> None:
    """Print what a shell completes our commands, recipes and options by."""
    if len(arguments) != 1 or arguments[0] not in SHELLS:
        raise InputError(f"--completion {printable(' '.join(arguments), 60)!r}: name one of the shells {', '.join(SHELLS)}")
    recipes = tyro.extras.subcommand_type_from_defaults({name: load_recipe(name) for name in recipe_names()})
    train = dataclasses.make_dataclass("Train", [("recipe", Annotated[recipes, tyro.conf.arg(name="")])])
    types = [Annotated[cls, tyro.conf.subcommand(name)] for name, cls in {**COMMANDS, "train": train}.items()]
    every: Any = Union[tuple(types)]  # noqa: UP007
    tyro.cli(
        every,
        prog="supervit",
        args=["--tyro-print-completion", arguments[0]],
        config=(tyro.conf.OmitSubcommandPrefixes,),
        registry=REGISTRY,
    )
