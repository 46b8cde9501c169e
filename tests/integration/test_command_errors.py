"""What a user sees where a command fails for want of memory, or where nobody reads what it says."""

import pytest

from supervit import commands
from supervit.cli import main


def failing(monkeypatch, error):
    def run(_command):
        raise error

    monkeypatch.setattr(commands.Macs, "run", run)


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 99 bytes"),
    ],
)
def test_too_little_memory_is_one_line_that_says_what_to_do(monkeypatch, capsys, error):
    failing(monkeypatch, error)
    with pytest.raises(SystemExit) as stop:
        main(["macs", "deit_tiny"])
    said = "supervit: error: there is not enough memory for this; use smaller batches or fewer images\n"
    assert (stop.value.code, capsys.readouterr().err) == (2, said)


def test_an_error_of_ours_keeps_its_traceback(monkeypatch):
    failing(monkeypatch, RuntimeError("shapes differ"))
    with pytest.raises(RuntimeError, match="shapes differ"):
        main(["macs", "deit_tiny"])


def test_a_reader_that_has_gone_ends_the_command_with_the_status_of_a_broken_pipe(monkeypatch, capsys):
    failing(monkeypatch, BrokenPipeError())
    with pytest.raises(SystemExit) as stop:
        main(["macs", "deit_tiny"])
    assert (stop.value.code, capsys.readouterr().err) == (141, "")
