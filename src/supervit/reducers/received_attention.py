"""For networks without a class token: a patch is worth the attention that it receives from all tokens."""

from torch import Tensor

from supervit import reducers


class Reducer(reducers.Reducer):
    """Costs the whole attention matrix of each drop block; `mean_query` is its cheap form.

    Source: Kim et al., "Learned Token Pruning for Transformers" (2022), Eq. 2, there with thresholds.
    """

    probe = None
    reads_attention = True

    def score(self, seen: reducers.Evidence) -> Tensor:
        """Mean over heads and tokens of the attention to each patch (B, T - prefix)."""
        return seen.full_attention.mean(dim=(1, 2))[:, seen.tokens.prefix :]
