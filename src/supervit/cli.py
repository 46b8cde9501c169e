"""The command `supervit`: its subcommands, and what a user sees of an error."""

import contextlib
import io
import sys
from collections.abc import Sequence
from typing import Annotated, Any

import tyro

from supervit.commands import (
    Benchmark,
    Cascade,
    Convert,
    Curves,
    Evaluate,
    Export,
    Label,
    Macs,
    Predict,
    Profile,
    Runtimes,
    Train,
    list_recipes,
)
from supervit.errors import SuperViTError

Command = (
    Annotated[Train, tyro.conf.subcommand("train")]
    | Annotated[Curves, tyro.conf.subcommand("curves")]
    | Annotated[Evaluate, tyro.conf.subcommand("evaluate")]
    | Annotated[Benchmark, tyro.conf.subcommand("benchmark")]
    | Annotated[Macs, tyro.conf.subcommand("macs")]
    | Annotated[Convert, tyro.conf.subcommand("convert")]
    | Annotated[Label, tyro.conf.subcommand("label")]
    | Annotated[Profile, tyro.conf.subcommand("profile")]
    | Annotated[Cascade, tyro.conf.subcommand("cascade")]
    | Annotated[Runtimes, tyro.conf.subcommand("runtimes")]
    | Annotated[Export, tyro.conf.subcommand("export")]
    | Annotated[Predict, tyro.conf.subcommand("predict")]
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; what a user can mend is one line on standard error and exit status 2."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    try:
        if arguments == ["train", "--list"]:  # beside the recipes, which are subcommands
            list_recipes()
        else:
            _parse_arguments(arguments).run()
    except (SuperViTError, OSError) as error:
        print(f"supervit: error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None


def _parse_arguments(arguments: Sequence[str]) -> Any:
    """The command asked for; a value that our own configs refuse is raised as they raised it, without tyro's box."""
    errors = io.StringIO()
    try:
        with contextlib.redirect_stderr(errors):
            return tyro.cli(
                Command,
                prog="supervit",
                description="One vision transformer, trained once, that runs at any compute budget.",
                args=arguments,
                config=(tyro.conf.OmitSubcommandPrefixes,),
            )
    except SystemExit as stop:
        cause: BaseException | None = stop
        while cause is not None:
            if isinstance(cause, SuperViTError):
                raise cause from None
            cause = cause.__context__
        print(errors.getvalue(), end="", file=sys.stderr)
        raise
