"""What every runtime must obey; runs over whatever files exist."""

import dataclasses
import importlib.util

import pytest
import torch

from supervit import Complexity, InputError, SuperViT
from supervit.cascade import Cascade, Ladder, climb_macs
from supervit.runtimes import Runtime, RuntimeConfig, as_runtime, available_runtimes, open_runtime, runtime_names
from tests.conftest import small_config, trained_like
from tests.contract.test_exports import SMALL, small_model

HERE = {(found.name, found.precision): found.obstacle for found in available_runtimes("cpu")}
ON_GPU = {(found.name, found.precision): found.obstacle for found in available_runtimes("cuda")}
CASES = [(*case, "deit") for case in HERE] + [(name, "float32", "lvvit") for name in runtime_names()]
POINTS = ["7", "4@0.5", "7@0.21", "4"]
TOLERANCE = {"float32": 1e-4, "bfloat16": 0.25, "int8": 0.4}  # of the logits' spread: patches that score alike swap


@pytest.fixture(scope="module", params=CASES, ids="-".join)
def opened(request) -> tuple[Runtime, SuperViT]:
    name, precision, family = request.param
    if obstacle := HERE[name, precision]:
        pytest.skip(f"{name} {precision}: {obstacle}")
    torch.manual_seed(0)
    model = small_model(family)
    calibration = torch.randn(16, 3, 28, 28) if precision == "int8" else None
    return open_runtime(name, model, RuntimeConfig(precision=precision, threads=1, calibration=calibration)), model


@torch.no_grad()
@pytest.mark.parametrize("batch", [1, 3])
def test_every_runtime_gives_the_logits_of_pytorch_whichever_point_came_before(opened, batch):
    runtime, model = opened
    runtime.prepare(POINTS, batch)
    images = torch.randn(batch, 3, 30, 30)  # of no grid's size
    for point in [*POINTS, *reversed(POINTS)]:
        logits, expected = runtime.logits(images, point), model(images, point)
        assert (logits.dtype, logits.device.type, logits.shape) == (torch.float32, "cpu", expected.shape)
        assert (logits - expected).abs().mean() < TOLERANCE[runtime.precision] * expected.std(), point


@torch.no_grad()
def test_logits_stay_what_they_were_when_the_runtime_goes_on(opened):
    runtime, _ = opened
    first = runtime.logits(torch.randn(2, 3, 28, 28), "7")
    copy = first.clone()
    runtime.logits(torch.randn(2, 3, 28, 28), "7")
    assert torch.equal(first, copy)


def test_several_points_get_the_logits_that_each_gets_alone(opened):
    runtime, _ = opened
    images = torch.randn(3, 3, 28, 28)
    for point, logits in zip(POINTS, runtime.forward_paths(images, POINTS), strict=True):
        difference = (logits - runtime.logits(images, point)).abs().mean()
        assert difference <= (1e-4 if runtime.precision == "float32" else 0.25) * logits.std()


def test_a_cascade_runs_in_every_runtime(opened):
    runtime, model = opened
    ladder = Ladder(tuple(map(Complexity.of, ("4", "7@0.5", "7"))), (0.4, 0.4), model=model.fingerprint())
    images = torch.randn(9, 3, 28, 28)
    exits = Cascade(runtime, ladder, batch_size=2).predict(images)
    added = climb_macs(model.config, ladder.rungs, runtime.model is not None)
    for index, rung in enumerate(exits.rungs.tolist()):
        assert exits.executed_macs[index] == sum(added[: rung + 1])
        if runtime.precision == "float32":
            alone = runtime.logits(images[index : index + 1], ladder.rungs[rung])
            torch.testing.assert_close(exits.logits[index : index + 1], alone, atol=1e-4, rtol=1e-4)


def test_a_runtime_says_what_it_is_and_refuses_images_of_another_shape(opened):
    runtime, model = opened
    assert (runtime.name, runtime.precision) in HERE
    assert (runtime.model_config, runtime.points) == (model.config, tuple(model.config.space))
    assert (runtime.threads, runtime.fingerprint()) == (1, model.fingerprint())
    with pytest.raises(InputError, match=r"images of shape \(2, 1, 28, 28\) do not fit"):
        runtime.logits(torch.randn(2, 1, 28, 28), "7")


def test_graphs_have_the_grids_of_the_menu_alone(opened):
    runtime, _ = opened
    if runtime.name in ("eager", "compiled"):
        assert runtime.logits(torch.randn(1, 3, 28, 28), "5").shape == (1, 5)
    else:
        with pytest.raises(InputError, match="has no grid size 5; use one of 4, 7, or eager for any"):
            runtime.logits(torch.randn(1, 3, 28, 28), "5")


def test_eager_in_the_models_own_precision_shares_its_weights_and_leaves_it_alone():
    model = small_model().train()
    runtime = open_runtime("eager", model)
    images = torch.randn(2, 3, 28, 28)
    before = runtime.logits(images, "7")
    assert model.training
    with torch.no_grad():
        model.head.weight.mul_(2)
    assert not torch.equal(runtime.logits(images, "7"), before)
    open_runtime("eager", model, RuntimeConfig(precision="bfloat16")) if HERE["eager", "bfloat16"] is None else None
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_a_model_is_a_runtime_where_and_as_it_is():
    model = small_model().to(torch.bfloat16).train()
    runtime = as_runtime(model)
    assert (runtime.name, runtime.precision) == ("eager", "bfloat16")
    assert as_runtime(runtime) is runtime
    images = torch.randn(2, 3, 28, 28)
    logits = runtime.logits(images, "7")
    assert model.training
    with torch.no_grad():
        torch.testing.assert_close(logits, model.eval()(images.bfloat16(), "7").float())


@torch.no_grad()
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("name, precision", [(found.name, found.precision) for found in available_runtimes("cuda")])
def test_every_runtime_gives_the_logits_of_the_cpu_on_a_gpu(name, precision, batch, monkeypatch):
    if obstacle := ON_GPU[name, precision]:
        pytest.skip(f"{name} {precision}: {obstacle}")
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    torch.manual_seed(0)
    model = small_model()
    runtime = open_runtime(name, model, RuntimeConfig(device="cuda", precision=precision))
    for point in [*POINTS, *reversed(POINTS)]:
        images = torch.randn(batch, 3, 30, 30)
        logits, expected = runtime.logits(images, point), model(images, point)
        assert (logits.device.type, logits.shape) == ("cuda", expected.shape)
        assert (logits.cpu() - expected).abs().mean() < TOLERANCE[runtime.precision] * expected.std(), point


@pytest.mark.parametrize("resize", ["align_corners", "half_pixel", "antialias"])
def test_bfloat16_resizes_as_float32_does(resize):
    if obstacle := HERE["eager", "bfloat16"]:
        pytest.skip(obstacle)
    model = trained_like(SuperViT(small_config(**SMALL, resize=resize))).eval()
    runtime, images = open_runtime("eager", model, RuntimeConfig(precision="bfloat16")), torch.randn(2, 3, 28, 28)
    for logits in (runtime.logits(images, "4"), *runtime.forward_paths(images, ["4"])):
        assert (logits - model(images, "4")).abs().mean() < 0.1 * model(images, "4").std()


def test_a_copy_keeps_the_fingerprint_of_the_weights_that_it_has():
    if obstacle := HERE["eager", "bfloat16"]:
        pytest.skip(obstacle)
    model = small_model()
    copy, shared = open_runtime("eager", model, RuntimeConfig(precision="bfloat16")), open_runtime("eager", model)
    before = model.fingerprint()
    assert copy.fingerprint() == shared.fingerprint() == before
    with torch.no_grad():
        model.head.weight.mul_(2)
    assert copy.fingerprint() == before != shared.fingerprint() == model.fingerprint()


def test_images_too_small_for_the_grid_are_refused_however_they_run(opened):
    runtime, _ = opened
    for run in (runtime.logits, lambda images, point: runtime.forward_paths(images, [point])):
        with pytest.raises(InputError, match="images of 6 pixels are too small for grid size 7"):
            run(torch.randn(1, 3, 6, 6), "7")


def test_compiled_makes_one_graph_for_each_way_of_picking_rows(monkeypatch):
    graphs = []

    def count(graph, _inputs):
        graphs.append(graph)
        return graph.forward

    compile_with = torch.compile
    monkeypatch.setattr(torch, "compile", lambda function, **options: compile_with(function, **options, backend=count))
    torch._dynamo.reset()
    runtime = open_runtime("compiled", small_model())
    runtime.prepare(["7@0.5"], 2)
    assert len(graphs) == 3  # all rows, survivors, class token
    runtime.prepare(["7", "4", "4@0.5", "6@0.3", "7@0.99"], 2)
    runtime.prepare(["7", "4@0.5"], 5)
    assert len(graphs) == 3


@pytest.mark.parametrize(
    "name, config, message",
    [
        ("eger", RuntimeConfig(), "unknown runtime 'eger'; did you mean eager"),
        (
            "eager",
            RuntimeConfig(precision="int8", calibration=torch.zeros(1, 3, 8, 8)),
            "it computes in float32 or bfloat16; can: ",
        ),
        ("openvino", RuntimeConfig(device="cuda"), "it runs on the CPU alone|device 'cuda' cannot be used"),
    ],
)
def test_what_cannot_run_here_is_refused_with_what_can(name, config, message):
    with pytest.raises(InputError, match=message):
        open_runtime(name, small_model(), config)


def test_int8_needs_images_and_only_int8_takes_them():
    if HERE["openvino", "int8"] is None:
        with pytest.raises(InputError, match="some hundred normalised images"):
            open_runtime("openvino", small_model(), RuntimeConfig(precision="int8"))
    with pytest.raises(InputError, match="int8, and no other precision, is calibrated"):
        open_runtime("eager", small_model(), RuntimeConfig(calibration=torch.zeros(1, 3, 28, 28)))


def test_missing_packages_and_instructions_are_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr("supervit.runtimes._torch.cpu_has_bfloat16", lambda: False)
    found = {(one.name, one.precision): one.obstacle for one in available_runtimes()}
    assert found["onnx_runtime", "float32"] == "onnx and onnxscript and onnxruntime missing, pip install 'supervit[onnx]'"
    assert found["eager", "bfloat16"] == "the CPU has no bfloat16 instructions"
    assert found["eager", "float32"] is None


def test_few_images_for_another_library_are_prepared_on_one_thread():
    model = small_model()
    other = dataclasses.replace(as_runtime(model), model=None)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        for runtime, count, threads in ((other, 1, 1), (other, 64, 2), (as_runtime(model), 1, 2)):
            with runtime.preparing(count):
                assert torch.get_num_threads() == threads
            assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_threads_are_at_least_one():
    with pytest.raises(InputError, match="threads 0 must be at least 1"):
        dataclasses.replace(RuntimeConfig(), threads=0)
