"""The bookkeeping of recordings, on a CPU: what stands in for CUDA graphs here runs the recorded work again when replayed."""

from contextlib import contextmanager, nullcontext
from unittest.mock import MagicMock

import pytest
import torch

from supervit import Complexity
from supervit.runtimes.cuda_graphs import Recorder


@pytest.fixture
def work(monkeypatch):
    """A model whose calls are counted, and whose recorded calls are run again by replays."""
    recording = []

    class Graph:
        def replay(self):
            images, point, logits = self.recorded
            logits.copy_(compute(images, point))

    @contextmanager
    def record(graph, pool, capture_error_mode):
        assert pool == "pool"
        recording.append(graph)
        yield
        recording.pop()

    def compute(images, point):
        return images.flatten(1).sum(dim=1, keepdim=True) * point.grid_size

    def model(images, point):
        model.calls += 1
        logits = compute(images, point)
        if recording:
            recording[-1].recorded = images, point, logits
        return logits

    model.calls = 0
    for name in ("Stream", "current_stream"):
        monkeypatch.setattr(torch.cuda, name, MagicMock())
    for name in ("stream", "device"):
        monkeypatch.setattr(torch.cuda, name, lambda _: nullcontext())
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: "pool")
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "graph", record)
    return model


def test_each_point_and_shape_is_recorded_once_and_replayed_with_other_images(work):
    recorder, seven, four = Recorder(work), Complexity.of("7"), Complexity.of("4")
    first, second = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4)
    kept = recorder(first, seven)
    recorded = work.calls
    torch.testing.assert_close(recorder(second, seven), 7 * second.flatten(1).sum(1, keepdim=True))
    torch.testing.assert_close(kept, 7 * first.flatten(1).sum(1, keepdim=True))  # not written over
    assert work.calls == recorded
    torch.testing.assert_close(recorder(second, four), 4 * second.flatten(1).sum(1, keepdim=True))
    recorder(torch.randn(5, 3, 4, 4), seven)
    assert work.calls == 3 * recorded
    recorder(first, seven)
    recorder(first, four)
    assert (work.calls, len(recorder.recordings)) == (3 * recorded, 3)


def test_images_of_the_caller_are_left_alone(work):
    recorder, first = Recorder(work), torch.randn(2, 3, 4, 4)
    before = first.clone()
    recorder(first, Complexity.of("7"))
    recorder(torch.zeros(2, 3, 4, 4), Complexity.of("7"))
    assert torch.equal(first, before)
