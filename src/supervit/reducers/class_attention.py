"""The paper's rule: a patch is worth the attention that the class token pays it."""

from torch import Tensor


def score(class_attention: Tensor, tokens: Tensor) -> Tensor:
    """Mean over the heads of the class token's attention to each patch (B, T - 1).

    Source: paper section 3.2.2, a_cls of Eq. 5 (there a sum over heads, the same order).
    """
    return class_attention[:, :, 1:].mean(dim=1)
