"""What the cases damage: models, exports, tables, data sets and a run, whole and small, made once."""

import dataclasses
import io
import json
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from supervit import Predictor, SuperViT
from supervit.backbones import variant_config
from supervit.cascade import Ladder
from supervit.complexity import Complexity
from supervit.config import SuperViTConfig
from supervit.cost_table import Cost, CostTable, Setup
from supervit.data import DataConfig
from supervit.export import export_model
from supervit.train import TrainConfig, run_training
from tests.data_sets import CLASSES, encode, hugging_face_rows, idx, noise, write_folder, write_shards

Door = tuple[str, Callable[[], Any]]
_SMALL = {
    "embed_dim": 24,
    "num_heads": 3,
    "patch_size": 4,
    "grid_sizes": (4, 5, 7),
    "num_classes": 2,
    "class_names": ("cat", "dog"),
}
_NEEDS = {
    "images": ("predictors",),
    "weights": ("models", "run_folder"),
    "json": ("models", "predictors", "tables", "artefacts", "shards", "run_folder", "hugging_face"),
    "tars": ("fashion", "hugging_face"),
    "artefacts": ("artefacts",),
    "commands": ("models", "folder", "shards", "tables", "run_folder", "artefacts"),
}
_TARGETS = {"torch_export": ("onnx",), "onnx": ("onnxscript", "onnxruntime"), "openvino": ("onnxscript", "openvino")}


def small_config(family: str = "deit", **changes: Any) -> SuperViTConfig:
    """Four blocks or more on three grids."""
    variant = {"deit": "deit_tiny", "lvvit": "lvvit_tiny"}[family]
    return variant_config(variant, **{**_SMALL, "depth": 4, "drop_blocks": (1, 2), **changes})


def has(*packages: str) -> bool:
    """Whether all these can be imported."""
    return all(find_spec(package) is not None for package in packages)


@dataclass(frozen=True)
class Workshop:
    """Files under a folder, made when they are first asked for; `build` makes all of them."""

    root: Path

    def build(self, kinds: Iterable[str]) -> None:
        """What cases of these kinds need, so that a process forked from this one has it."""
        for name in sorted({name for kind in kinds for name in _NEEDS[kind]}):
            getattr(self, name)

    @cached_property
    def models(self) -> dict[str, Path]:
        """Model directories: rgb, grey, lvvit."""
        torch.manual_seed(0)
        configs = {
            "rgb": small_config(),
            "grey": small_config(in_chans=1),
            "lvvit": small_config("lvvit", depth=3, drop_blocks=(1,)),
        }
        for name, config in configs.items():
            if not (self.root / name).exists():
                SuperViT(config).eval().save(self.root / name)
        return {name: self.root / name for name in configs}

    @cached_property
    def predictors(self) -> dict[tuple[str, bool], Predictor]:
        """By model and whether decoding is reduced."""
        loaded = {name: SuperViT.from_pretrained(self.models[name]) for name in ("rgb", "grey")}
        return {
            (name, less): Predictor(model, reduced_decoding=less) for name, model in loaded.items() for less in (False, True)
        }

    @cached_property
    def folder(self) -> Path:
        """An image folder."""
        return self._made("folder", lambda root: write_folder(root))

    @cached_property
    def shards(self) -> Path:
        """Shards of two splits, with sizes.json."""

        def write(root: Path) -> None:
            for split in ("train", "val"):
                write_shards(root, split, [4, 4])
                (root / split / "sizes.json").write_text(json.dumps({"000.tar": 4, "001.tar": 4}))

        return self._made("shards", write)

    @cached_property
    def hugging_face(self) -> Path | None:
        """What `save_to_disk` writes."""
        if not has("datasets"):
            return None
        import datasets

        splits = {"train": hugging_face_rows(4), "validation": hugging_face_rows(4)}
        return self._made("hugging_face", lambda root: datasets.DatasetDict(splits).save_to_disk(root))

    @cached_property
    def fashion(self) -> Path:
        """Fashion-MNIST of a few images."""
        import gzip

        def write(root: Path) -> None:
            root.mkdir()
            for part in ("train", "t10k"):
                (root / f"{part}-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(torch.zeros(4, 28, 28).numpy())))
                (root / f"{part}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(torch.arange(4).numpy())))

        return self._made("fashion", write)

    @cached_property
    def tables(self) -> Path:
        """costs.json, ladder.json, menu.json and results.json of the rgb model."""

        def write(root: Path) -> None:
            model = SuperViT.from_pretrained(self.models["rgb"])
            points = [Complexity.of(text) for text in ("4@0.5", "5", "7")]
            rows = tuple(
                Cost(point, size, 1.0 + i, 2.0 + i, 100.0, 20, 10, top1=50.0 + i)
                for i, point in enumerate(points)
                for size in (1, 4)
            )
            CostTable(rows, Setup.of(model)).save(root / "costs.json")
            Ladder(tuple(points), (0.9, 0.8), model=model.fingerprint()).save(root / "ladder.json")
            (root / "menu.json").write_text(json.dumps({"points": [str(point) for point in points]}))
            records = [{"complexity": str(point), "top1": 50.0} for point in points]
            evaluated = {"fingerprint": model.fingerprint(), "precision": "float32", "runtime": "eager"}
            (root / "results.json").write_text(json.dumps({"results": records, **evaluated}))

        return self._made("tables", write)

    def run_config(self, out: Path) -> TrainConfig:
        """A run of four steps, an epoch each."""
        data = DataConfig("image_folder", self.folder, batch_size=8, workers=0, auto_augment=None)
        model = small_config(num_classes=0, class_names=())
        quick = {
            "plot": False,
            "throughput_repeats": 0,
            "keep_checkpoints": 3,
            "warmup_epochs": 0,
            "eval_every": 9,
            "paths": ("4",),
        }
        return TrainConfig(model=model, data=data, out=out, epochs=3, ema_decay=0.9, **quick)  # type: ignore[arg-type]

    @cached_property
    def run_folder(self) -> Path:
        """A finished run with three checkpoints; resumed, it evaluates."""
        return self._made("run", lambda root: run_training(self.run_config(root)))

    @cached_property
    def artefacts(self) -> dict[str, Path]:
        """Elastic exports by target."""
        torch.manual_seed(0)
        model, found = SuperViT(small_config(depth=3, drop_blocks=(1,))).eval(), {}
        for target, packages in _TARGETS.items():
            if has(*packages):
                write = partial(export_model, model, target, points=["4", "7@0.5"])
                found[target] = self._made(target, write)
        return found

    def _made(self, name: str, write: Callable[[Path], Any]) -> Path:
        path = self.root / name
        if not path.exists():
            aside = self.root / f".{name}.tmp"
            shutil.rmtree(aside, ignore_errors=True)
            write(aside)
            aside.rename(path)
        return path


def copied(source: Path, target: Path) -> Path:
    """A copy of a folder that may be damaged."""
    return Path(shutil.copytree(source, target, symlinks=True))


def state_dicts(workshop: Workshop) -> Iterator[tuple[str, dict[str, torch.Tensor]]]:
    """Weights by the names of ours, timm's, Hugging Face's and the released files."""
    for name in ("rgb", "grey", "lvvit"):
        ours = SuperViT.from_pretrained(workshop.models[name]).state_dict()
        yield f"ours {name}", ours
        tables = sorted(key for key in ours if key.startswith("pos_embeds."))
        rest = {key: value for key, value in ours.items() if key not in tables}
        yield f"released {name}", rest | {f"pos_embed_list.{i}": ours[key] for i, key in enumerate(tables)}
        if name != "lvvit":
            timm = rest | {"pos_embed": ours["pos_embeds.7"]}
            yield f"timm {name}", timm
            yield f"hugging face {name}", hugging_face_names(timm)


_NAMES = {
    "patch_embed.proj": "embeddings.patch_embeddings.projection", "attn.proj": "attention.output.dense",
    "norm1": "layernorm_before",
    "norm2": "layernorm_after", "mlp.fc1": "intermediate.dense", "mlp.fc2": "output.dense", "blocks": "encoder.layer",
}  # fmt: skip


def hugging_face_names(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """timm's weights under the names of transformers."""
    found = {}
    for key, value in weights.items():
        if ".attn.qkv." in key:
            for part, tensor in zip(("query", "key", "value"), value.chunk(3), strict=True):
                found[key.replace("blocks", "encoder.layer").replace("attn.qkv", f"attention.attention.{part}")] = tensor
            continue
        for ours, theirs in _NAMES.items():
            key = key.replace(ours, theirs)
        key = {"cls_token": "embeddings.cls_token", "pos_embed": "embeddings.position_embeddings"}.get(key, key)
        key = key.replace("head.", "classifier.") if key.startswith("head.") else key
        key = f"layernorm.{key.removeprefix('norm.')}" if key.startswith("norm.") else key
        found[key if key.startswith("classifier") else f"vit.{key}"] = value
    return found


def picture_bytes(number: int = 0, format: str = "jpeg") -> bytes:
    """A file that is fine."""
    return encode(noise(number, (80, 60)), format)


def as_zip(content: Any, legacy: bool = False) -> bytes:
    """What `torch.save` writes."""
    file = io.BytesIO()
    torch.save(content, file, _use_new_zipfile_serialization=not legacy)
    return file.getvalue()


def resumed(workshop: Workshop, run: Path) -> Callable[[], Any]:
    """To go on with a run."""
    return lambda: run_training(dataclasses.replace(workshop.run_config(run), resume=True))


__all__ = ["CLASSES", "Door", "Workshop", "as_zip", "copied", "has", "picture_bytes", "resumed", "small_config", "state_dicts"]
