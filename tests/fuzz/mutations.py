"""What every kind of file can suffer: of its bytes, and of the values in it."""

import copy
import json
import os
import struct
from pathlib import Path
from random import Random
from typing import Any

ABSURD_SIZES = (0, 1, 2, 127, 128, 255, 256, 32767, 32768, 65500, 65535, 2**24, 2**31 - 1, 2**31, 2**32 - 1, 13370, 3000)
ODD_TEXTS = (
    "", " ", ".", "..", "../..", "/", "~", "-", "--", "\0", "\n", "\r\n", "\x1b[31mred\x1b[0m", "\x1b]0;title\x07", "\u202eabc",
    "\ufeff", "é", "日本",
    "\ud800", "\udc80", "😀", "a" * 5000, "None", "null", "nan", "inf", "-inf", "true", "0", "-1", "1e400",
    "1_000", "0x10", "14", "8@0.5", "14@nan", "99999", "4@1e-9", "@", "4@", "@0.5", "4@0", "4@2", "4@-1", "-4", "4@0.5@0.5",
    "٤", "%s%n", "{}", "{0.__class__}", "$(touch executed)", "; touch executed", "class_attention", "__init__", "os", "_images",
)  # fmt: skip
ODD_NUMBERS = (
    0, -1, 1, 2, 3, 7, 1000, 65536, 2**31 - 1, 2**31, 2**63 - 1, 2**63, 2**64, 10**9, 10**30, 10**400, -(10**9), 0.0, -0.0, 0.5,
    1.5, -0.5, 1e-9, 1e-320, 1e9, 1e300, float("nan"), float("inf"), float("-inf"), True, False,
)  # fmt: skip


def mutated(content: bytes, rng: Random, most: int = 3) -> bytes:
    """The bytes after a few accidents."""
    data = bytearray(content)
    for _ in range(rng.choice((1, 1, 1, rng.randint(1, most)))):
        accident = rng.choice(ACCIDENTS)
        accident(data, rng)
        del data[4_000_000:]
    return bytes(data)


def _place(data: bytearray, rng: Random) -> int:
    """Somewhere, headers more often."""
    end = max(len(data), 1)
    return rng.randrange(min(end, 200)) if rng.random() < 0.5 else rng.randrange(end)


def _flip_bits(data: bytearray, rng: Random) -> None:
    for _ in range(rng.choice((1, 1, 2, 8, 64)) if data else 0):
        data[_place(data, rng)] ^= 1 << rng.randrange(8)


def _truncate(data: bytearray, rng: Random) -> None:
    del data[_place(data, rng) :]


def _remove(data: bytearray, rng: Random) -> None:
    start = _place(data, rng)
    del data[start : start + rng.choice((1, 2, 4, 100, 1000))]


def _repeat(data: bytearray, rng: Random) -> None:
    start = _place(data, rng)
    part = bytes(data[start : start + rng.choice((1, 4, 12, 100, 1000))])
    data[start:start] = part * rng.choice((1, 2, 50))


def _blank(data: bytearray, rng: Random) -> None:
    start, length = _place(data, rng), rng.choice((1, 2, 4, 8, 100))
    data[start : start + length] = bytes([rng.choice((0, 255, 32))]) * len(data[start : start + length])


def _write_size(data: bytearray, rng: Random) -> None:
    size, start = rng.choice(ABSURD_SIZES), _place(data, rng)
    form = rng.choice("<>") + rng.choice("HIQ")
    packed = struct.pack(form, size % 2 ** (8 * struct.calcsize(form)))
    data[start : start + len(packed)] = packed


def _append(data: bytearray, rng: Random) -> None:
    data += rng.randbytes(rng.choice((1, 100, 10_000)))


def _splice(data: bytearray, rng: Random) -> None:
    source, target = _place(data, rng), _place(data, rng)
    part = data[source : source + rng.choice((4, 16, 200))]
    data[target : target + len(part)] = part


ACCIDENTS = (_flip_bits, _flip_bits, _truncate, _remove, _repeat, _blank, _write_size, _write_size, _append, _splice)


def put_no_file(path: Path, rng: Random) -> None:
    """Something at a path that is no file: endless, a pipe that nobody writes, a folder, a link to itself."""
    if path.is_symlink() or path.exists():
        path.unlink()
    rng.choice((lambda: path.symlink_to("/dev/zero"), path.mkdir, lambda: path.symlink_to(path), lambda: os.mkfifo(path)))()


def odd_value(rng: Random, depth: int = 0) -> Any:
    """A plain value that nobody expects."""
    kinds = ["number", "number", "text", "none"] + (["list", "object", "deep"] if depth < 2 else [])
    match rng.choice(kinds):
        case "number":
            return rng.choice(ODD_NUMBERS)
        case "text":
            return rng.choice(ODD_TEXTS)
        case "list":
            return [odd_value(rng, depth + 1) for _ in range(rng.choice((0, 1, 2, 3, 50)))]
        case "object":
            return {rng.choice(ODD_TEXTS): odd_value(rng, depth + 1) for _ in range(rng.choice((0, 1, 3)))}
        case "deep":
            return nested(rng.choice((3, 100)), rng)
    return None


def nested(depth: int, rng: Random) -> Any:
    """A value within lists or objects within others."""
    value: Any = 1
    for _ in range(depth):
        value = [value] if rng.random() < 0.5 else {"a": value}
    return value


def mutated_value(value: Any, rng: Random, most: int = 2) -> Any:
    """The value with some of its parts dropped, renamed, of another type, doubled or absurd."""
    value = copy.deepcopy(value)
    for _ in range(rng.randint(1, most)):
        value = _mutated_once(value, rng)
    return value


def _mutated_once(value: Any, rng: Random) -> Any:
    if not isinstance(value, dict | list) or not value or rng.random() < 0.05:
        return _retyped(value, rng)
    key = rng.choice(list(value)) if isinstance(value, dict) else rng.randrange(len(value))
    if isinstance(value[key], dict | list) and value[key] and rng.random() < 0.7:
        value[key] = _mutated_once(value[key], rng)
        return value
    match rng.randrange(6):
        case 0:
            del value[key]
        case 1 if isinstance(value, dict):
            value[rng.choice((*ODD_TEXTS, str(key).upper(), f"{key}s"))] = value.pop(key)
        case 1:
            value.insert(key, copy.deepcopy(value[key]))
        case 2 if isinstance(value, dict):
            other = rng.choice(list(value))
            value[key], value[other] = value[other], value[key]
        case 2:
            value.extend(copy.deepcopy(value[key : key + 3]) * rng.choice((1, 100)))
        case _:
            value[key] = _retyped(value[key], rng)
    return value


def _retyped(value: Any, rng: Random) -> Any:
    near: list[Any] = [[value], {"a": value}, str(value), None]
    if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300:
        near += [-value, value + 1, value * 10, value * 10**6, float(value), value / 3, str(value)]
    if isinstance(value, str):
        near += [value + "x", value[:-1], value.upper(), value * 100, value + "\x1b[2J"]
    if isinstance(value, list):
        near += [value[::-1], value * 2, value[:1], [str(item) for item in value], [None] * len(value), value * 3000]
    return rng.choice(near) if rng.random() < 0.5 else odd_value(rng)


def as_json(value: Any, rng: Random) -> bytes:
    """The value as JSON, sometimes as others write it, or damaged."""
    text = json.dumps(value)
    match rng.randrange(20):
        case 0:
            return text.encode("utf-16")
        case 1:
            return b"\xef\xbb\xbf" + text.encode()
        case 2:
            return json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass")
        case 3:
            return mutated(text.encode(), rng)
        case 4:
            return text.encode()[: rng.randrange(len(text) + 1)]
        case 5:
            depth = rng.choice((900, 3000, 100_000))
            return (b"[" * depth + b"]" * depth) if rng.random() < 0.5 else b'{"a":' * depth + b"1" + b"}" * depth
        case 6:  # keys twice
            return b"{" + text.encode()[1:-1] + b"," + text.encode()[1:] if isinstance(value, dict) and value else b"{}"
        case 7:
            return text.replace(
                ":", ": " + rng.choice(("NaN", "-Infinity", "1e999", "9" * 5000, "1" * 400 + ".0")) + ",", 1
            ).encode()
        case 8:
            return rng.choice(
                (b"", b"\0", b"null", b"[]", b"0", b'"', b"//", b"{} {}", b"\xff\xfe", text.encode("latin-1", "replace"))
            )
    return text.encode()
