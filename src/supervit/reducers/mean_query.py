"""`received_attention` at the cost of the paper's rule: the attention of the mean token instead of the mean attention."""

from torch import Tensor

from supervit import reducers


class Reducer(reducers.Reducer):
    """Ours: one query, that of the mean of the normalised tokens, which by linearity is the mean of all queries."""

    probe = "mean_token"

    def score(self, seen: reducers.Evidence) -> Tensor:
        """Mean over the heads of the mean token's attention to each patch (B, T - prefix)."""
        return seen.attention[:, :, seen.tokens.prefix :].mean(dim=1)
