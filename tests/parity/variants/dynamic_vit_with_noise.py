"""DynamicViT that is given its noise."""

from torch import Tensor

from supervit.reducers import dynamic_vit


class Reducer(dynamic_vit.Reducer):
    """`noise` (B, N, 2) is added to the log-probabilities in training."""

    noise: Tensor

    def decide(self, log_probabilities: Tensor) -> Tensor:
        """1 for patches that stay, 0 for those that go (B, N)."""
        return ((log_probabilities + self.noise).argmax(dim=2) == 0).to(log_probabilities.dtype)
