"""The paper's rule: a patch is worth the attention that the class token pays it."""

from torch import Tensor

from supervit import reducers


class Reducer(reducers.Reducer):
    """Source: paper section 3.2.2, a_cls of Eq. 5 (there a sum over heads, the same order)."""

    def score(self, seen: reducers.Evidence) -> Tensor:
        """Mean over the heads of the class token's attention to each patch (B, T - prefix)."""
        return seen.attention[:, :, seen.tokens.prefix :].mean(dim=1)
