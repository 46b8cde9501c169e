"""Exported artefacts, one file of them damaged, replaced or missing; the report's checksums follow, as an attacker's would."""

import hashlib
import io
import json
import pickle
import zipfile
from pathlib import Path
from random import Random

from tests.fuzz.json_files import used_artefact
from tests.fuzz.mutations import mutated, put_no_file
from tests.fuzz.odd_weights import Executes
from tests.fuzz.workshop import Door, Workshop, copied


def make(rng: Random, folder: Path, workshop: Workshop) -> tuple[str, list[Door]]:
    """What was done, and the doors to try."""
    name = rng.choice(sorted(workshop.artefacts))
    path = copied(workshop.artefacts[name], folder / "artefact")
    doors: list[Door] = [("open_artefact", lambda: used_artefact(path))]
    if rng.random() < 0.04:
        return f"{'right: ' * (name != 'torch_export')}{name}", doors  # which asks to be trusted
    file = rng.choice(sorted(file for file in path.iterdir() if file.is_file() and file.name != "export.json"))
    before = file.read_bytes()
    done, content = _changed(before, file.suffix, rng, workshop)
    file.write_bytes(content)
    report = path / "export.json"
    follows = rng.random() < 0.6
    if follows:
        report.write_text(report.read_text().replace(_digest(before), _digest(content)))
    draw = rng.random()
    if draw < 0.05:
        done, values = f"{done}, under another target", json.loads(report.read_text())
        values["target"] = rng.choice(("onnx", "openvino", "torch_export", "aot_inductor", "../x", "__init__"))
        report.write_text(json.dumps(values))
        (path / "model.pt2").write_bytes(content)
    elif draw < 0.1:
        file.unlink()
        done = "missing"
    elif draw < 0.13:
        put_no_file(file, rng)
        done = "no file"
        if follows:  # nor in the report
            values = json.loads(report.read_text())
            report.write_text(json.dumps({**values, "files": {k: v for k, v in values["files"].items() if k != file.name}}))
    is_wrong = file.stem == "model" and not follows and content != before
    return f"{'wrong: ' * is_wrong}{name}, {file.name}, {done}", doors


def _changed(content: bytes, suffix: str, rng: Random, workshop: Workshop) -> tuple[str, bytes]:
    """What was done to a file's content, and what it is now."""
    draw = rng.random()
    if draw < 0.1:
        others = [file for path in workshop.artefacts.values() for file in path.iterdir() if file.is_file()]
        return "of another artefact", rng.choice(sorted(others)).read_bytes()
    if draw < 0.3 and content[:2] == b"PK":
        return "a member changed", _zip_changed(content, rng)
    if draw < 0.35:
        return "of another kind", rng.choice((b"", pickle.dumps(Executes()), b"PK\3\4", b"\x08" * 999, b"<net/>", b"\x7fELF"))
    if draw < 0.45 and suffix == ".xml":
        text = content.decode().partition("?>")[2]
        return "entities", ('<!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]>' + text).encode()
    return "damaged", mutated(content, rng)


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _zip_changed(data: bytes, rng: Random) -> bytes:
    source, target = zipfile.ZipFile(io.BytesIO(data)), io.BytesIO()
    names = source.namelist()
    chosen = rng.choice(names)
    with zipfile.ZipFile(target, "w") as written:
        for name in names:
            content = source.read(name)
            if name == chosen:
                content = rng.choice((mutated(content, rng), pickle.dumps(Executes(), 2), b"", _executes_saved()))
            written.writestr(name, content)
    return target.getvalue()


def _executes_saved() -> bytes:
    """What `torch.save` writes of something that acts when it is unpickled."""
    import torch

    file = io.BytesIO()
    torch.save(Executes(), file)
    return file.getvalue()
