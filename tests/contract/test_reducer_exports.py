"""Every reducer in exported graphs."""

import pytest
import torch

import supervit
from supervit.export import export_model
from supervit.reducers import load_reducer
from supervit.runtimes import open_artefact
from tests.contract.test_reducers import REDUCERS, images_of, model_with


@pytest.fixture(params=[name for name in REDUCERS if name != "random"])
def name(request):
    """All but the one that draws, which cannot be exported, and says so."""
    return request.param


@pytest.mark.parametrize("point", ["6x8@0.9-0.7-0.5/4"])
def test_it_exports(name, point, tmp_path):
    model, images = model_with(name, depth=5), images_of(point)
    export_model(model, "onnx", tmp_path / "onnx", [point])
    runtime = open_artefact(tmp_path / "onnx")
    torch.testing.assert_close(runtime.logits(images, point), model(images, point).detach(), atol=1e-5, rtol=1e-5)


def test_it_exports_elastic_where_it_says_so(name, tmp_path):
    model, points = model_with(name, depth=5), ["7", "7@0.7", "4@0.5"]
    if name in ("mean_query", "received_attention"):
        pytest.skip("select as class_attention does")
    if not load_reducer(name).is_elastic:
        with pytest.raises(supervit.InputError, match="exports one operating point at a time"):
            export_model(model, "onnx", tmp_path / "onnx", points)
        return
    export_model(model, "onnx", tmp_path / "onnx", points)
    runtime, images = open_artefact(tmp_path / "onnx"), images_of("7")
    for point in points:
        torch.testing.assert_close(runtime.logits(images, point), model(images, point).detach(), atol=1e-5, rtol=1e-5)
