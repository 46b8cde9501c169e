"""Weights files and model directories: of any writer, with odd tensors, odd names and odd things beside them, or damaged."""

import argparse
import contextlib
import hashlib
import json
import pickle
import struct
import tarfile
import warnings
import zipfile
from functools import cache
from io import BytesIO
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import safetensors.torch
import torch

import supervit
from supervit import SuperViT
from tests.fuzz.mutations import ODD_NUMBERS, as_json, mutated, mutated_value, odd_value, put_no_file
from tests.fuzz.odd_weights import ODDITIES, Executes, Foreign, Weights
from tests.fuzz.workshop import Door, Workshop, as_zip, copied, resumed, state_dicts


@cache
def _all_weights(workshop: Workshop) -> list[tuple[str, Weights]]:
    return list(state_dicts(workshop))


def make(rng: Random, folder: Path, workshop: Workshop) -> tuple[str, list[Door]]:
    """What was done, and the doors to try."""
    draw = rng.random()
    if draw < 0.02:
        return _right(rng, folder, workshop)
    if draw < 0.12:
        return _directory(rng, folder, workshop)
    if draw < 0.17:
        return _sharded(rng, folder, workshop)
    if draw < 0.23:
        return _checkpoint(rng, folder, workshop)
    name, weights = rng.choice(_all_weights(workshop))
    weights, done = dict(weights), [name]
    for _ in range(rng.choice((0, 1, 1, 1, 2))):
        oddity = rng.choice(ODDITIES)
        with contextlib.suppress(Exception):  # what torch cannot make of what is odd already stays as it is
            weights = oddity(weights, rng)
        done.append(oddity.__name__.strip("_"))
    suffix = rng.choice((".safetensors", ".pth", ".pt", ".bin", ".tar", ".ckpt", ".safetensors", ".pth", ".npz"))
    content = _written(weights, suffix, rng, done)
    if rng.random() < 0.2:
        content, _ = mutated(content, rng), done.append("damaged")
    path = folder / f"{rng.choice(('weights', 'weights', 'model', 'pytorch_model'))}{suffix}"
    path.write_bytes(content)
    if rng.random() < 0.01:
        put_no_file(path, rng)
    if rng.random() < 0.15:
        done.append("a config beside it")
        beside = {
            "architecture": "vit_tiny_patch16_224",
            "num_classes": 2,
            "pretrained_cfg": {"mean": [0.5] * 3, "crop_pct": 1.0},
        }
        (folder / "config.json").write_bytes(as_json(mutated_value(beside, rng), rng))
    overrides: dict[str, Any] = {"num_heads": 3, "drop_blocks": (1, 2)} if rng.random() < 0.8 else {}
    if rng.random() < 0.1:
        overrides[rng.choice(("num_heads", "grid_sizes", "drop_blocks", "mean", "depth", "reducer", "x"))] = odd_value(rng)
    return ", ".join(done), [("load", lambda: supervit.load(path, **overrides))]


def _right(rng: Random, folder: Path, workshop: Workshop) -> tuple[str, list[Door]]:
    """Weights as they should be."""
    name, weights = rng.choice(_all_weights(workshop))
    path = folder / "weights.pth"
    path.write_bytes(as_zip(weights, legacy=rng.random() < 0.5))
    return f"right: {name}", [
        ("load", lambda: supervit.load(path, num_heads=3, drop_blocks=(1, 2)[: 2 - name.endswith("lvvit")]))
    ]


def _written(weights: Weights, suffix: str, rng: Random, done: list[str]) -> bytes:
    """The weights in a file's form; what safetensors cannot hold goes into a pickle."""
    if suffix == ".safetensors":
        try:
            data = safetensors.torch.save({str(key): value.contiguous().clone() for key, value in weights.items()})
        except Exception:
            done.append("as a pickle")
        else:
            return _header_changed(data, rng) if rng.random() < 0.25 else data
    content: Any = weights
    wrapper = rng.choice(("", "", "", "", "model", "state_dict", "state_dict_ema", "model_ema", "ema", "weird"))
    if wrapper:
        done.append(f"under {wrapper}")
        content = {wrapper: content, "epoch": 3, "args": argparse.Namespace(lr=1)}
        content |= rng.choice(
            (
                {},
                {},
                {},
                {},
                {},
                {},
                {"best": np.float64(1.5)},
                {"f": Foreign()},
                {"rng": np.random.RandomState(0).get_state()},
                {"p": Path()},
            )
        )
    if rng.random() < 0.05:
        done.append("executes")
        content = rng.choice((Executes(), {"model": Executes()}, {"state_dict": {"a": Executes()}}))
    if rng.random() < 0.04:
        return pickle.dumps(content, protocol=rng.randint(0, 5)) if rng.random() < 0.5 else _tar_of(content)
    if rng.random() < 0.05:
        content = rng.choice(([], 0, None, "text", next(iter(weights.values()), None), {}, {1: 2}, [weights], {"model": None}))
    try:
        data = as_zip(content, legacy=rng.random() < 0.3)
    except Exception:  # a tensor that torch cannot write
        return as_zip({"odd": torch.zeros(2)})
    return _zip_changed(data, rng) if data[:2] == b"PK" and rng.random() < 0.25 else data


def _tar_of(content: Any) -> bytes:
    """The oldest form of torch's files, or what calls itself so."""
    file = BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        for name in ("sys_info", "pickle", "storages", "tensors"):
            data = pickle.dumps(content if name == "pickle" else 0, protocol=2)
            header = tarfile.TarInfo(name)
            header.size = len(data)
            tar.addfile(header, BytesIO(data))
    return file.getvalue()


def _header_changed(data: bytes, rng: Random) -> bytes:
    """Safetensors whose header says something else."""
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    if not header:
        return data
    name = rng.choice(list(header))
    if isinstance(header[name], dict) and "shape" in header[name]:
        field, values = rng.choice((
            ("shape", ([2**62, 4], [0], [-1], [1.5], [], [10**9] * 3, [10**7, 24], None, ["a"], [[1]])),
            ("dtype", ("F8_E4M3", "F4", "U64", "BOOL", "C64", "F6_E2M3", "X", 1, None, "I16")),
            ("data_offsets", ([0, 0], [0, 2**63], [100, 10], [-4, 0], [0, len(data)], None, [0])),
        ))  # fmt: skip
        header[name][field] = rng.choice(values)
    else:
        header = mutated_value(header, rng)
    text = json.dumps(header).encode()
    if rng.random() < 0.2:
        text = as_json(header, rng)
    claimed = len(text) if rng.random() < 0.85 else rng.choice((0, 1, 2**40, 2**63, len(text) * 2, 100_000_001))
    return struct.pack("<Q", claimed % 2**64) + text + data[8 + length :]


def _zip_changed(data: bytes, rng: Random) -> bytes:
    """A zip of torch's with members dropped, doubled, renamed, of another content, or compressed a thousandfold."""
    source, target = zipfile.ZipFile(BytesIO(data)), BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as written:
        warnings.simplefilter("ignore")
        for name in source.namelist():
            content, draw = source.read(name), rng.random()
            if draw < 0.05:
                continue
            if draw < 0.1:
                written.writestr(
                    rng.choice(
                        (
                            "../../executed",
                            "/executed",
                            name.upper(),
                            "archive/data.pkl",
                            "x/constants.pkl",
                            "archive/code/a.py",
                        )
                    ),
                    content,
                )
            elif draw < 0.15:
                written.writestr(name, mutated(content, rng))
                written.writestr(name, content)
            elif draw < 0.2:
                written.writestr(name, mutated(content, rng))
            elif draw < 0.23 and "/data/" in name:
                written.writestr(name, bytes(300_000_000), zipfile.ZIP_DEFLATED, 1)
            else:
                written.writestr(name, content)
    return target.getvalue()


# --- directories ----------------------------------------------------------------------------------------------------------


def _directory(rng: Random, folder: Path, workshop: Workshop) -> tuple[str, list[Door]]:
    """A model directory of ours, its config or weights damaged."""
    path = copied(workshop.models[rng.choice(("rgb", "grey", "lvvit"))], folder / "model")
    file = path / rng.choice(("config.json", "config.json", "model.safetensors"))
    if file.suffix == ".json":
        config = json.loads(file.read_text())
        if rng.random() < 0.5:
            config = mutated_value(config, rng)
        else:
            config[rng.choice(list(config))] = rng.choice(
                (10**9, 10**7, 30_000, 2**62, [10**6], [1] * 10**5, [3, 10**5], [0.5] * 100, *ODD_NUMBERS)
            )
        file.write_bytes(as_json(config, rng) if rng.random() < 0.3 else json.dumps(config).encode())
    elif rng.random() < 0.5:
        file.write_bytes(_header_changed(file.read_bytes(), rng))
    else:
        file.write_bytes(mutated(file.read_bytes(), rng))
    target = rng.choice((path, path, path / "model.safetensors"))
    doors: list[Door] = [("load", lambda: supervit.load(target)), ("from_pretrained", lambda: SuperViT.from_pretrained(path))]
    return f"directory, {file.name}", [rng.choice(doors)]


def _sharded(rng: Random, folder: Path, workshop: Workshop) -> tuple[str, list[Door]]:
    """Weights in several files, and an index that lies."""
    name, weights = rng.choice(_all_weights(workshop))
    files = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
    index = {"metadata": {"total_size": 1}, "weight_map": {key: rng.choice(files) for key in weights}}
    for file in files:
        part = {key: weights[key].contiguous().clone() for key, where in index["weight_map"].items() if where == file}
        safetensors.torch.save_file(part, folder / file)
    paths = (
        "../../../etc/passwd",
        "/etc/passwd",
        "/dev/zero",
        "/dev/stdin",
        ".",
        "",
        "model.safetensors.index.json",
        "a\0b",
        "x" * 5000,
        "/proc/self/mem",
        1,
        None,
        ["a"],
    )
    draw = rng.random()
    if draw < 0.4:
        index["weight_map"][rng.choice(list(weights))] = rng.choice(paths)
    elif draw < 0.7:
        index = mutated_value(index, rng)
    elif draw < 0.8:
        damaged = folder / rng.choice(files)
        damaged.write_bytes(mutated(damaged.read_bytes(), rng))
    path = folder / "model.safetensors.index.json"
    path.write_bytes(as_json(index, rng) if rng.random() < 0.3 else json.dumps(index).encode())
    overrides = {"num_heads": 3, "drop_blocks": (1, 2)}
    target = rng.choice((path, folder, folder / files[0]))
    return f"sharded {name}", [("load", lambda: supervit.load(target, **overrides))]


def _checkpoint(rng: Random, folder: Path, workshop: Workshop) -> tuple[str, list[Door]]:
    """A run whose newest checkpoint is damaged, resumed."""
    run = copied(workshop.run_folder, folder / "run")
    checkpoint = sorted((run / "checkpoints").iterdir())[-1]
    file = checkpoint / rng.choice(
        ("training_state.pt", "training_state.pt", "training_state.pt", "config.json", "model.safetensors")
    )
    before = hashlib.sha256(file.read_bytes()).hexdigest()
    draw = rng.random()
    if file.suffix == ".pt" and draw < 0.7:
        state = torch.load(file, weights_only=True)
        file.write_bytes(as_zip(_state_changed(state, rng)))
    elif draw < 0.8:
        file.unlink()
    else:
        file.write_bytes(mutated(file.read_bytes(), rng))
    if file.exists() and rng.random() < 0.7:
        for beside in checkpoint.glob("*sha256*"):  # digests that follow, as those of a faulty writer would
            beside.write_text(beside.read_text().replace(before, hashlib.sha256(file.read_bytes()).hexdigest()))
    if rng.random() < 0.1:
        checkpoint.rename(
            checkpoint.with_name(rng.choice(("step-x", "step-", "step--1", "step-00000002x", "step-99999999999999999999")))
        )
    return f"checkpoint, {file.name}", [("resume", resumed(workshop, run))]


def _state_changed(state: Any, rng: Random) -> Any:
    """A training state with other tensors, counts or parts."""
    for _ in range(rng.choice((1, 1, 2))):
        match rng.randrange(7):
            case 0:
                state["step"] = rng.choice((*ODD_NUMBERS[:12], 1, 2.5, "3", None, torch.tensor(3)))
            case 1:
                state.pop(rng.choice(list(state)), None)
            case 2:
                state[rng.choice(list(state))] = rng.choice((None, [], {}, 0, "x", torch.zeros(3)))
            case 3 if isinstance(state.get("ema"), dict) and state["ema"]:
                key = rng.choice(list(state["ema"]))
                state["ema"][key] = rng.choice(
                    (
                        torch.zeros(1),
                        torch.tensor(float("nan")),
                        None,
                        state["ema"][key] * float("nan"),
                        torch.zeros(1).expand(10**9),
                    )
                )
            case 4 | 5 if (
                isinstance(state.get("optimizer"), dict)
                and isinstance(state["optimizer"].get("state"), dict)
                and state["optimizer"]["state"]
            ):
                moments = rng.choice(list(state["optimizer"]["state"].values()))
                if isinstance(moments, dict) and moments:
                    key = rng.choice(list(moments))
                    moments[key] = rng.choice(
                        (
                            torch.zeros(1),
                            torch.zeros(3, 3),
                            torch.zeros(1, dtype=torch.int64),
                            None,
                            "x",
                            moments[key] * float("nan") if isinstance(moments[key], torch.Tensor) else 1,
                            torch.zeros(1).to_sparse(),
                            torch.zeros(2, device="meta"),
                        )
                    )
            case _ if isinstance(state.get("optimizer"), dict) and isinstance(state["optimizer"].get("param_groups"), list):
                state["optimizer"]["param_groups"] = mutated_value(state["optimizer"]["param_groups"], rng)
    return state
