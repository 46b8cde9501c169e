"""The command line: what it prints, and the one line that bad input gets."""

import json
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import supervit
from supervit import SuperViT
from supervit.cli import main
from supervit.recipes import recipe_names
from tests.conftest import small_config

FLAGS = Path(__file__).with_name("cli_flags.txt")
NAMES = (
    "evaluate", "benchmark", "macs", "convert", "label", "profile", "search", "cascade", "runtimes", "export", "predict",
    "curves",
)  # fmt: skip
COMMANDS = [*((name,) for name in NAMES), ("train", "digits")]


def help_text(capsys, *command):
    with pytest.raises(SystemExit) as stop:
        main([*command, "--help"])
    assert stop.value.code == 0
    return capsys.readouterr().out


def test_flags_are_frozen(capsys, monkeypatch):
    """A flag that people use does not change by accident: add or remove one here too, and say so in the changelog."""
    monkeypatch.setenv("COLUMNS", "200")

    def flags(*command):
        return sorted(set(re.findall(r"--[a-z][a-z0-9.-]*", help_text(capsys, *command))) - {"--help"})

    lines = []
    for command in COMMANDS:
        lines += [f"{' '.join(command)} {flag}" for flag in flags(*command)]
    assert lines == FLAGS.read_text().splitlines()
    for name in recipe_names():
        assert set(flags("train", "digits")) <= set(flags("train", name))


def test_help_lists_the_commands(capsys):
    text = help_text(capsys)
    assert all(command in text for command, *_ in COMMANDS)
    assert "digits" in help_text(capsys, "train")


def test_train_lists_its_recipes(capsys):
    main(["train", "--list"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == recipe_names()
    assert "Figure 4b" in next(line for line in lines if line.startswith("cross_entropy"))


def test_macs_prints_the_twelve_costs(capsys):
    main(["macs", "deit_small"])
    out = capsys.readouterr().out
    assert len([line for line in out.splitlines() if line.startswith("|")]) == 14
    assert "4.599" in out
    assert "69% of single passes" in out
    main(["macs", "deit_small", "--points", "9@0.6"])
    assert "9@0.6" in capsys.readouterr().out


def test_convert_and_benchmark(capsys, tmp_path):
    model = SuperViT(small_config())
    weights = {key: value for key, value in model.state_dict().items() if not key.startswith("pos_embeds.")}
    save_file({**weights, "pos_embed": model.pos_embeds["7"].detach()}, tmp_path / "timm.safetensors")
    main(
        [
            "convert",
            str(tmp_path / "timm.safetensors"),
            str(tmp_path / "model"),
            "--num-heads",
            "3",
            "--mean",
            "0.5",
            "0.5",
            "0.5",
        ]
    )
    assert "grid sizes 4, 5, 6, 7" in capsys.readouterr().out
    assert supervit.load(tmp_path / "model").config.mean == (0.5, 0.5, 0.5)
    main(["benchmark", str(tmp_path / "model"), "--batch-size", "2", "--repeats", "1", "--out", str(tmp_path / "table")])
    assert "images/s" in capsys.readouterr().out
    assert len(json.loads((tmp_path / "table/results.json").read_text())["results"]) == 12


def test_benchmark_takes_a_variant_name(capsys):
    main(["benchmark", "deit_tiny", "--batch-size", "1", "--repeats", "1", "--warmup", "0", "--points", "8@0.5"])
    assert "8@0.5" in capsys.readouterr().out


def test_evaluate_on_digits(capsys, tmp_path):
    model = SuperViT(small_config(in_chans=1, num_classes=10))
    model.save(tmp_path / "model")
    options = ["--data.name", "digits", "--data.workers", "0", "--repeats", "0", "--points", "4@0.5", "7"]
    main(["evaluate", str(tmp_path / "model"), *options, "--out", str(tmp_path / "out")])
    assert "top-1 %" in capsys.readouterr().out
    context = json.loads((tmp_path / "out/results.json").read_text())
    assert (context["images"], context["data"]) == (360, "digits")
    assert (tmp_path / "out/tradeoff.svg").exists()


def test_train_runs_a_recipe_with_overrides(capsys, tmp_path):
    small = ["--model.embed-dim", "16", "--model.num-heads", "2", "--model.depth", "2", "--model.drop-blocks", "1"]
    quick = ["--epochs", "1", "--data.batch-size", "700", "--model.grid-sizes", "2", "3", "--throughput-repeats", "1"]
    main(["train", "digits", "--out", str(tmp_path / "run"), *small, *quick])
    out = capsys.readouterr().out
    assert "epoch 1/1: top-1" in out
    assert "3@0.7" in out
    assert supervit.load(tmp_path / "run/model").config.depth == 2
    for name in ("curves", "tradeoff"):
        assert all((tmp_path / f"run/{name}.{form}").exists() for form in ("png", "svg", "pdf"))


def bad_commands(tmp_path):
    SuperViT(small_config(num_classes=2, class_names=("cat", "dog"))).save(tmp_path / "model")
    (tmp_path / "file").write_text("")
    (tmp_path / "data/val").mkdir(parents=True)
    torch.save({"a": 1}, tmp_path / "bad.pth")
    SuperViT(small_config(num_classes=3)).save(tmp_path / "nameless")
    for name in "abc":
        (tmp_path / "three/val" / name).mkdir(parents=True)
        (tmp_path / "three/val" / name / "0.png").write_bytes(b"not an image")
    model, nameless = str(tmp_path / "model"), str(tmp_path / "nameless")
    return {
        "unknown model": (["macs", "deit_smal"], "did you mean deit_small"),
        "complexity": (["macs", "deit_small", "--points", "14@"], "complexity '14@' does not parse"),
        "keep rate 0": (["macs", "deit_small", "--points", "14@0"], "keep rate 0.0 is not in (0, 1]"),
        "keep rate 1.5": (["macs", "deit_small", "--points", "14@1.5"], "keep rate 1.5 is not in (0, 1]"),
        "corrupt file": (["convert", str(tmp_path / "bad.pth"), str(tmp_path / "out")], "holds no weights"),
        "no file": (["convert", "nowhere", str(tmp_path / "out")], "no such file or directory: 'nowhere'"),
        "output": (["convert", model, str(tmp_path / "file/out")], "cannot write to"),
        "data": (["evaluate", model, "--data.root", str(tmp_path / "data")], "holds no class folders"),
        "classes": (["evaluate", model, "--data.name", "digits"], "the classes of the data ("),
        "source": (["evaluate", model, "--data.name", "digit"], "did you mean digits"),
        "device": (["benchmark", "deit_tiny", "--device", "gpu"], "device 'gpu' cannot be used"),
        "no images": (["predict", model], "no images; name at least one file"),
        "no root": (["train", "image_folder", "--out", str(tmp_path / "run")], "needs the folder of the data"),
        "class count": (["evaluate", nameless, "--data.name", "digits"], "the data have 10 classes, the model 3"),
        "damaged image": (["evaluate", nameless, "--data.root", str(tmp_path / "three"), "--repeats", "0"], "cannot be read"),
        "policy": (["train", "digits", "--data.auto-augment", "foo"], "--data.auto-augment 'foo' is not a policy"),
        "mlp ratio": (["train", "digits", "--model.mlp-ratio", "-1"], "--model.mlp-ratio -1.0 must be more than 0"),
        "weight decay": (["train", "digits", "--weight-decay", "-1"], "--weight-decay -1.0 must be at least 0"),
        "epochs": (["train", "digits", "--epochs", "0"], "epochs 0 must be more than 0"),
        "heads": (["train", "digits", "--model.num-heads", "7"], "is not a multiple of --model.num-heads 7"),
    }


CASES = ["unknown model", "complexity", "keep rate 0", "keep rate 1.5", "corrupt file", "no file", "output", "data"]
CASES += [
    "class count",
    "damaged image",
    "policy",
    "mlp ratio",
    "weight decay",
    "classes",
    "source",
    "device",
    "no images",
    "no root",
    "epochs",
    "heads",
]


@pytest.mark.parametrize("case", CASES)
def test_bad_input_gets_one_clear_line(case, capsys, tmp_path):
    command, message = bad_commands(tmp_path)[case]
    with pytest.raises(SystemExit) as stop:
        main(command)
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("supervit: error: ")
    assert message in error
    assert error.count("\n") == 1
