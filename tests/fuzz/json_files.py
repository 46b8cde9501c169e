"""JSON files of every reader: valid ones, with their values dropped, renamed, retyped or absurd, or badly written."""

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import safetensors.torch
import torch

import supervit
from supervit import SuperViT
from supervit.cascade import Ladder
from supervit.choose import Budget, choose
from supervit.cost_table import CostTable
from supervit.data import EpochLoader, SourceConfig, open_dataset
from supervit.runtimes import as_runtime, open_artefact
from tests.fuzz.mutations import as_json, mutated_value, put_no_file
from tests.fuzz.workshop import Door, Workshop, copied, has, resumed, small_config, state_dicts

TIMM = {
    "architecture": "vit_tiny_patch16_224", "num_classes": 2, "num_features": 24, "global_pool": "token",
    "pretrained_cfg": {
        "input_size": [3, 28, 28], "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5], "crop_pct": 0.9, "interpolation": "bicubic",
        "crop_mode": "center", "num_classes": 2, "first_conv": "patch_embed.proj", "classifier": "head", "label_names": ["a",
        "b"],
    },
}  # fmt: skip
TRANSFORMERS = {
    "architectures": ["ViTForImageClassification"], "model_type": "vit", "hidden_size": 24, "num_attention_heads": 3,
    "image_size": 28,
    "num_hidden_layers": 4, "intermediate_size": 96, "patch_size": 4, "num_channels": 3, "id2label": {"0": "a", "1": "b"},
    "label2id": {"a": 0, "b": 1}, "layer_norm_eps": 1e-12, "qkv_bias": True, "hidden_act": "gelu",
}  # fmt: skip
PREPROCESSOR = {
    "do_normalize": True, "do_resize": True, "do_rescale": True, "rescale_factor": 1 / 255, "image_mean": [0.5] * 3,
    "resample": 2,
    "image_std": [0.5] * 3, "size": {"height": 28, "width": 28}, "crop_pct": 0.9, "image_processor_type": "ViTImageProcessor",
}  # fmt: skip


def make(rng: Random, folder: Path, workshop: Workshop) -> tuple[str, list[Door]]:
    """What was done, and the doors to try."""
    what, doors = rng.choice(READERS)(rng, folder, workshop)
    is_file = all(path.is_dir() or (path.is_file() and not path.is_symlink()) for path in folder.rglob("*"))
    return what if is_file else f"{what}, no file", doors


def damage(file: Path, rng: Random) -> None:
    """Change the values in a JSON file, or its bytes."""
    value = json.loads(file.read_text())
    if rng.random() < 0.01:
        put_no_file(file, rng)
        return
    file.write_bytes(as_json(mutated_value(value, rng), rng))


def _config(rng: Random, folder: Path, workshop: Workshop) -> tuple[str, list[Door]]:
    path = copied(workshop.models[rng.choice(("rgb", "grey", "lvvit"))], folder / "model")
    damage(path / "config.json", rng)
    if rng.random() < 0.5:
        return "config.json", [("load", lambda: supervit.load(path))]
    return "config.json", [("from_pretrained", lambda: SuperViT.from_pretrained(path))]


def _table(name: str, use: Callable[[Path, Workshop], Any]) -> Callable[..., tuple[str, list[Door]]]:
    def reader(rng: Random, folder: Path, workshop: Workshop) -> tuple[str, list[Door]]:
        path = folder / name
        path.write_bytes((workshop.tables / name).read_bytes())
        damage(path, rng)
        return name, [(name, lambda: use(path, workshop))]

    return reader


def _use_costs(path: Path, workshop: Workshop) -> Any:
    table = CostTable.load(path)
    try:
        chosen = choose(table, Budget(latency_ms=2.5))
    finally:
        table.save(path.with_name("saved.json"))
        CostTable.load(path.with_name("saved.json"))
    return chosen, workshop.predictors["rgb", True].within(Budget(latency_ms=2.5), table)


def _use_ladder(path: Path, workshop: Workshop) -> Any:
    ladder = Ladder.load(path)
    return workshop.predictors["rgb", True](torch.zeros(3, 28, 28), ladder)


def _use_menu(path: Path, workshop: Workshop) -> Any:
    from supervit.commands._opening import parse_points  # needs tyro

    return workshop.predictors["rgb", True].runtime.model_config.view(parse_points((f"@{path}",), ()))


def _use_results(path: Path, workshop: Workshop) -> Any:
    from supervit.commands.profile import Accuracies  # needs tyro

    return Accuracies.load(path).of(as_runtime(workshop.predictors["rgb", True].runtime))


def _export(rng: Random, folder: Path, workshop: Workshop) -> tuple[str, list[Door]]:
    name = rng.choice(sorted(workshop.artefacts))
    path = copied(workshop.artefacts[name], folder / "artefact")
    damage(path / "export.json", rng)
    return f"export.json of {name}", [("open_artefact", lambda: used_artefact(path))]


def used_artefact(path: Path) -> Any:
    """Logits of an artefact at each of its points."""
    runtime = open_artefact(path)
    side = min(runtime.model_config.image_size, 64)
    channels = min(runtime.model_config.in_chans, 8)
    return [runtime.logits(torch.zeros(2, channels, side, side), point) for point in runtime.points[:5]]


def _sizes(rng: Random, folder: Path, workshop: Workshop) -> tuple[str, list[Door]]:
    root = copied(workshop.shards, folder / "shards")
    damage(root / "val" / "sizes.json", rng)
    return "sizes.json", [("webdataset", lambda: read_all(SourceConfig("webdataset", root, workers=0, batch_size=4)))]


def read_all(config: SourceConfig, split: Any = "val", batches: int = 4) -> Any:
    """The first batches of a split, whatever is damaged in it."""
    dataset = open_dataset(config, split, small_config())
    loader = EpochLoader(dataset, 4, 0, max_damaged=1.0)
    return [batch[0].shape for batch, _ in zip(loader.epoch(), range(batches), strict=False)], loader.damaged


def _run(rng: Random, folder: Path, workshop: Workshop) -> tuple[str, list[Door]]:
    run = copied(workshop.run_folder, folder / "run")
    file = rng.choice((run / "train_config.json", *sorted(sorted((run / "checkpoints").iterdir())[-1].glob("*.json"))))
    damage(file, rng)
    if rng.random() < 0.04:
        put_no_file(rng.choice(sorted(path for path in run.rglob("*") if path.is_file())), rng)
    return f"{file.name} of a run", [("resume", resumed(workshop, run))]


@cache
def _foreign(workshop: Workshop, names: str) -> bytes:
    return safetensors.torch.save(
        {key: value.contiguous().clone() for key, value in dict(state_dicts(workshop))[names].items()}
    )


def _beside(rng: Random, folder: Path, workshop: Workshop) -> tuple[str, list[Door]]:
    """The configs of timm and transformers beside their weights."""
    names = rng.choice(("timm rgb", "hugging face rgb"))
    values: dict[str, Any] = {
        "config.json": TIMM if names == "timm rgb" else TRANSFORMERS,
        "preprocessor_config.json": PREPROCESSOR,
    }
    (folder / "model.safetensors").write_bytes(_foreign(workshop, names))
    for file, value in values.items():
        if rng.random() < 0.8:
            (folder / file).write_bytes(
                as_json(mutated_value(value, rng), rng) if rng.random() < 0.7 else json.dumps(value).encode()
            )
    target, overrides = rng.choice((folder, folder / "model.safetensors")), {"drop_blocks": (1, 2), "num_heads": 3}
    overrides = overrides if rng.random() < 0.5 else {"drop_blocks": (1, 2)}
    return f"beside {names}", [("load", lambda: supervit.load(target, **overrides))]


def _hugging_face(rng: Random, folder: Path, workshop: Workshop) -> tuple[str, list[Door]]:
    """The JSON files of a data set on disk."""
    if workshop.hugging_face is None:
        return _config(rng, folder, workshop)
    root = copied(workshop.hugging_face, folder / "data")
    file = rng.choice(sorted(root.rglob("*.json")))
    damage(file, rng)
    if rng.random() < 0.04:
        put_no_file(rng.choice(sorted(root.rglob("*.arrow"))), rng)
    return f"{file.name} of datasets", [
        ("hugging_face", lambda: read_all(SourceConfig("hugging_face", root, workers=0, batch_size=4)))
    ]


READERS: tuple[Callable[..., tuple[str, list[Door]]], ...] = (
    _config, _config, _table("costs.json", _use_costs), _table("ladder.json", _use_ladder), _export, _run, _beside, _beside,
    _hugging_face, *([_table("results.json", _use_results), _table("menu.json", _use_menu)] if has("tyro") else []),
    *([_sizes] if has("webdataset") else []),
)  # fmt: skip
