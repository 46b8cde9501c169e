"""Token selection: one file is one idea, with one function `score`.

`score(class_attention, tokens)` says which patch tokens of a drop block deserve to survive. It gets the class token's
softmax attention to all tokens (B, H, T) and the block's normalised tokens (B, T, D), class token first, and returns
finite scores (B, T - 1), one per patch token; the highest survive. It runs without gradient. Scores rank the tokens
once for every keep rate, which is why the survivors of a lower rate are always among those of a higher one.
"""

from typing import Protocol

from torch import Tensor


class Scorer(Protocol):
    """The one function of a reducer file."""

    def __call__(self, class_attention: Tensor, tokens: Tensor) -> Tensor:
        """Scores (B, T - 1) of the patch tokens."""
        ...
