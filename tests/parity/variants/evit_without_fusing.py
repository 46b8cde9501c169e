"""EViT without fusing: the share is of the patch tokens alone."""

import math

from supervit.plan import Arrival
from supervit.reducers import class_attention


class Reducer(class_attention.Reducer):
    """Counted as EViT counts."""

    @classmethod
    def tokens_kept(cls, arrival: Arrival) -> int:
        """The prefix and `ceil(r N)` of the N others."""
        return arrival.prefix + math.ceil(arrival.keep_rate * (arrival.tokens - arrival.prefix))
