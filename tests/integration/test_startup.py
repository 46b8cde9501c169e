"""What is imported when: help needs no PyTorch, and timm knows our models whichever of the two comes first."""

import importlib
import subprocess
import sys

import pytest

from supervit.recipes import recipe_names

PACKAGES = ["supervit", "supervit.data", "supervit.train"]
HEAVY = ["torch", "torchvision", "timm", "numpy", "matplotlib", "sklearn", "onnx", "openvino"]


def python(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def test_no_help_and_no_list_imports_torch():
    """Seconds, if it did. One process looks at all of them, so that what one leaves behind does not hide the next."""
    commands = [[], ["train"], *(["train", name] for name in recipe_names())]
    commands += [[name] for name in ("evaluate", "benchmark", "macs", "convert", "label", "profile", "search", "cascade")]
    commands += [[name] for name in ("runtimes", "export", "predict")]
    asked = [[*command, "--help"] for command in commands] + [["train", "--list"]]
    code = f"""
import contextlib, io, sys
from supervit.cli import main
for arguments in {asked}:
    with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()) as out:
        main(arguments)
    assert len(out.getvalue()) > 200, arguments
    found = set({HEAVY}) & set(sys.modules)
    assert not found, (arguments, found)
print("light")
"""
    assert python(code) == "light"


def test_the_library_itself_is_imported_when_it_is_used():
    code = f"import sys, supervit; print(set({HEAVY}) & set(sys.modules)); print(supervit.load.__module__)"
    assert python(code).splitlines() == ["set()", "supervit.checkpoints"]


@pytest.mark.parametrize("package", PACKAGES)
def test_every_public_name_is_there(package):
    module = importlib.import_module(package)
    assert {*module.__all__} <= {*dir(module)}
    for name in module.__all__:
        assert getattr(module, name) is not None
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = module.nothing
    exec(f"from {package} import *", names := {})
    assert {*module.__all__} <= {*names}


@pytest.mark.parametrize(
    "imports",
    [
        "import supervit, timm",
        "import timm, supervit",
        "import supervit.layers, timm",
        "import importlib.util, supervit; importlib.util.find_spec('timm'); import timm",
    ],
)
def test_timm_knows_our_models_in_any_order_of_imports(imports):
    code = f"{imports}\nmodel = timm.create_model('supervit_deit_tiny_patch16_224', num_classes=3, depth=4, drop_blocks=(1,))"
    code += (
        "\nimport inspect\nassert inspect.getsource(timm)\nprint(type(model).__module__, len(timm.list_models('supervit_*')))"
    )
    assert python(code) == "supervit.model 6"
