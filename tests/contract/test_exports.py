"""What every export target must obey; runs over whatever files exist."""

import copy
import json
import shutil
from itertools import product

import pytest
import torch

import supervit.export
from supervit import InputError, SuperViT
from supervit.export import ExportError, export_model, target_names, trace
from supervit.export._graph import calibration_feeds
from supervit.plugins import load_plugin
from supervit.runtimes import available_runtimes, open_artefact
from tests.conftest import small_config, trained_like

STATIC = {target for target in target_names() if load_plugin(supervit.export, target).IS_STATIC}
NEEDS = {"onnx": ["onnxscript", "onnxruntime"], "openvino": ["onnxscript", "openvino"]}
SMALL = {"depth": 3, "drop_blocks": (1,), "grid_sizes": (4, 7), "keep_rates": (0.5, 1.0)}


def small_model(family: str = "deit") -> SuperViT:
    return trained_like(SuperViT(small_config(family, **SMALL))).eval()


def need(target: str) -> None:
    if target == "aot_inductor" and shutil.which("g++") is None:
        pytest.skip("needs a C++ compiler")
    for package in NEEDS.get(target, []):
        pytest.importorskip(package)


@pytest.fixture(scope="module", params=target_names())
def target(request) -> str:
    need(request.param)
    return request.param


@pytest.fixture(scope="module", params=product(sorted({*target_names()} - STATIC), ["deit", "lvvit"]), ids="-".join)
def elastic(request, tmp_path_factory):
    """A target, a model, its elastic export and the report on it."""
    target, family = request.param
    need(target)
    torch.manual_seed(0)
    out = tmp_path_factory.mktemp("export") / family
    model = small_model(family)
    return target, model, out, export_model(model, target, out)


def inputs(images: torch.Tensor, model: SuperViT, point: str) -> tuple[torch.Tensor, torch.Tensor]:
    return images, torch.tensor([model.config.plan(point).blocks[1].tokens_kept])


@torch.no_grad()
@pytest.mark.parametrize("point", ["7", "7@0.5", "4", "4@0.5", "7@0.21", "4@0.9"])
@pytest.mark.parametrize("batch", [1, 2, 5])
def test_one_artefact_serves_every_keep_rate_grid_and_batch_size(elastic, point, batch):
    target, model, out, _ = elastic
    run = load_plugin(supervit.export, target).read(out)
    side = 4 * int(point[0])
    images = torch.randn(batch, 3, side, side)
    torch.testing.assert_close(run(*inputs(images, model, point)), model(images, point), atol=1e-4, rtol=1e-4)


def test_the_report_says_how_to_ask_for_each_point_and_how_far_it_is_from_pytorch(elastic):
    target, model, out, report = elastic
    assert json.loads((out / "export.json").read_text())["points"][1]["complexity"] == "4"
    assert (report.target, report.form, report.inputs) == (target, "elastic", ("images", "keep"))
    assert [(p.complexity, p.image_size, p.keep) for p in report.points] == [
        ("4@0.5", 16, (10,)), ("4", 16, (17,)), ("7@0.5", 28, (26,)), ("7", 28, (50,)),
    ]  # fmt: skip
    assert all(0 <= point.difference < 1e-4 for point in report.points)
    assert report.config == model.config.to_dict()


@torch.no_grad()
def test_an_artefact_is_a_runtime(elastic):
    target, model, out, report = elastic
    runtime = open_artefact(str(out), threads=1, trust=True)
    assert (runtime.name, runtime.precision, runtime.threads) == (load_plugin(supervit.export, target).RUNTIME, "float32", 1)
    assert runtime.points == tuple(model.config.space)
    assert runtime.fingerprint() == model.fingerprint() == report.fingerprint
    images = torch.randn(3, 3, 30, 30)
    for point in ("7", "4@0.5", "7@0.21"):
        torch.testing.assert_close(runtime.logits(images, point), model(images, point), atol=1e-4, rtol=1e-4)
    with pytest.raises(InputError, match="has no grid size 5; use one of 4, 7"):
        runtime.logits(images, "5")
    with pytest.raises(InputError, match="runs in float32.*, not in int8; export it in int8"):
        open_artefact(out, "int8", trust=True)


@torch.no_grad()
def test_what_was_written_in_float32_can_be_cast(elastic):
    target, model, out, _ = elastic
    for precision in load_plugin(supervit.export, target).CASTS:
        if obstacle := {one.precision: one.obstacle for one in available_runtimes() if one.name == target}[precision]:
            with pytest.raises(InputError, match=f"cannot run in {precision} here"):
                open_artefact(out, precision)
            pytest.skip(obstacle)
        runtime, images = open_artefact(out, precision), torch.randn(3, 3, 28, 28)
        assert runtime.precision == precision
        difference = (runtime.logits(images, "7") - model(images, "7")).abs()
        assert 1e-6 < difference.max() < 0.25 * model(images, "7").std()


@torch.no_grad()
@pytest.mark.parametrize("quantised", ["onnx", "openvino"])
def test_int8_artefacts_run_in_int8_alone(quantised, tmp_path):
    need(quantised)
    pytest.importorskip("nncf")
    model, images = small_model(), torch.randn(16, 3, 28, 28)
    report = export_model(model, quantised, tmp_path / "out", ["7"], "int8", images)
    assert report.points[0].difference > 1e-4
    runtime = open_artefact(tmp_path / "out")
    assert runtime.precision == "int8"
    logits = model(images, "7")
    assert (runtime.logits(images, "7") - logits).abs().mean() < 0.2 * logits.std()
    with pytest.raises(InputError, match="runs in int8, not in float32; export it in float32"):
        open_artefact(tmp_path / "out", "float32")


@torch.no_grad()
@pytest.mark.parametrize("points", [["7@0.5"], ["7"], ["7@0.5", "7", "4"]], ids=["cut", "uncut", "elastic"])
@pytest.mark.parametrize("exact_savings, drop_blocks", [(True, (0, 2)), (False, (0, 2)), (False, (1,))])
@pytest.mark.parametrize("family", ["deit", "lvvit"])
def test_graphs_have_the_logits_of_the_model_whatever_rows_its_blocks_compute(family, exact_savings, drop_blocks, points):
    options = SMALL | {"exact_savings": exact_savings, "drop_blocks": drop_blocks, "qkv_bias": exact_savings}
    model, images = trained_like(SuperViT(small_config(family, **options))).eval(), torch.randn(2, 3, 28, 28)
    graph = trace(model, points)
    logits = graph.program.module()(*graph.inputs(images, graph.points[0]))
    torch.testing.assert_close(logits, model(images, points[0]), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("points", [["7@0.5"], ["7", "7@0.5", "4"]], ids=["static", "elastic"])
def test_int8_leaves_no_weights_of_a_product_in_float32(points):
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("nncf")
    pytest.importorskip("onnxscript")
    graph = trace(small_model(), points)
    model = load_plugin(supervit.export, "onnx").convert(graph, calibration_feeds(graph, torch.randn(8, 3, 28, 28)))
    floats = [each for each in model.graph.initializer if each.data_type == onnx.TensorProto.FLOAT]
    assert floats
    assert not [each.name for each in floats if len(each.dims) == 2 and min(each.dims) > 1]


def test_the_weights_are_written_once(elastic):
    _, model, out, _ = elastic
    weights = sum(4 * parameter.numel() for parameter in model.parameters())
    files = {path.name: path.stat().st_size for path in out.iterdir()}
    assert sum(files.values()) - files["export.json"] < weights + 600_000  # what a graph takes beside its weights


@pytest.fixture(scope="module")
def static(target, tmp_path_factory):
    """A target, a model in training mode, its export at one point of an untrained grid and the report on it."""
    torch.manual_seed(0)
    out, model = tmp_path_factory.mktemp("static") / "out", small_model().train()
    return target, model, out, export_model(model, target, out, ["6@0.3"])


@torch.no_grad()
def test_one_point_gives_a_static_graph_also_of_an_untrained_grid(static):
    target, model, out, report = static
    assert model.training
    assert (report.form, report.inputs) == ("static", ("images",))
    images = torch.randn(4, 3, 24, 24)
    logits = load_plugin(supervit.export, target).read(out)(images)
    torch.testing.assert_close(logits, copy.deepcopy(model).eval()(images, "6@0.3"), atol=1e-4, rtol=1e-4)
    runtime = open_artefact(out, trust=True)
    torch.testing.assert_close(runtime.logits(images, runtime.points[0]), logits, atol=1e-4, rtol=1e-4)
    with pytest.raises(InputError, match=r"runs 6@0.3 alone, not 6; export several points"):
        runtime.logits(images, "6")


def test_what_computes_something_else_is_not_written(static, tmp_path, monkeypatch):
    target, model, written, _ = static
    plugin = load_plugin(supervit.export, target)
    read = plugin.read
    monkeypatch.setattr(plugin, "write", lambda _graph, folder, *_: shutil.copytree(written, folder, dirs_exist_ok=True))
    monkeypatch.setattr(plugin, "read", lambda *where: lambda *inputs: read(*where)(*inputs) + 0.002)
    with pytest.raises(ExportError, match=r"at 6@0.3 differs from PyTorch by 0.002 \(allowed: 1e-03\); nothing was written"):
        export_model(model, target, tmp_path / "out", ["6@0.3"])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"points": [{}]}', '{"points": [], "more": 1}'])
def test_what_is_no_artefact_is_refused(tmp_path, content):
    with pytest.raises(InputError, match="export.json' is not the report of an export"):
        open_artefact(tmp_path)
    (tmp_path / "export.json").write_text(content)
    with pytest.raises(InputError, match="export.json' is not the report of an export"):
        open_artefact(tmp_path)


def test_a_damaged_artefact_is_refused(elastic, tmp_path):
    _, _, out, _ = elastic
    shutil.copytree(out, tmp_path / "out")
    for path in (tmp_path / "out").iterdir():
        if path.name != "export.json":
            path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(InputError, match="too few|not the file that was exported|and its files have"):
        open_artefact(tmp_path / "out", trust=True)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"target": "onx"}, "unknown export 'onx'; did you mean onnx"),
        ({"target": "torch_export", "precision": "int8"}, "torch_export cannot be exported in 'int8'; use float32"),
        ({"precision": "int8"}, "some hundred normalised images"),
        ({"calibration": torch.zeros(1, 3, 28, 28)}, "int8, and no other precision, is calibrated"),
        ({"target": "aot_inductor"}, "aot_inductor takes one operating point, not the menu; name one, or use onnx"),
        ({"points": ["7@2"]}, "keep rate 2.0 is not in"),
        ({"exists": True}, "exists; name a new directory"),
    ],
)
def test_what_cannot_be_exported_is_refused_before_any_work(tmp_path, change, message):
    out = tmp_path / "out"
    if change.pop("exists", False):
        out.mkdir()
    with pytest.raises(InputError, match=message):
        export_model(small_model(), **{"target": "onnx", "out": out, **change})


@torch.no_grad()
def test_an_input_that_changes_no_answer_may_be_gone_from_the_graph(tmp_path):
    need("openvino")
    model = trained_like(
        SuperViT(small_config(**SMALL | {"depth": 2, "drop_blocks": (1,)}))
    ).eval()  # drops after the last read
    export_model(model, "openvino", tmp_path / "artefact")
    images = torch.randn(2, 3, 28, 28)
    torch.testing.assert_close(
        open_artefact(tmp_path / "artefact").logits(images, "7@0.5"), model(images, "7@0.5"), atol=1e-4, rtol=1e-4
    )
