"""Settings in files: what a run writes down can be read back, YAML names what differs from a recipe, flags go before both."""

import dataclasses
import json
import re
import sys
from pathlib import Path

import pytest

from supervit import InputError
from supervit.cli import main
from supervit.recipes import load_recipe, recipe_names
from supervit.train import run_training
from supervit.train.checkpoint import checkpoints
from supervit.train.config_file import apply, from_values, read_config, write_config
from tests.integration.test_resume import assert_equal_weights
from tests.integration.test_train import tiny_run


def plain(config):
    return {key: value for key, value in config.to_dict().items() if key != "resume"}


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_can_be_written_down_and_read_back(tmp_path, name):
    config = dataclasses.replace(load_recipe(name), out=tmp_path / "run")
    write_config(tmp_path, config, name)
    recipe, values = read_config(tmp_path / "train_config.json")
    assert recipe == name
    assert apply(load_recipe(name), values) == config
    assert apply(load_recipe("digits"), values) == config
    assert from_values(values) == config


def test_what_is_written_down_names_recipe_settings_versions_and_command(tmp_path):
    write_config(tmp_path, load_recipe("digits"), "digits")
    written = json.loads((tmp_path / "train_config.json").read_text())
    assert list(written) == ["recipe", "config", "versions", "command"]
    assert written["command"] == sys.argv
    assert written["config"] == json.loads(json.dumps(plain(load_recipe("digits"))))
    assert {"python", "supervit", "torch", "timm"} <= set(written["versions"])


def written(tmp_path, text, name="run.yaml"):
    (tmp_path / name).write_text(text)
    return tmp_path / name


def test_yaml_says_what_differs_from_the_recipe(tmp_path):
    text = """
recipe: finetune
init: weights.pth   # a comment
lr: 1e-3
min_lr: 2.5e-6
warmup_epochs: 0
clip_grad: null
paths: ["8@0.5", "8"]
out: runs/mine
data: {root: photos, scale: [0.5, 1]}
model:
  grid_sizes: [8, 10]
  drop_path_rate: .1
"""
    recipe, values = read_config(written(tmp_path, text))
    assert recipe == "finetune"
    config = apply(load_recipe(recipe), values)
    assert (config.init, config.lr, config.min_lr, config.clip_grad) == ("weights.pth", 1e-3, 2.5e-6, None)
    assert (config.paths, config.out) == (("8@0.5", "8"), Path("runs/mine"))
    assert (config.data.root, config.data.scale, config.data.batch_size) == (Path("photos"), (0.5, 1), 32)
    assert (config.model.grid_sizes, config.model.drop_path_rate) == ((8, 10), 0.1)
    assert config.epochs == load_recipe("finetune").epochs


BAD = {
    "unknown name": ("epoch: 3", "unknown TrainConfig field 'epoch'; did you mean epochs"),
    "unknown name in a part": ("data: {rot: x}", "unknown DataConfig field 'rot'; did you mean root"),
    "unknown name of the model": ("model: {embed: 3}", "unknown SuperViTConfig field 'embed'; did you mean embed_dim"),
    "a type": ("epochs: three", "epochs 'three' is not usable; it must be of type int"),
    "a truth": ("epochs: true", "epochs True is not usable"),
    "a family": ("model: {family: vit}", "'vit'"),
    "a part that is none": ("data: 3", "data 3 is not usable"),
    "a value": ("epochs: 0", "epochs 0 must be more than 0"),
    "a value of the model": ("model: {num_heads: 7}", "not a multiple of num_heads 7"),
    "a choice": ("teacher: labelz", "did you mean labels"),
    "not a number": ("lr: .nan", "lr nan"),
    "no object": ("[1, 2]", "it holds no object"),
    "empty": ("", "it holds no object"),
    "no YAML": ("a: [", "it is not YAML"),
    "two documents": ("a: 1\n---\nb: 2", "it is not YAML"),
    "an alias": ("data: &x {root: y}\nmodel: *x", "aliases"),
    "laughs": ("a: &a [1,1]\n" + "".join(f"b{i}: &b{i} [*b{i - 1}]\n" for i in range(1, 30)), "aliases"),
    "an object of Python": ("out: !!python/object/apply:os.system [ls]", "it is not YAML"),
    "deep": ("a: " + "[" * 5000, "nested too deep|not YAML"),
    "a recipe that is none": ("recipe: [digits]", "its recipe is no name"),
    "an unknown recipe": ("recipe: digit", "unknown recipe 'digit'; did you mean digits"),
    "more beside config": ("config: {epochs: 3}\nepochs: 4", "beside its config there may be recipe, versions, command alone"),
    "a date": ("out: 2024-01-01", "out datetime.date"),
    "a key that is a number": ("3: 4", "unknown TrainConfig field '3'"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_file_that_cannot_be_used_is_one_line(tmp_path, capsys, case):
    text, message = BAD[case]
    path = written(tmp_path, text)
    with pytest.raises(SystemExit) as stop:
        main(["train", *([] if "recipe" in text else ["digits"]), "--config", str(path)])
    error = capsys.readouterr().err
    assert stop.value.code == 2
    assert error.startswith("supervit: error: ")
    assert error.count("\n") == 1
    assert re.search(message, error)


def test_bytes_and_missing_files_are_one_line(tmp_path, monkeypatch):
    (tmp_path / "bytes.yaml").write_bytes(b"\xff\x00\x80")
    (tmp_path / "broken.json").write_text('{"epochs": NaN}')
    for name in ("bytes.yaml", "broken.json", "nowhere.yaml", "nowhere.json", "."):
        with pytest.raises(InputError, match="cannot read the settings in "):
            read_config(tmp_path / name)
    monkeypatch.setitem(sys.modules, "yaml", None)
    with pytest.raises(InputError, match="YAML needs the package PyYAML: pip install pyyaml, or write JSON"):
        read_config(written(tmp_path, "epochs: 3"))


SMALL = """
recipe: digits
epochs: 1
plot: false
throughput_repeats: 0
warmup_epochs: 0
model: {embed_dim: 16, num_heads: 2, depth: 2, drop_blocks: [1], grid_sizes: [2, 3]}
data: {batch_size: 700}
"""


def test_the_command_trains_by_a_file_and_flags_go_before_it(tmp_path, capsys):
    path, out = written(tmp_path, SMALL + f"out: {tmp_path / 'one'}\n"), tmp_path / "one"
    main(["train", "--config", str(path), "--data.batch-size", "500"])
    assert [path.name for path in checkpoints(out)] == ["step-00000002"]
    noted = json.loads((out / "train_config.json").read_text())
    assert (noted["recipe"], noted["config"]["epochs"], noted["config"]["data"]["batch_size"]) == ("digits", 1, 500)
    assert noted["config"]["lr"] == load_recipe("digits").lr
    settings = str(out / "train_config.json")
    with pytest.raises(SystemExit):
        main(["train", "--config", settings])
    assert "holds a run already" in capsys.readouterr().err
    main(["train", "--config", settings, "--resume"])
    main(["train", "digits", f"--config={settings}", "--out", str(tmp_path / "two")])
    assert_equal_weights(out, tmp_path / "two")
    assert json.loads((tmp_path / "two/train_config.json").read_text())["config"] == {
        **noted["config"],
        "out": str(tmp_path / "two"),
    }


def test_the_command_notes_the_recipe(tmp_path):
    small = ["--model.embed-dim", "16", "--model.num-heads", "2", "--model.depth", "2", "--model.drop-blocks", "1"]
    quick = [
        "--epochs",
        "1",
        "--data.batch-size",
        "700",
        "--model.grid-sizes",
        "2",
        "3",
        "--throughput-repeats",
        "0",
        "--no-plot",
    ]
    main(["train", "digits", "--out", str(tmp_path), *small, *quick])
    assert json.loads((tmp_path / "train_config.json").read_text())["recipe"] == "digits"


def test_a_run_from_python_is_read_back_without_a_recipe(tmp_path):
    config = tiny_run(tmp_path / "one", epochs=1, throughput_repeats=0)
    run_training(config)
    assert read_config(tmp_path / "one/train_config.json")[0] is None
    main(["train", "--config", str(tmp_path / "one/train_config.json"), "--out", str(tmp_path / "two")])
    assert_equal_weights(tmp_path / "one", tmp_path / "two")


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["train", "digits", "--config"], "--config names no file"),
        (["train", "--config", "a.yaml", "--config", "b.yaml"], "--config is given 2 times"),
        (["train", "--config", "nowhere.yaml"], "cannot read the settings in 'nowhere.yaml'"),
    ],
)
def test_a_config_that_is_not_named_well_is_refused(capsys, arguments, message):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


def test_a_file_without_recipe_needs_one_or_all_settings(tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["train", "--config", str(written(tmp_path, "epochs: 3"))])
    assert "TrainConfig lacks model, data" in capsys.readouterr().err


def test_help_with_a_file_shows_its_values(tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["train", "--config", str(written(tmp_path, "recipe: digits\nepochs: 77")), "--help"])
    assert stop.value.code == 0
    assert "default: 77" in capsys.readouterr().out
