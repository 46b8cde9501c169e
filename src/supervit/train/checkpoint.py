"""Checkpoints of a run: `checkpoints/step-00000700/{model.safetensors, config.json, training_state.pt}`."""

import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from supervit.errors import InputError, TrainingError
from supervit.files import flush_to_disk
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
        flush_to_disk(temporary)
        if directory.exists():
            shutil.rmtree(directory)
        temporary.replace(directory)
    except (OSError, RuntimeError, SafetensorError) as error:  # the writers of torch and safetensors have errors of their own
        shutil.rmtree(temporary, ignore_errors=True)
        kept = checkpoints(run)
        raise TrainingError(
            f"checkpoint {str(directory)!r} cannot be written ({error}); make room and go on with --resume "
            + (f"from {str(kept[-1])!r}" if kept else "(there is no earlier one)")
        ) from error
    for old in checkpoints(run)[:-keep]:
        shutil.rmtree(old)
    return directory


def checkpoints(run: Path) -> list[Path]:
    """The complete checkpoints of a run, oldest first."""
    return sorted((run / "checkpoints").glob("step-*"), key=lambda path: int(path.name.removeprefix("step-")))


def read_checkpoint(checkpoint: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Weights and training state of a checkpoint.

    Raises:
        InputError: a file is missing or damaged.
    """
    weights = SuperViT.from_pretrained(checkpoint).state_dict()
    path = checkpoint / STATE_FILE
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # an unpickler that is fed garbage raises nearly anything
        raise InputError(f"{str(path)!r} cannot be read ({error})") from error
    return weights, state


def set_aside(checkpoint: Path) -> Path:
    """Rename a damaged checkpoint, so that it is neither resumed from nor counted among those kept; its new path."""
    aside = checkpoint.with_name(f"damaged-{checkpoint.name}")
    shutil.rmtree(aside, ignore_errors=True)
    return checkpoint.rename(aside)
