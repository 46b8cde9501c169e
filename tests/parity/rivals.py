"""`python -m tests.parity.rivals FILE.npz`: our reducers against numbers of the rivals' own implementations.

The file holds `meta` (method, sizes, settings), `images`, `sd/NAME` (weights under the rival's names) and `logits/SETTING`.
Prints `SETTING DIFFERENCE`, the largest difference of logits, for each setting; exit status 1 where one is above 1e-4.
"""

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from supervit import Complexity, SuperViT
from supervit.config import SuperViTConfig
from supervit.tokens import Tokens

TOLERANCE = 1e-4


def model_of(
    meta: Mapping[str, Any], weights: Mapping[str, Tensor], kind: type[SuperViT] = SuperViT, **fields: Any
) -> SuperViT:
    """A model of a rival's sizes with weights under our names."""
    config = SuperViTConfig(
        embed_dim=meta["embed_dim"], depth=meta["depth"], num_heads=meta["num_heads"], mlp_ratio=meta["mlp_ratio"],
        num_classes=meta["num_classes"], patch_size=meta["patch_size"], qkv_bias=meta["qkv_bias"],
        grid_sizes=(meta["img_size"] // meta["patch_size"],), keep_rates=(1.0,), **fields,
    )  # fmt: skip
    model = kind(config).eval()
    own = {("pos_embeds." + str(config.grid_sizes[0]) if name == "pos_embed" else name): w for name, w in weights.items()}
    model.load_state_dict(own)
    return model


def of_rates(meta: Mapping[str, Any], rates: list[float]) -> Complexity:
    """The operating point with these keep rates, one for each drop block."""
    return Complexity(meta["img_size"] // meta["patch_size"], tuple(rates))


# --- EViT ---------------------------------------------------------------------------------------------------------------


def evit(meta, weights, _numbers, name):
    rate, fuses = meta["settings"][name]
    model = model_of(meta, weights, reducer="evit" if fuses else "tests.parity.variants.evit_without_fusing")
    return model, of_rates(meta, [rate] * 3)


# --- ToMe ---------------------------------------------------------------------------------------------------------------


def merges(asked: Any, depth: int) -> list[int]:
    """How many tokens each block merges, from ToMe's r: a number, (r, inflect) or a list."""
    if isinstance(asked, list) and not ((len(asked) == 2 and not float(asked[1]).is_integer()) or asked[1:] in ([-1], [1])):
        return [*asked, *[0] * depth][:depth]
    r, inflect = asked if isinstance(asked, list) else (asked, 0)
    least = int(r * (1 - inflect))
    step = (2 * r - least - least) / (depth - 1)
    return [int(least + step * block) for block in range(depth)]


def merged(meta, weights, numbers, name):
    asked, form = meta["settings"][name]
    wanted = numbers[f"parsed_r/{name}"].tolist() if f"parsed_r/{name}" in numbers else merges(asked, meta["depth"])
    blocks = tuple(block for block, count in enumerate(wanted) if count > 0)
    reducer = "tome" if form == "prop" else "tests.parity.variants.tome_without_sizes"
    model = model_of(meta, weights, reducer=reducer, drop_blocks=blocks)
    tokens, rates = (meta["img_size"] // meta["patch_size"]) ** 2 + 1, []
    for block in blocks:
        count = min(wanted[block], (tokens - 1) // 2)
        rates.append((tokens - count) / tokens if count else 1.0)
        tokens -= count
    return model, of_rates(meta, rates or [1.0])


# --- DynamicViT ---------------------------------------------------------------------------------------------------------


def predicted(meta, weights, numbers, name):
    own = {}
    for key, tensor in weights.items():
        if key.startswith("score_predictor."):
            _, stage, rest = key.split(".", 2)
            key = f"blocks.{(3, 6, 9)[int(stage)]}.reducer.{rest}"
        own[key] = tensor
    model = model_of(meta, own, reducer="tests.parity.variants.dynamic_vit_with_noise")
    if name.startswith("train"):
        model.train()
        for block in model.config.drop_blocks:
            model.blocks[block].reducer.noise = torch.from_numpy(numbers[f"gumbel/{name}/block{block}"])
    base = meta["settings"][name][0]
    return model, of_rates(meta, [base] * 3)


# --- Evo-ViT ------------------------------------------------------------------------------------------------------------


class LeftOut(SuperViT):
    """Evo-ViT whose waiting patches do not come back at the end (`prunecls`)."""

    def finish(self, tokens: Tokens) -> Tensor:
        """Tokens after the last block."""
        return super().finish(tokens._replace(aside=None))


def evolved(meta, weights, _numbers, name):
    setting, own = meta["settings"][name], {}
    for key, tensor in weights.items():
        kind, _, rest = key.partition(".")
        index, _, last = rest.partition(".")
        if kind == "qks":
            part = last.rpartition(".")[2]
            own[f"blocks.{index}.attn.qkv.{part}"] = torch.cat([tensor, weights[f"vs.{index}.v.{part}"]])
        elif kind == "projs":
            own[f"blocks.{index}.attn.proj.{last.rpartition('.')[2]}"] = tensor
        elif kind == "norms":
            own[f"blocks.{index}.norm1.{last}"] = tensor
        elif kind == "norm":
            own[f"fc_norm.{rest}"] = tensor
        elif kind not in ("vs", "norm_cls", "head_cls"):
            own[key] = tensor
    rates = setting["prune_ratio"]
    first = next(block for block, rate in enumerate(rates) if rate < 1)
    blocks = (first, first + 4) if setting["stage"] else tuple(range(first, len(rates)))
    kind = LeftOut if setting["prunecls"] else SuperViT
    model = model_of(meta, own, kind, reducer="evo_vit", drop_blocks=blocks, global_pool="avg", fc_norm=True)
    return model, of_rates(meta, [rates[block] for block in blocks])


METHODS: dict[str, Callable[..., tuple[SuperViT, Complexity]]] = {
    "evit": evit,
    "tome": merged,
    "dynamicvit": predicted,
    "evovit": evolved,
}


@torch.no_grad()
def differences(file: Path) -> dict[str, float]:
    """The largest difference of logits of each setting."""
    numbers = np.load(file, allow_pickle=False)
    meta = json.loads(str(numbers["meta"]))
    if meta["method"] not in METHODS:
        raise SystemExit(f"{meta['method']} is none of {', '.join(METHODS)}")
    weights = {key[3:]: torch.from_numpy(numbers[key]) for key in numbers.files if key.startswith("sd/")}
    images, found = torch.from_numpy(numbers["images"]), {}
    for name in meta["settings"]:
        model, point = METHODS[meta["method"]](meta, weights, numbers, name)
        found[name] = (model(images, point) - torch.from_numpy(numbers[f"logits/{name}"])).abs().max().item()
    return found


def main() -> int:
    """Print the differences of a file."""
    found = differences(Path(sys.argv[1]))
    for name, difference in found.items():
        print(f"{name} {difference:.1e}")
    return int(not all(difference <= TOLERANCE for difference in found.values()))


if __name__ == "__main__":
    sys.exit(main())
