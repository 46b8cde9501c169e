"""timm's transforms, as every installed Pillow can run them."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from timm.data import create_transform
from timm.data.auto_augment import AugmentOp

# What holds transforms: Compose, RandAugment and AugMix, AutoAugment; and ours that tells its geometry.
_HOLDERS = ("transforms", "ops", "policy", "policies", "on_picture")


@dataclass(frozen=True)
class _OneBitAtLeast:
    """How many bits a posterize operation keeps; of 0, which its level can come to, Pillow 13 makes an error."""

    level_to_arg: Callable[[float, Any], tuple[int]]

    def __call__(self, level: float, hparams: Any) -> tuple[int]:
        return (max(self.level_to_arg(level, hparams)[0], 1),)


def create_augmentation(*shape: Any, **options: Any) -> Any:
    """What `timm.data.create_transform` makes, with the same random draws, whose operations run at every level."""
    transform = create_transform(*shape, **options)
    for op in operations(transform):
        if op.name.startswith("Posterize"):
            op.level_fn = _OneBitAtLeast(op.level_fn)
    return transform


def operations(transform: Any) -> Iterator[AugmentOp]:
    """The operations of the policy in a transform."""
    if isinstance(transform, AugmentOp):
        yield transform
    elif isinstance(transform, list | tuple):
        for part in transform:
            yield from operations(part)
    else:
        for holder in _HOLDERS:
            yield from operations(getattr(transform, holder, ()))


def failed_step(trace: TracebackType | None) -> str:
    """The name of the transform that an error comes from: of the innermost object that was called on its way."""
    name = "transform"
    while trace is not None:
        frame, trace = trace.tb_frame, trace.tb_next
        step = frame.f_locals.get("self")
        if step is not None and frame.f_code.co_name in ("__call__", "forward"):
            name = step.name if isinstance(step, AugmentOp) else type(step).__name__
    return name
