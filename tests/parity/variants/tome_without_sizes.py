"""ToMe without proportional attention."""

from torch import Tensor

from supervit.reducers import tome
from supervit.tokens import Tokens


class Reducer(tome.Reducer):
    """Sizes count in the means alone."""

    def reduce(self, tokens: Tokens, ranking: tuple[Tensor, Tensor], kept: int) -> Tokens:
        """As ToMe, without bias."""
        return super().reduce(tokens, ranking, kept)._replace(bias=None)
