"""What every exported artefact must obey when others get it: many threads, damage, strangers, and no package of ours."""

import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import supervit.export
from supervit import Complexity, InputError, Predictor, SuperViT
from supervit.cascade import Cascade, Ladder
from supervit.export import export_model, target_names
from supervit.plugins import load_plugin
from supervit.runtimes import as_runtime, available_runtimes, open_artefact
from tests.contract.test_exports import STATIC, need, small_model
from tests.contract.test_runtimes import images_of

PACKAGES = {"onnx": "onnxruntime", "openvino": "openvino", "torch_export": "torch", "aot_inductor": "torch"}
CODE = {target for target in target_names() if load_plugin(supervit.export, target).RUNS_CODE}


@pytest.fixture(scope="module", params=target_names())
def written(request, tmp_path_factory) -> tuple[str, SuperViT, Path, list[str]]:
    """A target, a model with class names, its artefact and its points."""
    need(request.param)
    torch.manual_seed(0)
    model = small_model()
    model.config = model.config.replace(class_names=("ant", "bee", "cat", "dog", "élan"))
    points = ["7@0.5"] if request.param in STATIC else ["4@0.5", "4", "7@0.5", "7"]
    out = tmp_path_factory.mktemp("artefact") / "out"
    export_model(model, request.param, out, points)
    return request.param, model, out, points


@pytest.fixture
def copy(written, tmp_path) -> Path:
    return Path(shutil.copytree(written[2], tmp_path / "out"))


def test_many_threads_with_mixed_points_get_the_answers_that_one_gets(written):
    target, _, out, points = written
    precisions = ["float32"]
    for found in available_runtimes():
        if found.name == target and not found.obstacle and found.precision in load_plugin(supervit.export, target).CASTS:
            precisions.append(found.precision)
    for precision in precisions:
        runtime = open_artefact(out, precision, threads=1, trust=True)
        calls = [(images_of(index, 1 + index % 3), points[index % len(points)]) for index in range(24)]
        expected = [runtime.logits(*call) for call in calls]
        with ThreadPoolExecutor(4) as pool:
            images, asked = zip(*calls * 8, strict=True)
            for logits, each in zip(pool.map(runtime.logits, images, asked), expected * 8, strict=True):
                torch.testing.assert_close(logits, each, atol=1e-5, rtol=1e-5)


def test_predictors_and_cascades_answer_many_threads_as_they_answer_one(written):
    _, _, out, points = written
    runtime = open_artefact(out, threads=1, trust=True)
    rungs = tuple(map(Complexity.of, points))
    predictor, cascade = Predictor(runtime, batch_size=2), Cascade(runtime, Ladder(rungs, (0.4,) * (len(rungs) - 1)), 2)

    def answers(batch):
        given = [[one.class_index for one in predictor(batch, point)] for point in points]
        return cascade.predict(batch).logits.argmax(dim=1).tolist(), given

    batches = [images_of(2 * index, 5) for index in range(6)]
    expected = [answers(batch) for batch in batches]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(answers, batches * 2)) == expected * 2


def test_formats_that_can_run_code_are_opened_for_those_alone_who_say_that_they_trust_them(written):
    target, _, out, _ = written
    if target in CODE:
        with pytest.raises(InputError, match="can run code of whoever wrote it .*--trust or trust=True"):
            open_artefact(out)
    else:
        open_artefact(out)
    assert {"torch_export", "aot_inductor"} == CODE


@pytest.mark.parametrize("written", ["aot_inductor"], indirect=True)
def test_the_example_in_cpp_compiles_as_it_says_and_answers_as_python_does(written, tmp_path):
    _, model, out, points = written
    said = (out / "example.cpp").read_text().partition("all on one line:")[2].partition("#include")[0].replace("\n//", " ")
    shell = f'python() {{ "{sys.executable}" "$@"; }}; {said.replace("-o example", f"-o {tmp_path}/example")}'
    subprocess.run(["bash", "-ec", shell], cwd=out, check=True)
    images = images_of(0, 1)
    images.numpy().tofile(tmp_path / "image.f32")
    (tmp_path / "short.f32").write_bytes(bytes(100))

    def answer(name):
        run = [tmp_path / "example", out / "model.pt2", tmp_path / name]
        return subprocess.run(run, capture_output=True, text=True, check=False)

    expected = as_runtime(model).logits(images, points[0]).softmax(dim=1).max(dim=1)
    name, index, probability = answer("image.f32").stdout.split()
    assert (name, int(index)) == ("class", expected.indices.item())
    assert float(probability) == pytest.approx(expected.values.item(), abs=1e-5)
    for other in ("nothing.f32", "short.f32"):
        assert (answer(other).returncode, answer(other).stdout) == (1, "")
        assert "is no file of 9408 bytes" in answer(other).stderr


def test_no_byte_of_any_file_changes_unnoticed(written, copy):
    report = json.loads((copy / "export.json").read_text())
    assert {path.name for path in copy.iterdir()} == {*report["files"], "export.json"}
    draw = np.random.default_rng(0)
    for name in report["files"]:
        content = (copy / name).read_bytes()
        for place in draw.integers(len(content), size=8):
            (copy / name).write_bytes(
                content[:place] + bytes([content[place] ^ (1 << draw.integers(8))]) + content[place + 1 :]
            )
            with pytest.raises(InputError, match=f"{name}' is not the file that was exported"):
                open_artefact(copy, trust=True)
        (copy / name).write_bytes(content)
    open_artefact(copy, trust=True)


@pytest.mark.parametrize("is_listed", [True, False])
def test_pipes_in_the_place_of_files_are_not_waited_for(written, copy, is_listed):
    report = json.loads((copy / "export.json").read_text())
    for name in list(report["files"]):
        content = (copy / name).read_bytes()
        (copy / name).unlink()
        os.mkfifo(copy / name)
        files = {key: value for key, value in report["files"].items() if is_listed or key != name}
        (copy / "export.json").write_text(json.dumps({**report, "files": files}))
        with pytest.raises(InputError):
            open_artefact(copy, trust=True)
        (copy / name).unlink()
        (copy / name).write_bytes(content)


def test_missing_files_are_named(written, copy):
    for path in list(copy.iterdir()):
        content = path.read_bytes()
        path.unlink()
        with pytest.raises(InputError, match=path.name if content and path.name.startswith(("ex", "model.xml")) else "files"):
            open_artefact(copy, trust=True)
        path.write_bytes(content)


@pytest.mark.parametrize(
    "change",
    [
        {"config": {"depth": 10**9}},
        {"config": {"embed_dim": 3 * 10**6}},
        {"config": {"num_classes": 10**9, "class_names": []}},
        {"config": {"patch_size": 10**8}},
        {"config": {"mlp_ratio": 1e9}},
        {"points": {"complexity": "99999"}},
        {"points": {"complexity": "99999@0.5", "image_size": 99999 * 4}},
        {"points": {"image_size": 10**9}},
        {"points": {"keep": [10**12]}},
        {"points": {"keep": []}},
        {"points": {"keep": [-1]}},
        {"points": []},
        {"files": {}},
        {"files": {"../export.json": "0"}},
        {"files": {"/etc/hostname": "0"}},
    ],
    ids=str,
)
def test_reports_that_do_not_fit_their_files_are_refused_before_memory_is_asked_for(written, copy, change):
    report = json.loads((copy / "export.json").read_text())
    for name, value in change.items():
        if name == "points":
            report["points"] = [report["points"][0] | value, *report["points"][1:]] if value else []
        else:
            report[name] = report[name] | value if value else {}
    (copy / "export.json").write_text(json.dumps(report))
    with pytest.raises(InputError):
        open_artefact(copy, trust=True)


def test_weights_in_other_files_are_refused(tmp_path):
    onnx = pytest.importorskip("onnx")
    need("onnx")
    tensor = onnx.helper.make_tensor("weights", onnx.TensorProto.FLOAT, [2], b"12345678", raw=True)
    onnx.external_data_helper.set_external_data(tensor, "../secret.bin")
    output = onnx.helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, [2])
    graph = onnx.helper.make_graph([onnx.helper.make_node("Identity", ["weights"], ["logits"])], "g", [], [output], [tensor])
    (tmp_path / "model.onnx").write_bytes(onnx.helper.make_model(graph).SerializeToString())
    (tmp_path.parent / "secret.bin").write_bytes(b"12345678")
    with pytest.raises(InputError, match="takes weights from other files"):
        load_plugin(supervit.export, "onnx").read(tmp_path)


def test_an_artefact_says_how_to_run_it(written):
    target, model, out, points = written
    about = json.loads((out / "export.json").read_text())
    assert about["class_names"] == list(model.config.class_names)
    assert about["preprocessing"]["layout"] == "NCHW"
    assert about["preprocessing"]["channels"] == "RGB"
    assert about["preprocessing"]["mean"] == list(model.config.mean)
    names = ["images", "logits"] if len(points) == 1 else ["images", "keep", "logits"]
    assert [each["name"] for each in about["tensors"]] == names
    assert about["tensors"][-1]["shape"] == ["batch", "5"]
    if target == "onnx":
        import onnx

        props = {prop.key: prop.value for prop in onnx.load(out / "model.onnx").metadata_props}
        assert json.loads(props["supervit.class_names"]) == about["class_names"]
        assert json.loads(props["supervit.preprocessing"]) == about["preprocessing"]
        assert json.loads(props["supervit.points"])[points[0]]["keep"] == about["points"][0]["keep"]
    if target == "openvino":
        import openvino

        model = openvino.Core().read_model(out / "model.xml")
        assert json.loads(model.get_rt_info(["supervit", "class_names"]).value) == about["class_names"]


def test_the_example_beside_an_artefact_classifies_a_picture_without_this_package(written, tmp_path):
    target, model, out, points = written
    shade = np.linspace(0, 255, 28, dtype=np.uint8)
    picture = np.stack([np.tile(shade, (28, 1)), np.tile(shade[:, None], (1, 28)), np.full((28, 28), 90, np.uint8)], axis=2)
    Image.fromarray(picture).resize((40, 56)).save(tmp_path / "cat.png")
    blocked = "import sys; sys.modules['supervit'] = None; sys.argv = sys.argv[1:]; exec(open(sys.argv[0]).read())"
    code = blocked.replace("exec(", "__file__ = sys.argv[0]; exec(")
    for point in {points[0], points[-1]} if target == "onnx" else points[:1]:
        command = [sys.executable, "-c", code, str(out / "example.py"), str(tmp_path / "cat.png"), point]
        clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        found = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=clean, check=False)
        assert found.returncode == 0, found.stderr
        name, probability = found.stdout.split()
        (answer,) = Predictor(model, point, reduced_decoding=False)(tmp_path / "cat.png")
        assert name == answer.class_name
        assert float(probability) == pytest.approx(answer.probability, abs=0.0011)  # printed with four digits
    assert "supervit" not in "".join(line for line in (out / "example.py").read_text().splitlines() if "import" in line)
    assert PACKAGES[target] in (out / "example.py").read_text()


def test_tokens_are_ranked_in_float32_in_bfloat16(written):
    target, _, out, _ = written
    if target != "openvino" or {one.precision: one.obstacle for one in available_runtimes() if one.name == target}["bfloat16"]:
        pytest.skip("only OpenVINO casts what was written")
    import openvino

    options = {"INFERENCE_PRECISION_HINT": "bf16", "PERFORMANCE_HINT": "LATENCY"}
    compiled = openvino.Core().compile_model(openvino.Core().read_model(out / "model.xml"), "CPU", options)
    found: dict[str, set[str]] = {}
    for node in compiled.get_runtime_model().get_ordered_ops():
        values = {key: getattr(value, "value", value) for key, value in node.get_rt_info().items()}
        for name in str(values["originalLayersNames"]).split(","):
            found.setdefault(f"{values['layerType']} {name}", set()).add(values["runtimePrecision"])
    for name in (
        "MatMul node_matmul",
        "Softmax node_softmax",
        "Reduce node_mean",
        "TopK node_topk__1",
        "FullyConnected logits",
    ):
        assert found[name] == {"f32"}, name
    assert {"bf16"} in found.values()


@torch.no_grad()
@pytest.mark.parametrize("target", ["onnx", "openvino"])
def test_int8_says_what_it_costs_and_ranks_tokens_in_float32(target, tmp_path):
    need(target)
    pytest.importorskip("nncf")
    model, images = small_model(), torch.randn(16, 3, 28, 28)
    labels = model(images, "7@0.5").argmax(dim=1)
    report = export_model(model, target, tmp_path / "out", ["7@0.5"], "int8", images, labels)
    assert report.quantised is not None
    assert report.quantised.images == 16
    found = open_artefact(tmp_path / "out").logits(images, "7@0.5").argmax(dim=1)
    agreement = 100 * (found == labels).double().mean().item()
    assert report.quantised.agreement == report.quantised.top1 == {"7@0.5": pytest.approx(agreement)}
    assert report.quantised.top1_float32 == {"7@0.5": 100}
    if target == "onnx":
        import onnx

        from supervit.export.onnx import ranking_nodes

        graph = onnx.load(tmp_path / "out/model.onnx")
        ranking = set(ranking_nodes(graph))
        assert any("matmul" in name.lower() for name in ranking)
        assert not any(node.name in ranking for node in graph.graph.node if "Quantize" in node.op_type)
