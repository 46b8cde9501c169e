"""Everything that takes seconds shows a bar on a terminal, and none in a pipe or in the library."""

import io
import sys

import pytest
from PIL import Image

import supervit
import supervit.runtimes
from supervit import SuperViT
from supervit.cli import main
from supervit.evaluate import measure_throughput
from tests.conftest import small_config, trained_like

DATA = ["--data.name", "digits", "--data.workers", "0"]
COMMANDS = {
    "evaluate": (["--points", "4", "--repeats", "1", *DATA], {"images", "time"}),
    "benchmark": (["--points", "4", "--batch-size", "1", "--repeats", "1"], {"time"}),
    "profile": (["--points", "4", "--repeats", "1"], {"time"}),
    "cascade": (["--points", "4@0.5", "4", "--timed-images", "4", *DATA], {"images", "search", "time"}),
    "search": (["--passes", "1", *DATA], {"images"}),
    "runtimes": (["--images", "4", "--calibration-images", "0", "--repeats", "1", "--points", "4", *DATA], {"runtimes"}),
    "export": (["--target", "torch_export", "--points", "4"], {"export"}),
    "predict": (["picture.png"], {"predict"}),
}


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def model(tmp_path, monkeypatch) -> str:
    pytest.importorskip("sklearn")
    monkeypatch.chdir(tmp_path)
    trained_like(SuperViT(small_config(in_chans=1, num_classes=10, depth=2, drop_blocks=(1,)))).save(tmp_path / "model")
    Image.new("L", (30, 30)).save(tmp_path / "picture.png")
    here = [supervit.runtimes.Availability("eager", "float32", None)]
    monkeypatch.setattr("supervit.comparison.available_runtimes", lambda device: here)
    return "model"


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_shows_what_it_is_doing(command, model, monkeypatch, capsys):
    options, bars = COMMANDS[command]
    options = [*options, "--out", "out"] if command == "export" else options
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    main([command, model, *options])
    shown = terminal.getvalue()
    assert all(f"{bar}: " in shown for bar in bars)
    assert shown.rstrip(" ").endswith("\r")  # nothing is left of them


def test_no_bar_in_a_pipe_nor_in_the_library_nor_in_the_second_process(model, monkeypatch, capsys):
    main(["benchmark", model, *COMMANDS["benchmark"][0]])
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    measure_throughput(supervit.load(model), [supervit.Complexity(4)], 1, 1)
    monkeypatch.setenv("RANK", "1")
    main(["benchmark", model, *COMMANDS["benchmark"][0]])
    assert terminal.getvalue() == ""
