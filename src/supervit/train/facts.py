"""What decides where a run ends, and whether it is still so when the run goes on."""

import hashlib
from collections.abc import Mapping
from typing import Any

from supervit.data import EpochLoader, is_stream
from supervit.errors import InputError, printable
from supervit.train.config import TrainConfig

_MOST_NAMES = 1000  # of images: enough to notice another order


def trajectory_of(config: TrainConfig, loader: EpochLoader, start: str | None) -> dict[str, Any]:
    """All that decides where a run ends, as plain values by name: settings, data, weights to start from.

    Args:
        config: Of the run, with the model that is trained.
        loader: Of the training images.
        start: Fingerprint of the weights that the run started from, or None.
    """
    facts = {**config.trajectory(), "processes": loader.world.size, "weights of init": start}
    facts["number of training images"] = len(loader.dataset)
    source: Any = loader.dataset.source
    if is_stream(source):  # whose order depends on the shards and on how many share them out
        names = [shard.name for shard in source.shards]
        facts |= {"data.workers": config.data.workers, "number of shards": len(names)}
    else:
        images = len(source)
        names = [source.name_of(index) for index in range(0, images, max(images // _MOST_NAMES, 1))]
    facts["names of training images"] = hashlib.sha256("\n".join(names).encode(errors="replace")).hexdigest()[:16]
    return facts


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, str]:
    """What of a run is no longer as it was when it was started, by name: both values in words."""
    return {
        key: f"{key}: {_shown(before.get(key))}, now {_shown(value)}"
        for key, value in sorted(now.items())
        if value != before.get(key)
    }


def other_run(directory: str, differing: Mapping[str, str]) -> InputError:
    """The error for going on with a run under other circumstances."""
    return InputError(
        f"the run in {directory!r} was started with another {', '.join(differing)}; resume needs the same "
        f"({'; '.join(differing.values())})"
    )


def _shown(value: Any) -> str:
    return printable(repr(value), 60)
