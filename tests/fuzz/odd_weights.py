"""Weights as nobody expects them: tensors that are odd, or none; names that are odd, missing or too many."""

import collections
import os
from collections.abc import Callable
from random import Random
from typing import Any

import numpy as np
import torch

from tests.fuzz.mutations import ODD_TEXTS

Weights = dict[Any, Any]
_PREFIXES = (
    "module.",
    "_orig_mod.",
    "model.",
    "backbone.",
    "encoder.",
    "net.",
    "deit.",
    "vit.",
    "module._orig_mod.",
    "a.b.",
    "",
    "\x1b[31m",
)
_DTYPES = (torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int8, torch.bool, torch.complex64, torch.uint8)


class Foreign:
    """A class that no weights file should need."""


class Executes:
    """Runs something as soon as it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("executed",)


def _one(weights: Weights, rng: Random) -> Any:
    return rng.choice(list(weights)) if weights else "x"


def _changed(change: Callable[[torch.Tensor, Random], Any]) -> Callable[[Weights, Random], Weights]:
    def oddity(weights: Weights, rng: Random) -> Weights:
        for _ in range(rng.choice((1, 1, 3))):
            key = _one(weights, rng)
            value = weights.get(key)
            if isinstance(value, torch.Tensor):
                try:
                    weights[key] = change(value, rng)
                except Exception:
                    weights[key] = torch.zeros(0)
        return weights

    oddity.__name__ = change.__name__
    return oddity


def _not_finite(tensor: torch.Tensor, rng: Random) -> Any:
    tensor = tensor.clone().float()
    tensor.view(-1)[0] = rng.choice((float("nan"), float("inf"), float("-inf"), 3e38))
    return tensor


def _other_type(tensor: torch.Tensor, rng: Random) -> Any:
    return tensor.to(rng.choice(_DTYPES))


def _other_shape(tensor: torch.Tensor, rng: Random) -> Any:
    return rng.choice(
        (
            tensor[None],
            tensor[:1],
            tensor.flatten(),
            tensor[:0],
            tensor.T,
            torch.tensor(1.0),
            tensor.repeat(2, *[1] * (tensor.ndim - 1)),
            torch.zeros(1, 1, 1, 1, 1, 1),
        )
    )


def _stride_0(tensor: torch.Tensor, rng: Random) -> Any:
    width = rng.choice((24, 10**5, 10**9))
    return torch.zeros(1).expand(
        *rng.choice(
            (
                (width,),
                (width, 24),
                (24, width),
                (1, 50, width),
                (width, 3, 4, 4),
                (1, width * width + 1, 24),
                (3, 3, 10**4, 10**4),
            )
        )
    )


def _sparse(tensor: torch.Tensor, rng: Random) -> Any:
    return rng.choice(
        (
            tensor.to_sparse,
            lambda: tensor.to_sparse_csr(),
            lambda: torch.sparse_coo_tensor(torch.zeros(2, 0), torch.zeros(0), (10**9, 24)),
        )
    )()


def _meta(tensor: torch.Tensor, rng: Random) -> Any:
    return tensor.to("meta")


def _no_tensor(tensor: torch.Tensor, rng: Random) -> Any:
    return rng.choice(
        (
            np.float32(1.5),
            np.int64(3),
            tensor.numpy(),
            tensor.tolist(),
            None,
            "text",
            1.0,
            {"a": tensor},
            [tensor],
            Foreign(),
            torch.float32,
            torch.Size([1]),
            collections.OrderedDict(a=tensor),
            {1, 2},
            b"x",
        )
    )


def _quantised(tensor: torch.Tensor, rng: Random) -> Any:
    return rng.choice(
        (
            lambda: torch.quantize_per_tensor(tensor.float(), 0.1, 0, torch.qint8),
            lambda: torch.nn.Parameter(tensor),
            lambda: tensor.conj(),
            lambda: torch.nested.nested_tensor([tensor, tensor]),
            lambda: tensor.to(torch.complex64),
        )
    )()


def _dropped(weights: Weights, rng: Random) -> Weights:
    for _ in range(rng.choice((1, 2, len(weights)))):
        weights.pop(_one(weights, rng), None)
    return weights


def _one_kept(weights: Weights, rng: Random) -> Weights:
    return {key: weights[key] for key in rng.sample(list(weights), min(len(weights), rng.choice((1, 2, 3))))}


def _prefixed(weights: Weights, rng: Random) -> Weights:
    prefix = rng.choice(_PREFIXES)
    return {f"{prefix}{key}": value for key, value in weights.items()}


def _some_prefixed(weights: Weights, rng: Random) -> Weights:
    return {(f"{rng.choice(_PREFIXES)}{key}" if rng.random() < 0.5 else key): value for key, value in weights.items()}


def _renamed(weights: Weights, rng: Random) -> Weights:
    key = _one(weights, rng)
    value = weights.pop(key, torch.zeros(1))
    names = (
        *ODD_TEXTS,
        f"{key}s",
        "blocks.99999999.norm1.weight",
        "blocks.-1.x",
        "blocks.x.y",
        "pos_embeds.0",
        "pos_embeds.x",
        "pos_embeds.999999",
        "pos_embed_list.9",
        "pos_embeds.-3",
        "pos_embeds.007",
    )
    return weights | {rng.choice(names): value}


def _odd_keys(weights: Weights, rng: Random) -> Weights:
    return weights | {rng.choice((0, None, (1, 2), 1.5, b"bytes", True)): torch.zeros(1)}


def _unused(weights: Weights, rng: Random) -> Weights:
    names = (
        "vit.pooler.dense.weight",
        "pooler.dense.bias",
        "vit.embeddings.mask_token",
        "head_dist.weight",
        "dist_token",
        "reg_token",
        "fc_norm.weight",
        "blocks.0.ls1.gamma",
        "rel_pos",
        "num_batches_tracked",
    )
    return weights | {name: torch.zeros(3) for name in rng.sample(names, 2)}


def _deep(weights: Weights, rng: Random) -> Weights:
    """Names of very many blocks, which a reader might build."""
    count = rng.choice((10, 2000, 10**6, 10**9, 10**18))
    return weights | {
        key.replace("blocks.0.", f"blocks.{count}.") if isinstance(key, str) else key: value for key, value in weights.items()
    }


def _wide(weights: Weights, rng: Random) -> Weights:
    """A wide table, of which nothing is there, all shapes made to fit."""
    factor = rng.choice((2, 1000, 10**5))

    def widened(value: Any) -> Any:
        if not isinstance(value, torch.Tensor):
            return value
        return torch.zeros(()).expand([size * factor if size == 24 else size for size in value.shape])

    return {key: widened(value) for key, value in weights.items()}


ODDITIES: tuple[Callable[[Weights, Random], Weights], ...] = (
    *map(_changed, (_not_finite, _other_type, _other_shape, _other_shape, _stride_0, _sparse, _meta, _no_tensor, _quantised)),
    _dropped, _one_kept, _prefixed, _some_prefixed, _renamed, _renamed, _odd_keys, _unused, _deep, _wide,
)  # fmt: skip
