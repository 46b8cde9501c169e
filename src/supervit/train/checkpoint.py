"""Checkpoints of a run: `checkpoints/step-00000700/{model.safetensors, config.json, training_state.pt}`."""

import shutil
from pathlib import Path
from typing import Any

import torch

from supervit.errors import InputError
from supervit.model import SuperViT

STATE_FILE = "training_state.pt"


def write_checkpoint(run: Path, step: int, model: SuperViT, state: dict[str, Any], keep: int) -> Path:
    """Write a checkpoint whole or not at all, then remove all but the newest `keep`.

    Args:
        run: Directory of the run.
        step: Steps done.
        model: The weights in training (not their average).
        state: What else is needed to resume: tensors and plain values.
        keep: Checkpoints kept.
    """
    directory = run / "checkpoints" / f"step-{step:08d}"
    temporary = directory.with_name(f".{directory.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    model.save(temporary)
    torch.save(state, temporary / STATE_FILE)
    if directory.exists():
        shutil.rmtree(directory)
    temporary.replace(directory)
    for old in checkpoints(run)[:-keep]:
        shutil.rmtree(old)
    return directory


def checkpoints(run: Path) -> list[Path]:
    """The complete checkpoints of a run, oldest first."""
    return sorted((run / "checkpoints").glob("step-*"), key=lambda path: int(path.name.removeprefix("step-")))


def read_state(checkpoint: Path) -> dict[str, Any]:
    """The training state of a checkpoint.

    Raises:
        InputError: the file is missing or damaged.
    """
    path = checkpoint / STATE_FILE
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # an unpickler that is fed garbage raises nearly anything
        raise InputError(
            f"{str(path)!r} cannot be read ({error}); remove that checkpoint to resume from the one before"
        ) from error
    return state
