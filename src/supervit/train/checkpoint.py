"""Checkpoints of a run: `checkpoints/step-00000700/{model.safetensors, config.json, training_state.pt, sha256.json}`."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from supervit.errors import InputError, TrainingError, reason_of
from supervit.files import file_digest, flush_to_disk, read_object, refusing, write_json
from supervit.model import SuperViT
from supervit.storage import CONFIG_FILE, WEIGHTS_FILE
from supervit.train.state import ENTRIES
from supervit.weights import read_pickle, read_safetensors

STATE_FILE = "training_state.pt"
DIGESTS_FILE = "sha256.json"


def write_checkpoint(run: Path, step: int, model: SuperViT, state: dict[str, Any], keep: int) -> Path:
    """Write a checkpoint whole or not at all, then remove all but the newest `keep`.

    Args:
        run: Directory of the run.
        step: Steps done.
        model: The weights in training (not their average).
        state: What else is needed to resume, the entries of `ENTRIES`: tensors and plain values.
        keep: Checkpoints kept.

    Raises:
        TrainingError: it cannot be written (disk full, ...); those before are untouched.
    """
    directory = run / "checkpoints" / f"step-{step:08d}"
    for unfinished in directory.parent.glob(".step-*.tmp"):
        shutil.rmtree(unfinished)
    temporary = directory.with_name(f".{directory.name}.tmp")
    try:
        model.save(temporary)
        torch.save(state, temporary / STATE_FILE)
        seal(temporary)
        flush_to_disk(temporary)
        temporary.replace(directory)
        flush_to_disk(directory.parent)
    except (InputError, OSError, RuntimeError, SafetensorError) as error:  # torch and safetensors have errors of their own
        shutil.rmtree(temporary, ignore_errors=True)
        raise TrainingError(
            f"checkpoint {str(directory)!r} cannot be written ({reason_of(error)}); make room ({way_on(run)})"
        ) from error
    for old in checkpoints(run)[:-keep]:
        shutil.rmtree(old)
    return directory


def way_on(run: Path) -> str:
    """How to go on with a run that has stopped, in words that name its newest checkpoint."""
    kept = checkpoints(run)
    return f"go on with --resume from {str(kept[-1])!r}" if kept else "there is no checkpoint yet"


def checkpoints(run: Path) -> list[Path]:
    """The complete checkpoints of a run, oldest first."""
    found = [path for path in (run / "checkpoints").glob("step-*") if re.fullmatch(r"step-\d{8,18}", path.name)]
    return sorted(found, key=_step_of)


def _step_of(checkpoint: Path) -> int:
    return int(checkpoint.name.removeprefix("step-"))


def seal(checkpoint: Path) -> None:
    """Write down the digests of a checkpoint's files."""
    digests = {name: file_digest(checkpoint / name) for name in (WEIGHTS_FILE, CONFIG_FILE, STATE_FILE)}
    write_json(checkpoint / DIGESTS_FILE, digests)


def read_checkpoint(checkpoint: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Weights and training state of a checkpoint, as they were written; `check_state` says whether they fit a run.

    Raises:
        InputError: a file is missing or damaged, or is not of this step.
    """
    with refusing(f"{str(checkpoint)!r} is damaged", f"its files are no longer those of {DIGESTS_FILE}"):
        digests = read_object(checkpoint / DIGESTS_FILE)
    for name in (WEIGHTS_FILE, CONFIG_FILE, STATE_FILE):
        if file_digest(checkpoint / name) != digests.get(name):
            raise InputError(f"{str(checkpoint / name)!r} is damaged: its digest is not that of {DIGESTS_FILE}")
    weights = read_safetensors(checkpoint / WEIGHTS_FILE)
    path = checkpoint / STATE_FILE
    state: Any = read_pickle(path)
    if not isinstance(state, dict) or set(state) != set(ENTRIES):
        raise InputError(f"{str(path)!r} has not the entries {', '.join(ENTRIES)}")
    if not all(_is_plain(state[name]) for name in ("trajectory", "versions")):
        raise InputError(f"{str(path)!r} does not say what it was made with")
    if type(state["step"]) is not int or state["step"] != _step_of(checkpoint):
        raise InputError(f"{str(path)!r} is not of step {_step_of(checkpoint)}")
    return weights, state


def _is_plain(value: Any) -> bool:
    """Whether it is an object of plain values, which can be compared: a tensor is neither equal to another nor not."""
    try:
        json.dumps(value)
    except (TypeError, ValueError, RecursionError):
        return False
    return isinstance(value, dict)


def set_aside(checkpoint: Path) -> Path:
    """Rename a damaged checkpoint, so that it is neither resumed from nor counted among those kept; its new path."""
    aside = checkpoint.with_name(f"damaged-{checkpoint.name}")
    shutil.rmtree(aside, ignore_errors=True)
    return checkpoint.rename(aside)
