"""Plug-ins of another package, by their full name, wherever a plug-in's name is taken; and files that name some."""

import json
import subprocess
import sys
import textwrap

import pytest
import torch

import supervit
from supervit import InputError, SuperViT, create_model
from supervit.cli import main
from supervit.data import SourceConfig, open_dataset
from supervit.export import export_model
from supervit.recipes import load_recipe
from supervit.runtimes import open_artefact, open_runtime
from tests.conftest import small_config, trained_like

FILES = {
    "reducer": """
        from supervit import reducers
        class Reducer(reducers.Reducer):
            def score(self, seen): return -seen.attention[:, :, seen.tokens.prefix :].mean(dim=1)
    """,
    "family": """
        from supervit.backbones.deit import Config, patch_embed, patch_embed_macs
        VARIANTS = {"strange_tiny": {"embed_dim": 24, "num_heads": 3}}
    """,
    "source": """
        from supervit.data.digits import open_split
    """,
    "runtime": """
        from supervit.runtimes.eager import PRECISIONS, obstacle, open_runtime
    """,
    "target": """
        from supervit.export.onnx import *
        from supervit.export.onnx import read, write
    """,
    "recipe": """
        from supervit.recipes.small import digits as _digits
        def strange():
            '''A stranger's.'''
            return _digits()
    """,
}


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package of somebody else's with a plug-in of each kind; its name."""
    name = f"strangers_{tmp_path.name.replace('-', '_')}"
    folder = tmp_path / "lib" / name
    folder.mkdir(parents=True)
    (folder / "__init__.py").touch()
    for file, text in FILES.items():
        (folder / f"{file}.py").write_text(textwrap.dedent(text))
    monkeypatch.syspath_prepend(str(tmp_path / "lib"))
    yield name
    for module in [each for each in sys.modules if each.startswith(name)]:
        del sys.modules[module]


def test_whatever_takes_a_plug_ins_name_takes_one_from_outside(package, tmp_path, capsys):
    model = trained_like(SuperViT(small_config(reducer=f"{package}.reducer"))).eval()
    images = torch.randn(2, 3, 28, 28)
    assert not torch.equal(model(images, "7@0.5"), trained_like(SuperViT(small_config())).eval()(images, "7@0.5"))
    assert create_model(f"{package}.family.strange_tiny", num_classes=3).config.family == f"{package}.family"
    assert open_dataset(SourceConfig(f"{package}.source"), "val", small_config(in_chans=1)).classes[0] == "0"
    assert torch.equal(open_runtime(f"{package}.runtime", model).logits(images, "7"), model(images, "7"))
    export_model(model, f"{package}.target", tmp_path / "out", ["7@0.5"])
    assert open_artefact(tmp_path / "out").logits(images, "7@0.5").shape == (2, 5)
    assert load_recipe(f"{package}.recipe.strange").out.name == "strange"
    main(["macs", f"{package}.family.strange_tiny", "--points", "8"])
    assert "8" in capsys.readouterr().out


@pytest.mark.parametrize(
    "take, message",
    [
        (
            lambda: small_config(reducer="no_such_package.module").plan("7"),
            "there is no module 'no_such_package.module'; install",
        ),
        (lambda: SuperViT(small_config(reducer="os.path")), "posixpath has no class Reducer of supervit.reducers.Reducer"),
        (lambda: load_recipe("supervit.recipes.small.nothing"), "unknown recipe 'supervit.recipes.small.nothing'"),
        (lambda: create_model("supervit.backbones.deit.nothing"), "unknown model 'supervit.backbones.deit.nothing'"),
    ],
)
def test_what_is_no_plug_in_is_refused(take, message):
    with pytest.raises(InputError, match=message):
        take()


def test_a_file_imports_no_plug_in_that_nobody_trusts(package, tmp_path, monkeypatch):
    SuperViT(small_config()).save(tmp_path / "model")
    config = json.loads((tmp_path / "model/config.json").read_text())
    (tmp_path / "model/config.json").write_text(json.dumps({**config, "reducer": f"{package}.reducer"}))
    with pytest.raises(InputError, match=rf"names the plug-in '{package}.reducer' of another package; if you trust"):
        supervit.load(tmp_path / "model")
    assert f"{package}.reducer" not in sys.modules
    settings = tmp_path / "settings.yaml"
    for text in (f"recipe: {package}.recipe.strange", f"recipe: digits\nmodel: {{reducer: {package}.reducer}}"):
        settings.write_text(text)
        said = subprocess.run(
            [sys.executable, "-m", "supervit", "train", "--config", str(settings)], capture_output=True, text=True, check=False
        )
        assert (said.returncode, "of another package" in said.stderr) == (2, True), said.stderr
    monkeypatch.setenv("SUPERVIT_PLUGINS", f"other,{package}")
    assert supervit.load(tmp_path / "model").config.reducer == f"{package}.reducer"
