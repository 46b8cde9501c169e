"""A few hundred malformed and odd inputs of each kind: what comes out is an answer or a refusal in one line, in bounds."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from supervit.errors import SuperViTError
from tests.fuzz.judge import fault_of_message, judge
from tests.fuzz.workshop import has

ROOT = Path(__file__).resolve().parents[2]
COUNTS = {"images": 150, "weights": 80, "json": 60, "tars": 60, "artefacts": 6, "commands": 5}
pytestmark = pytest.mark.skipif(not hasattr(os, "fork") or not Path("/proc/self/status").exists(), reason="forks, reads /proc")


@pytest.fixture(scope="module")
def figures(tmp_path_factory):
    """Of a run of the script; in a process of its own, as it forks."""
    out = tmp_path_factory.mktemp("fuzz") / "fuzz.json"
    counts = {kind: count if kind != "commands" or has("tyro") else 0 for kind, count in COUNTS.items()}
    options = [word for kind, count in counts.items() for word in (f"--{kind}", str(count))]
    command = [sys.executable, "benchmarks/fuzz.py", *options, "--seed", "1", "--out", str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert out.exists(), done.stdout[-2000:] + done.stderr[-4000:]
    return json.loads(out.read_text())


@pytest.mark.parametrize("kind", COUNTS)
def test_only_answers_and_refusals_in_a_line_come_out_in_bounded_time_and_memory(figures, kind):
    faults = [fault for fault in figures["faults"] if fault["kind"] == kind]
    assert not faults, "\n\n".join(
        f"{kind}:{fault['number']} ({fault['what']}) {fault['door']}: {fault['outcome']}, {fault['detail']}"
        for fault in faults[:5]
    )
    if figures["kinds"][kind]["cases"] >= 50:  # of few, all may be refused
        assert set(figures["kinds"][kind]["outcomes"]) == {"answered", "refused"}


@pytest.mark.parametrize(
    "message, fault",
    [
        ("cat.jpg is damaged; replace it", ""),
        ("x" * 700, "700 characters"),
        ("", "empty"),
        ("red \x1b[31m", "unprintable"),
        ("two\nlines", "unprintable"),
        ("set weights_only=False", "advises weights_only=False"),
        ("cannot identify <_io.BytesIO object at 0x7f>", "says <_io."),
    ],
)
def test_messages_are_judged(message, fault):
    assert fault_of_message(message) == fault


@pytest.mark.parametrize("name, outcome", [("; touch executed", "answered"), ("executed", "left"), ("out/executed", "left")])
def test_what_a_case_executes_is_told_from_names_that_it_gives(tmp_path, name, outcome):
    verdict = judge("commands", 0, "convert", ("supervit convert", lambda: (tmp_path / name).mkdir(parents=True)), tmp_path)
    assert verdict.outcome == outcome


@pytest.mark.parametrize("message", ["x" * 10_000, "red \x1b[31m", "two\nlines"])
def test_errors_of_ours_pass(message):
    assert fault_of_message(str(SuperViTError(message))) == ""
