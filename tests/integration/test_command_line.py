"""The command line as such: help, versions, completion, misspelt and odd words, and streams that go away."""

import os
import re
import subprocess
import sys
from importlib.metadata import version

import pytest

import supervit
from supervit.cli import COMMANDS, main
from supervit.recipes import recipe_names

CALLS = [[name] for name in COMMANDS if name != "train"] + [["train", name] for name in ("digits", "lvvit_small", "finetune")]


def refused(capsys, *arguments) -> str:
    with pytest.raises(SystemExit) as stop:
        main([*arguments])
    out, said = capsys.readouterr()
    assert (stop.value.code, out) == (2, ""), said
    assert re.fullmatch(r"supervit: error: .{10,620}\n", said)
    assert said.isprintable() or said.rstrip("\n").isprintable()
    return said


def help_text(capsys, *command) -> str:
    with pytest.raises(SystemExit) as stop:
        main([*command, "--help"])
    assert stop.value.code == 0
    return capsys.readouterr().out


def run(*arguments, **options) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([sys.executable, "-m", "supervit", *arguments], capture_output=True, text=True, **options)


@pytest.mark.parametrize("flag", ["--version", "-V"])
def test_it_says_its_version(flag, capsys):
    main([flag])
    assert capsys.readouterr().out == f"supervit {supervit.__version__}\n"
    assert supervit.__version__ == version("supervit")


@pytest.mark.parametrize("call", [[], ["train"], *CALLS], ids=" ".join)
@pytest.mark.parametrize("columns", [1, 60, 100, 200])
def test_help_is_readable_and_fits(call, columns, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(columns))
    text = help_text(capsys, *call)
    lines = text.splitlines()
    assert lines[0].startswith(f"usage: {' '.join(['supervit', *call])}")
    if columns >= 60:  # no narrower than a flag and its values
        assert all(len(line) <= max(min(columns, 100), len(line.strip()) + 28) for line in lines)
        assert max(map(len, lines[1:])) <= 100
    assert not re.search(r"None[}|]|\{\[|STR|[│╭]|default: (None)?\)", text)


@pytest.mark.parametrize("call", CALLS, ids=" ".join)
def test_options_come_in_groups_and_each_says_what_it_is(call, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    text = help_text(capsys, *call)
    groups = re.findall(r"^(\w+):$", text, re.MULTILINE)
    assert groups == [
        name for name in ("arguments", "options", "model", "data", "run", "checkpoints", "output") if name in groups
    ]
    assert len(groups) >= 2 or call in (["macs"], ["convert"], ["label"])
    for block in re.split(r"\n(?=  [-A-Z])", text)[1:]:
        head, _, words = re.sub(r"\s*\n\s{10,}", "  ", block.strip()).partition("  ")
        assert len(words.split()) >= 2, f"{head} says nothing"


def test_every_option_of_the_help_is_one_that_is_parsed(capsys):
    """The help is ours, the parsing tyro's: the completion, which tyro makes, has the same options."""
    with pytest.raises(SystemExit):
        main(["--completion", "bash"])
    known = set(re.findall(r"--[a-z][a-z0-9.-]*", capsys.readouterr().out))
    for call in CALLS:
        assert set(re.findall(r"--[a-z][a-z0-9.-]*[a-z0-9]", help_text(capsys, *call))) <= known


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shells_complete_commands_recipes_and_options(shell, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--completion", shell])
    script = capsys.readouterr().out
    assert not stop.value.code
    assert all(name in script for name in [*COMMANDS, *recipe_names(), "data.batch-size", "model.embed-dim"])
    assert refused(capsys, "--completion", f"x{shell}").endswith("bash, zsh, fish\n")


@pytest.mark.parametrize(
    "call, hint",
    [
        (["evaluat", "model"], "unknown command 'evaluat'; did you mean evaluate?"),
        (["train", "digit"], "unknown recipe 'digit'; did you mean digits?"),
        (["train", "deit_smal", "--epochs", "1"], "unknown recipe 'deit_smal'; did you mean deit_small"),
        (["train", "digits", "--epoch", "1"], "unknown option '--epoch'; did you mean --epochs"),
        (["train", "digits", "--scale", "1", "1"], "unknown option '--scale'; did you mean --data.scale?"),
        (["evaluate", "model", "--point", "8"], "unknown option '--point'; did you mean --points"),
        (["evaluate", "model", "--data-root=x"], "unknown option '--data-root'; did you mean --data.root"),
        (["export", "model", "--presicion", "int8"], "unknown option '--presicion'; did you mean --precision"),
        (["macs", "deit_small", "--zzzzzzzz"], "unknown option '--zzzzzzzz'; see supervit macs --help"),
        (["--versoin"], "unknown option '--versoin'; did you mean --version"),
    ],
)
def test_misspelt_words_get_the_near_ones_of_this_command(call, hint, capsys):
    assert hint in refused(capsys, *call)


ODD = [
    ([], "which command?"),
    (["train"], "which recipe?"),
    (["train", "--epochs", "3"], "'--epochs' comes before a recipe"),
    (["predict"], "MODEL and IMAGES ... missing; usage: supervit predict [options] MODEL IMAGES ..."),
    (["export", "model"], "--out PATH missing"),
    (["label", "--out", "x"], "--root PATH and --teacher TEXT missing"),
    (["macs", "deit_small", "more"], "not understood: more"),
    (["evaluate", "model", "--out"], "Missing value for argument '--out'"),
    (["predict", "model", "x", "--form", "xml"], "invalid choice 'xml' for argument '--form'"),
    (["evaluate", "model", "--out", ""], "the argument after '--out' is empty"),
    (["evaluate", "mo\0del"], "holds a NUL byte"),
    (["evaluate", "\udcff\udcfe"], "no such file"),
    (["evaluate", "model", "\x1b[31m--out"], "not understood"),
    (["macs", "deit_small", "--\x1b[31m"], "unknown option '-- [31m'"),
    (["macs", "x" * 100_000], "unknown model"),
]
for bad in ("x", "1.5", "nan", "1e3", "0x10", "9" * 5000, "9" * 20, "-", "None"):
    ODD.append((["benchmark", "deit_tiny", "--batch-size", bad], "batch"))
for bad in ("x", "nan", "inf", "-inf", "1,5", "9" * 400):
    ODD += [(["train", "digits", "--lr", bad], "lr"), (["cascade", "model", "--target-top1", bad], "top1")]
    ODD.append((["train", "digits", "--data.scale", "0.5", bad], "scale"))


ODD.append((["benchmark", "deit_tiny", "--threads", "2147483647"], "threads 2147483647 must be at least 1 and at most 1024"))
ODD.append((["benchmark", "deit_tiny", "--batch-size", "2147483647"], "need at least"))
ODD.append((["train", "digits", "--data.workers", "99999"], "workers 99999 at least 0, at most 512"))
ODD.append(
    (["label", "--root", "x", "--out", "y", "--teacher", "z", "--workers", "99999"], "workers 99999 must be at most 512")
)


@pytest.mark.parametrize("call, hint", ODD)
def test_odd_command_lines_get_one_line(call, hint, capsys):
    assert hint in refused(capsys, *call).replace("-", "_" if "_" in hint else "-")


def test_who_has_read_enough_ends_the_command_quietly():
    command = f"{sys.executable} -m supervit macs deit_small | head -1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert (done.stdout.count("\n"), done.stderr, done.returncode in (0, 141)) == (1, "", True)


@pytest.mark.parametrize(
    "redirection, status", [(">&-", 0), ("2>&-", 0), (">&- 2>&-", 0), ("<&- >&- 2>&-", 0), (">/dev/full", 2)]
)
def test_streams_that_are_closed_or_full_give_no_traceback(redirection, status, tmp_path):
    command = f"{sys.executable} -m supervit train --list {redirection}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, cwd=tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (status, 1 if status else 0)
    assert list(tmp_path.iterdir()) == []


def test_it_runs_without_a_home_a_terminal_or_caches_that_can_be_written(tmp_path):
    kept = {name: os.environ[name] for name in ("PYTHONPATH", "LD_LIBRARY_PATH") if name in os.environ}
    nowhere = {
        "HOME": "/nonexistent",
        "XDG_CACHE_HOME": "/nonexistent",
        "HF_HOME": "/nonexistent",
        "TERM": "dumb",
        "COLUMNS": "x",
    }
    assert run("macs", "deit_tiny", env={**kept, **nowhere, "LC_ALL": "C"}, cwd=tmp_path).returncode == 0
    done = run("train", "digit", env=kept)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "did you mean digits" in done.stderr


@pytest.mark.parametrize("flag", ["--points", "--complexities"])
@pytest.mark.parametrize("form", [["{}", "8@0.5", "14/9"], ["{}=8@0.5"]])
def test_points_are_asked_for_by_one_name_and_by_the_one_they_had(flag, form, capsys):
    main(["macs", "deit_tiny", *(part.format(flag) for part in form)])
    assert "8@0.5" in capsys.readouterr().out
