"""Shards of webdataset and other packed data sets: odd members, lying headers, cut off, compressed, or of another kind."""

import bz2
import gzip
import io
import lzma
import tarfile
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

from supervit.data import SourceConfig
from tests.fuzz.images import make as make_image
from tests.fuzz.json_files import read_all
from tests.fuzz.mutations import ABSURD_SIZES, ODD_TEXTS, mutated, put_no_file
from tests.fuzz.workshop import CLASSES, Door, Workshop, copied, has, picture_bytes

_TYPES = (
    tarfile.REGTYPE,
    tarfile.AREGTYPE,
    tarfile.LNKTYPE,
    tarfile.SYMTYPE,
    tarfile.CHRTYPE,
    tarfile.BLKTYPE,
    tarfile.FIFOTYPE,
    tarfile.DIRTYPE,
    tarfile.CONTTYPE,
    tarfile.GNUTYPE_SPARSE,
    b"x",
    b"g",
    b"L",
    b"K",
    b"Z",
    b"V",
)
_NAMES = (
    "a/b.jpg", "../escape.jpg", "/absolute.jpg", ".hidden.jpg", "._x.jpg", "__MACOSX/x.jpg", "x", "x.", ".jpg", "x.JPG",
    "x.jpg.png", "x.seg.png",
    "x.cls", "x.json", "x.txt", "x.pyd", "x.pkl", "x.pickle", "x.pth", "x.npy", "x.ten", "x.gz", "x.cls.gz", "__key__",
    "__url__.jpg", "a.__bad__",
    "x\x1b[31m.jpg", "x\n.jpg", "x" * 200 + ".jpg", "é.jpg", "x y.jpg", "x.jpg/y.cls", "x.jpg", "0.jpg",
)  # fmt: skip


def make(rng: Random, folder: Path, workshop: Workshop) -> tuple[str, list[Door]]:
    """What was done, and the doors to try."""
    draw = rng.random()
    if draw < 0.1:
        return _packed(rng, folder, workshop.fashion, "fashion_mnist")
    if draw < 0.2 and workshop.hugging_face is not None:
        return _packed(rng, folder, workshop.hugging_face, "hugging_face")
    if draw < 0.25 or not has("webdataset"):
        return _cifar(rng, folder)
    return _shards(rng, folder)


def _shards(rng: Random, folder: Path) -> tuple[str, list[Door]]:
    split = rng.choice(("val", "val", "train"))
    shards = folder / "shards" / split
    shards.mkdir(parents=True)
    names = CLASSES if rng.random() < 0.9 else rng.sample(ODD_TEXTS, 3)
    (folder / "shards/classes.txt").write_bytes("\n".join(names).encode("utf-8", "surrogatepass"))
    done = []
    for number in range(rng.choice((1, 1, 2))):
        data = _tar(rng)
        if rng.random() < 0.25:
            data = mutated(data, rng)
            done.append("damaged")
        if rng.random() < 0.05:
            pack = rng.choice((gzip.compress, bz2.compress, lzma.compress))
            data = pack(data)
            done.append(pack.__module__)
        if rng.random() < 0.03:
            data = rng.choice(
                (b"", gzip.compress(bytes(300_000_000)), bytes(10240), bytes(100), b"\x1f\x8b", b"PK\3\4" + bytes(99))
            )
        (shards / f"{number:03}.tar").write_bytes(data)
    if rng.random() < 0.02:
        done.append("no file")
        put_no_file(shards / "009.tar", rng)
    config = SourceConfig("webdataset", folder / "shards", workers=0, batch_size=4)
    return f"tar {', '.join(done)}", [("webdataset", lambda: read_all(config, split))]


def _tar(rng: Random) -> bytes:
    """A tar of samples, some of whose members are odd."""
    form = rng.choice((tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT))
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=form) as tar:
        for number in range(rng.choice((1, 3, 6))):
            _add(tar, f"{number:04}.jpg", picture_bytes(number % 3) if rng.random() < 0.8 else make_image(rng)[1])
            if rng.random() < 0.9:
                labels = (
                    (b"0", b"1")
                    if rng.random() < 0.8
                    else (b"", b"-1", b"99", b"1e9", b"9" * 5000, b"\xd9\xa1", b" 1\n", b"nan", b"\xff", b"1.0", b"\x1b[31m")
                )
                _add(tar, f"{number:04}.cls", rng.choice(labels))
            if rng.random() < 0.3:
                _odd_member(tar, rng)
    return _header_changed(file.getvalue(), rng) if rng.random() < 0.3 else file.getvalue()


def _add(tar: tarfile.TarFile, name: str, content: bytes, **fields: Any) -> None:
    header = tarfile.TarInfo(name)
    header.size = len(content)
    for field, value in fields.items():
        setattr(header, field, value)
    try:
        tar.addfile(header, io.BytesIO(content))
    except Exception:  # this form of tar cannot say so
        tar.addfile(tarfile.TarInfo("x.txt"))


def _odd_member(tar: tarfile.TarFile, rng: Random) -> None:
    match rng.randrange(5):
        case 0:
            _add(tar, rng.choice(_NAMES), rng.choice((b"", b"0", picture_bytes(0), b"\x80\x04cos\nmkdir\n(S'executed'\ntR.")))
        case 1:
            _add(
                tar,
                rng.choice(_NAMES),
                b"",
                type=rng.choice(_TYPES),
                linkname=rng.choice(("0000.jpg", "/etc/passwd", "../x", "self", "")),
            )
        case 2:
            _add(
                tar,
                rng.choice(_NAMES),
                b"x",
                pax_headers={
                    rng.choice(
                        (
                            "path",
                            "size",
                            "linkpath",
                            "GNU.sparse.map",
                            "GNU.sparse.size",
                            "GNU.sparse.major",
                            "GNU.sparse.realsize",
                            "hdrcharset",
                            "mtime",
                            "x",
                        )
                    ): rng.choice(("", "-1", "1e9", "99999999999999", "a\0b", "0,1,2", "../x", "é", "1", "x" * 5000))
                },
            )
        case 3:
            for _ in range(rng.choice((2, 300))):
                _add(tar, rng.choice(_NAMES), b"0")
        case 4:
            _add(tar, rng.choice(_NAMES), b"0", mtime=rng.choice((-1, 2**40, 1.5)), mode=0o7777, uid=2**30)


def _header_changed(data: bytes, rng: Random) -> bytes:
    """A header with another size, type or name, its checksum right."""
    changed, at = bytearray(data), 512 * rng.randrange(max(len(data) // 1024, 1))
    match rng.randrange(4):
        case 0:
            size = rng.choice((0, 1, 511, 10**6, 8**11 - 1, *ABSURD_SIZES))
            changed[at + 124 : at + 136] = f"{min(size, 8**11 - 1):011o}\0".encode()
        case 1:
            changed[at + 124 : at + 136] = rng.choice(
                (
                    b"\x80" + bytes(7) + b"\x7f\xff\xff\xff",
                    b"\xff" * 12,
                    b"\x80" + b"\xff" * 11,
                    b"-0000000001\0",
                    b"            ",
                )
            )
        case 2:
            changed[at + 156 : at + 157] = rng.choice(_TYPES)
        case 3:
            changed[at : at + 100] = rng.choice(
                (b"\0", b"\xff\xfe.jpg", b"a\x1b[31m.jpg", b"/" * 99, b"x" * 100, b"..", b"a\\b.jpg")
            ).ljust(100, b"\0")[:100]
    changed[at + 148 : at + 156] = b" " * 8
    changed[at + 148 : at + 156] = f"{sum(changed[at : at + 512]):06o}\0 ".encode()
    return bytes(changed)


def _packed(rng: Random, folder: Path, source: Path, name: str) -> tuple[str, list[Door]]:
    """One file of a data set damaged."""
    root = copied(source, folder / "data")
    file = rng.choice(sorted(path for path in root.rglob("*") if path.is_file()))
    content = file.read_bytes()
    if file.suffix == ".gz":
        raw = gzip.decompress(content)
        if rng.random() < 0.1:
            raw = bytes([0, 0, 8, 3]) + bytes(12) + bytes(500_000_000)
        header = bytes([0, 0, rng.choice((8, 9, 13, 99)), rng.choice((1, 3, 0, 200))]) + b"".join(
            rng.choice(ABSURD_SIZES).to_bytes(4, "big") for _ in range(3)
        )
        raw = header[: rng.choice((4, 8, 16))] + raw[4:] if rng.random() < 0.4 else raw
        content = gzip.compress(mutated(raw, rng) if rng.random() < 0.4 and len(raw) < 10**7 else raw, 1)
    if rng.random() < 0.5:
        content = mutated(content, rng)
    file.write_bytes(content)
    if rng.random() < 0.1:
        file.unlink()
    return f"{name}, {file.name}", [(name, lambda: read_all(SourceConfig(name, root, workers=0, batch_size=4)))]


def _cifar(rng: Random, folder: Path) -> tuple[str, list[Door]]:
    """Files under the names of CIFAR's that are not CIFAR's."""
    name, files = rng.choice((
        ("cifar10", ("batches.meta", "data_batch_1", "test_batch")), ("cifar100", ("meta", "train", "test")),
    ))  # fmt: skip
    root = folder / {"cifar10": "cifar-10-batches-py", "cifar100": "cifar-100-python"}[name]
    root.mkdir()
    contents: tuple[Callable[[], bytes], ...] = (
        lambda: b"",
        lambda: b"\x80\x04cos\nmkdir\n(S'executed'\ntR.",
        lambda: rng.randbytes(500),
    )
    for file in files:
        (root / file).write_bytes(rng.choice(contents)())
    return name, [(name, lambda: read_all(SourceConfig(name, folder, workers=0, batch_size=4)))]
