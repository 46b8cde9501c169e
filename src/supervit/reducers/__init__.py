"""Token reduction: one file is one idea, with one class `Reducer`.

A drop block runs attention, then its reducer, then the FFN:

    attention -> rank, once for all keep rates -> reduce, once for each keep rate -> FFN

Selection needs one method, `score`: the best patches stay, and their rows alone are computed. Other ideas override `rank` and
`reduce`, and say in attributes what they need. A reducer has a file here or in a package of your own, which its name says:
`my_package.my_module`.
"""

import sys
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from supervit.plan import Arrival
from supervit.plugins import load_class
from supervit.tokens import Tokens


@dataclass(frozen=True)
class Evidence:
    """What a drop block knows when it ranks its tokens."""

    tokens: Tokens
    """As they enter the block: values (B, T, D)."""
    normed: Tensor
    """The same after the block's first norm. Of this and what follows reducers that act at the input get nothing."""
    key: Tensor
    """(B, H, T, d)."""
    attention: Tensor
    """(B, H, T): softmax attention of the reducer's `probe` to all tokens, float32; nothing without one."""
    full_attention: Tensor
    """(B, H, T, T): softmax attention of all tokens to all tokens, for reducers that read it."""

    def __init__(self, tokens: Tokens, **known: Tensor | None):
        object.__setattr__(self, "tokens", tokens)
        for name, value in known.items():
            if value is not None:
                object.__setattr__(self, name, value)


class Reducer(nn.Module):
    """Selection: the patch tokens with the highest score stay, nothing is read of the others.

    One instance for each drop block, made with the model's config.
    """

    probe: ClassVar[Literal["class_token", "mean_token"] | None] = "class_token"
    """Whose attention is the evidence: that of the class token, of the mean of all tokens, or of none."""
    reads_attention: ClassVar[bool] = False
    """Whether it wants the attention of all tokens as evidence."""
    at_input: ClassVar[bool] = False
    """Whether it acts on what enters a block, instead of between attention and FFN."""
    is_learned: ClassVar[bool] = False
    """Whether gradient flows through `rank`."""
    tracks_patches: ClassVar[bool] = False
    """Whether it reads `Tokens.patches`."""
    keeps_aside: ClassVar[bool] = False
    """Whether dropped patches are put back before the next choice and at the end."""
    observes: ClassVar[bool] = False
    """Whether `observe` sees the class attention of every block."""
    is_elastic: ClassVar[bool] = True
    """Whether keeping all tokens changes no more than their order, so that one exported graph can serve all keep rates."""
    reads_all_rows: ClassVar[bool] = False
    """Whether tokens that do not survive are read: where a file has a `reduce` of its own between attention and FFN. Else their
    rows are never computed."""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        cls.reads_all_rows = cls.reduce is not Reducer.reduce and not cls.at_input

    def __init__(self, config: Any):
        super().__init__()

    @classmethod
    def tokens_kept(cls, arrival: Arrival) -> int:
        """Tokens that leave a drop block, prefix included; never more than arrive."""
        return arrival.of_tokens()

    @classmethod
    def rank_macs(cls, config: Any, tokens: int) -> int:
        """Multiply-accumulates of ranking `tokens` tokens, without the attention of the probe."""
        return 0

    @classmethod
    def reduce_macs(cls, config: Any, tokens: int, kept: int) -> int:
        """Multiply-accumulates of reducing `tokens` tokens to `kept`."""
        return 0

    @property
    def selects(self) -> bool:
        """Whether the tokens of a path are some rows as they are."""
        return not self.reads_all_rows and not (self.is_learned and self.training)

    def score(self, seen: Evidence) -> Tensor:
        """Finite scores of the patch tokens (B, T - prefix); the highest survive."""
        raise NotImplementedError(f"{type(self).__module__}.{type(self).__qualname__} has neither score nor rank")

    def rank(self, seen: Evidence, most: int) -> Any:
        """What `reduce` needs, the same for all keep rates. Here patch tokens from 0 on, best first (B, most - prefix).

        Args:
            seen: What is known.
            most: The most tokens that a keep rate leaves, prefix included.
        """
        return self.score(seen).topk(most - seen.tokens.prefix, dim=1).indices

    def reduce(self, tokens: Tokens, ranking: Any, kept: int) -> Tokens:
        """The tokens (B, kept, D) of one keep rate; with selection, the best first."""
        return tokens.take(with_prefix(ranking, tokens.prefix, kept))

    def observe(self, seen: Evidence) -> Tokens:
        """The tokens that entered a block, with what is to be remembered of it in their `scores`."""
        return seen.tokens


def with_prefix(order: Tensor, prefix: int, kept: int) -> Tensor:
    """Indices of the prefix and of the first `kept - prefix` patch tokens of an order (B, S): (B, kept)."""
    first = torch.arange(prefix, device=order.device).expand(order.shape[0], -1)
    return torch.cat([first, order[:, : kept - prefix] + prefix], dim=1)


def load_reducer(name: str) -> type[Reducer]:
    """The class of a reducer file, such as `class_attention` or `my_package.my_module`.

    Raises:
        InputError: no such file, or one without a class `Reducer`.
    """
    return load_class(sys.modules[__name__], name, Reducer)
