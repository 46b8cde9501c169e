"""What a checkpoint must hold before any of it goes into a run: PyTorch itself believes what it is given."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from supervit.errors import InputError, printable
from supervit.model import SuperViT

ENTRIES = ("step", "trajectory", "versions", "optimizer", "scaler", "ema")
"""What a training state consists of."""


def check_state(
    weights: Mapping[str, Tensor],
    state: Mapping[str, Any],
    model: SuperViT,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    total_steps: int,
    has_average: bool,
) -> None:
    """Check that weights and training state fit a run, by name, shape, type and value.

    Args:
        weights: Of a checkpoint.
        state: Its training state, with the entries of `ENTRIES`.
        model: Of the run.
        optimizer: Of the run; AdamW.
        scaler: Of the run.
        total_steps: Steps of the run.
        has_average: Whether the run keeps averaged weights.

    Raises:
        InputError: something does not fit; the message names the first such thing.
    """
    own = model.state_dict()
    if state["step"] > total_steps:
        raise InputError(f"its step {state['step']} is beyond the {total_steps} of the run")
    _check_tensors("the weights", weights, own)
    if has_average:
        _check_tensors("the averaged weights", state["ema"], own)
    elif state["ema"] is not None:
        raise InputError("it holds averaged weights, which the run has not")
    _check_optimizer(state["optimizer"], optimizer)
    _check_scaler(state["scaler"], scaler.state_dict())


def _check_optimizer(found: Any, optimizer: torch.optim.Optimizer) -> None:
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    if not isinstance(found, Mapping) or not all(type(index) is int and 0 <= index < len(parameters) for index in found):
        raise InputError(f"the optimizer's state is not of {len(parameters)} parameters")
    for index, moments in found.items():  # those of position tables that no step has drawn yet are missing
        parameter = parameters[index]
        wanted = {"step": torch.zeros(()), "exp_avg": parameter, "exp_avg_sq": parameter}
        _check_tensors(f"the optimizer's state of parameter {index}", moments, wanted, may_overflow=True)


def _check_tensors(what: str, found: Any, wanted: Mapping[str, Tensor], may_overflow: bool = False) -> None:
    if not isinstance(found, Mapping) or found.keys() != wanted.keys():
        raise InputError(f"{what} have not the names of the run's")
    for name, tensor in wanted.items():
        value = found[name]
        if not isinstance(value, Tensor) or value.is_nested or value.layout != torch.strided or value.device.type != "cpu":
            raise InputError(f"{name} in {what} is no plain tensor")
        if value.shape != tensor.shape or value.dtype != tensor.dtype:
            raise InputError(
                f"{name} in {what} is {value.dtype} {tuple(value.shape)} instead of {tensor.dtype} {tuple(tensor.shape)}"
            )
        is_bad = value.isnan() if may_overflow else ~value.isfinite()
        if bool(is_bad.any()):
            raise InputError(f"{name} in {what} is not finite")


def _check_scaler(found: Any, own: Mapping[str, Any]) -> None:
    if not isinstance(found, Mapping) or found.keys() != own.keys():
        raise InputError("the scaler's state has not the entries of the run's")
    for name, value in found.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not (math.isfinite(value) and value >= 0):
            raise InputError(f"{name} of the scaler is {printable(repr(value), 40)}")
