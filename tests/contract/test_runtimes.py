"""What every runtime must obey; runs over whatever files exist."""

import dataclasses
import importlib.util
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from supervit import Complexity, InputError, Predictor, SuperViT
from supervit.calibrate import collect_answers
from supervit.cascade import Cascade, Ladder, climb_macs
from supervit.comparison import compare_runtimes
from supervit.evaluate import evaluate
from supervit.runtimes import Runtime, RuntimeConfig, as_runtime, available_runtimes, open_runtime, runtime_names
from tests.conftest import plain_runtime, small_config, trained_like
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


CALLS = [(index, POINTS[index % 4], 1 + index % 3) for index in range(24)]


def images_of(index: int, count: int) -> torch.Tensor:
    return torch.randn(count, 3, (28, 30)[index % 2], (28, 30)[index % 2], generator=torch.Generator().manual_seed(index))


def test_many_threads_with_mixed_points_and_batches_get_the_answers_that_one_gets(opened):
    runtime, _ = opened
    expected = [runtime.logits(images_of(index, count), point) for index, point, count in CALLS]

    def call_all(first):
        turns = [(first + 5 * step) % len(CALLS) for step in range(len(CALLS))]
        return [(turn, runtime.logits(images_of(turn, CALLS[turn][2]), CALLS[turn][1])) for turn in turns]

    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(call_all, range(8)):
            for turn, logits in found:
                torch.testing.assert_close(logits, expected[turn], atol=1e-5, rtol=1e-5)


def test_predictors_and_cascades_answer_many_threads_as_they_answer_one(opened):
    runtime, _ = opened
    ladder = Ladder(tuple(map(Complexity.of, ("4", "7@0.5", "7"))), (0.4, 0.4))
    predictor, cascade = Predictor(runtime, batch_size=2), Cascade(runtime, ladder, batch_size=2)
    batches = [images_of(2 * index, 5) for index in range(6)]

    def answers(batch):
        exits = cascade.predict(batch)
        given = [
            [(one.class_index, round(one.probability, 4)) for one in predictor(batch, point)] for point in (*POINTS, ladder)
        ]
        return exits.rungs.tolist(), exits.logits.argmax(dim=1).tolist(), given

    expected = [answers(batch) for batch in batches]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(answers, batches * 2)) == expected * 2


def test_classes_are_chosen_by_float32_logits_in_every_precision(opened):
    runtime, _ = opened
    for point in POINTS:
        logits = runtime.logits(torch.randn(3, 3, 28, 28), point)
        assert (logits.bfloat16().float() != logits).float().mean() > 0.8, point


def test_answers_do_not_change_with_the_batch_size_or_the_other_images(opened):
    runtime, _ = opened
    images, others = images_of(0, 6), images_of(2, 6)
    for point in POINTS:
        together = runtime.logits(images, point)
        mixed = runtime.logits(torch.cat([images[:3], others[3:]]), point)
        torch.testing.assert_close(mixed[:3], together[:3], atol=1e-5, rtol=1e-5)
        for size in (1, 2, 4):
            apart = torch.cat([runtime.logits(batch, point) for batch in images.split(size)])
            assert torch.equal(apart.argmax(dim=1), together.argmax(dim=1)), (point, size)


@pytest.mark.parametrize(
    "images, message",
    [
        (torch.zeros(1, 3, 28, 28).to_sparse(), "sparse tensors hold no pixels"),
        (torch.zeros(1, 3, 28, 28, device="meta"), "meta tensors hold no pixels"),
        (torch.zeros(1, 3, 28, 28, dtype=torch.complex64), "type torch.complex64 do not fit"),
        (torch.zeros(1, 3, 28, 28, dtype=torch.bool), "type torch.bool do not fit"),
        (torch.zeros(1, 3, 1, 1).expand(1, 3, 99999, 99999), "need at least .* GiB of memory"),
        (torch.zeros(1, 3, 28, 28).expand(10**9, 3, 28, 28), "1000000000 images .* need at least .* GiB of memory"),
    ],
)
def test_images_that_cannot_be_run_are_refused_before_memory_is_asked_for(opened, images, message):
    runtime, model = opened
    for run in (runtime.logits, lambda images, point: runtime.forward_paths(images, [point]), model):
        with pytest.raises(InputError, match=message):
            run(images, "99999" if images.shape[-1] == 99999 else "7")


def test_images_that_want_a_gradient_or_lie_apart_in_memory_are_run(opened):
    runtime, _ = opened
    images = torch.randn(2, 3, 28, 28)
    expected = runtime.logits(images, "7")
    apart = images.transpose(2, 3).contiguous().transpose(2, 3)
    for other in (apart, images.clone().requires_grad_(), images.to(memory_format=torch.channels_last)):
        torch.testing.assert_close(runtime.logits(other, "7"), expected, atol=1e-5, rtol=1e-5)


def near(runtime):
    """How close two ways to the same logits are in its precision."""
    return {"atol": 1e-5, "rtol": 1e-5} if runtime.precision == "float32" else {"atol": 0.05, "rtol": 0.05}


def test_runtimes_have_what_they_say_they_can(opened):
    runtime, _ = opened
    images = torch.randn(2, 3, 28, 28)
    if runtime.shares_prefixes:
        prefix = runtime.encode_prefix(runtime.place(images), 7)
        torch.testing.assert_close(
            runtime.resume(prefix, Complexity.of("7@0.5")), runtime.logits(images, "7@0.5"), **near(runtime)
        )
    else:
        with pytest.raises(NotImplementedError, match="shares no prefixes"):
            runtime.encode_prefix(images, 7)
    if runtime.traces:
        assert runtime.traced_paths(images, ["7@0.5"])[1][0].grid_size == 7
    else:
        with pytest.raises(NotImplementedError, match="traces nothing"):
            runtime.traced_paths(images, ["7@0.5"])


def test_no_runtime_is_evaluated_calibrated_or_compared_on_what_is_no_number(opened):
    runtime, model = opened
    batch = torch.randn(4, 3, 28, 28), torch.zeros(4, dtype=torch.long)
    run = lambda images, point: runtime.run(images.to(runtime.dtype), point) * torch.tensor([[1], [1], [torch.nan], [1]])  # noqa: E731
    broken, points = plain_runtime(runtime, run=run), [Complexity.of("4@0.5"), Complexity.of("7")]
    for use in (evaluate, collect_answers):
        with pytest.raises(InputError, match="logits at 4@0.5 are not finite for 1 of 4 images; check weights and images"):
            use(broken, [batch], points)
    batch[0][1] = torch.inf
    for use in (evaluate, collect_answers):
        with pytest.raises(InputError, match="pixels are not finite for 1 of 4 images; check weights and images"):
            use(runtime, [batch], points)
    with pytest.raises(InputError, match="pixels are not finite for 1 of 4 images"):
        compare_runtimes(model, *batch, points, batch_size=2)


@pytest.mark.parametrize("name", runtime_names())
def test_weights_that_are_no_numbers_are_refused_in_every_runtime(name):
    if obstacle := HERE[name, "float32"]:
        pytest.skip(obstacle)
    model = small_model()
    with torch.no_grad():
        model.blocks[1].mlp.fc1.weight[0, 0] = torch.nan
    with pytest.raises(InputError, match="are not (all )?finite"):
        evaluate(open_runtime(name, model), [(torch.randn(2, 3, 28, 28), torch.zeros(2, dtype=torch.long))])


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
    added = climb_macs(model.config, ladder.rungs, runtime.shares_prefixes)
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
    other = plain_runtime(as_runtime(model))
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        for runtime, count, threads in ((other, 1, 1), (other, 64, 2), (as_runtime(model), 1, 2)):
            assert runtime.preparing(count, torch.get_num_threads) == threads
            assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_threads_are_at_least_one():
    with pytest.raises(InputError, match="threads 0 must be at least 1"):
        dataclasses.replace(RuntimeConfig(), threads=0)
