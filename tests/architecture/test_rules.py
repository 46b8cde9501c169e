"""Did we keep our own rules? (Import floors are checked by import-linter, style by ruff.)"""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted((ROOT / "src").rglob("*.py"))
OPTIONAL = {"matplotlib", "sklearn", "datasets", "webdataset", "wandb", "psutil"}  # not pynvml: torch itself imports it
OPTIONAL |= {"onnx", "onnxscript", "onnxruntime", "openvino", "nncf"}


def test_optional_packages_and_the_command_line_are_not_imported_with_the_library():
    code = f"import sys, supervit, supervit.train, supervit.runtimes; print(sorted({OPTIONAL | {'tyro'}!r} & set(sys.modules)))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT).stdout
    assert out.strip() == "[]"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT / "src/supervit")))
def test_files_stay_small_and_functions_fit_on_a_screen(path):
    text = path.read_text()
    assert text.count("\n") <= 400
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            assert node.end_lineno - node.lineno < 60, node.name
            assert len(node.args.args) + len(node.args.kwonlyargs) <= 10, node.name


def test_no_file_has_a_name_that_says_nothing():
    assert not {path.stem for path in SOURCES} & {"utils", "helpers", "common", "misc"}


def test_pickles_are_never_loaded_whole():
    for path in [*SOURCES, *(ROOT / "benchmarks").glob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load":
                assert "weights_only=True" in ast.unparse(node), path


def test_image_files_are_opened_in_one_place():
    callers = set()
    doors = ("Image.open", "PIL.Image.open", "Image.OPEN", "PIL.Image.OPEN")
    for path in [*SOURCES, *(ROOT / "benchmarks").glob("*.py")]:
        text = path.read_text()
        names = [ast.unparse(node) for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Attribute | ast.Name)]
        callers |= {path.name for name in names if name in (*doors, "default_loader", "pil_loader")}
        assert "torchvision.datasets.folder" not in text  # whose loaders open any format
    assert callers == {"_opening.py"}


def test_six_files_explain_the_system_in_less_than_1000_lines():
    names = ["complexity", "tokens", "network", "block", "reducers/class_attention", "objective"]
    assert sum((ROOT / "src/supervit" / f"{name}.py").read_text().count("\n") for name in names) < 1000


def test_python_m_supervit_is_the_command():
    out = subprocess.run([sys.executable, "-m", "supervit", "macs", "deit_tiny"], capture_output=True, text=True, check=True)
    assert "14@0.7" in out.stdout
