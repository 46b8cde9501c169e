"""The model compiled and exported."""

import pytest
import torch
from torch import nn


def test_one_graph_without_breaks(model, images):
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    with torch.no_grad():
        torch.testing.assert_close(compiled(images, "7@0.5"), model(images, "7@0.5"))


@pytest.mark.slow
def test_export_with_any_batch_size(model, images):
    class AtPoint(nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, images):
            return self.model(images, "7@0.5")

    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(AtPoint(), (images,), dynamic_shapes=({0: batch},))
    others = torch.randn(5, 3, 28, 28)
    with torch.no_grad():
        torch.testing.assert_close(program.module()(others), model(others, "7@0.5"), atol=1e-5, rtol=1e-5)
