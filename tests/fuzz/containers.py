"""Image containers written by hand, with lies in them."""

import io
import struct
import zlib
from functools import cache
from random import Random

from PIL import Image

from tests.fuzz.mutations import ABSURD_SIZES, mutated

_TAGS = (
    254, 256, 257, 258, 259, 262, 263, 266, 269, 270, 273, 274, 277, 278, 279, 282, 284, 296, 301, 305, 317, 320, 322, 323,
    324, 325,
    330, 338, 339, 347, 513, 514, 529, 530, 532, 700, 33432, 33723, 34377, 34665, 34675, 34853, 37724, 40961, 50706, 65000,
)  # fmt: skip
_TYPE_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 0: 1, 99: 1}


def png_chunks(chunks: list[tuple[bytes, bytes]], size: tuple[int, int], colour: int, bits: int) -> bytes:
    """A PNG of a size with these chunks after its header."""
    header = (b"IHDR", struct.pack(">2I5B", *size, bits, colour, 0, 0, 0))
    packed = (
        struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
        for name, content in (header, *chunks, (b"IEND", b""))
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


def tiff(
    rng: Random,
    size: tuple[int, int] | None = None,
    bits: int = 8,
    form: int = 1,
    samples: int = 1,
    photometric: int = 1,
    content: bytes = b"",
    turn: int = 1,
) -> bytes:
    """A TIFF; without a size, one whose tags are drawn, with directories that loop."""
    if size is not None:
        extra = [(338, 3, [1 if samples == 2 else 0])] if samples in (2, 5) else []
        fields = [
            (256, 4, [size[0]]), (257, 4, [size[1]]), (258, 3, [bits] * samples), (259, 3, [8]), (262, 3, [photometric]),
            (273, 4, [8]), (274, 3, [turn]), (277, 3, [samples]), (278, 4, [size[1]]), (279, 4, [len(content)]), *extra, (339,
            3, [form] * samples),
        ]  # fmt: skip
        return _tiff_file(fields, content, "<")
    samples, bits = rng.choice((1, 1, 2, 3, 4, 5)), rng.choice((1, 2, 4, 8, 8, 12, 16, 24, 32, 64, 128))
    width, height = rng.choice((8, 30, 40)), rng.choice((8, 30))
    content = rng.randbytes(width * height * samples * bits // 8 + 8)
    compression = rng.choice((1, 1, 1, 2, 3, 4, 5, 6, 7, 8, 32773, 32946, 34677, 34925, 50000, 9))
    if compression == 8:
        content = zlib.compress(content)
    values = {
        256: (4, [width]), 257: (4, [height]), 258: (3, [bits] * samples), 259: (3, [compression]),
        262: (3, [rng.choice((0, 1, 2, 3, 4, 5, 6, 8, 9, 32844, 34892))]), 273: (4, [8]), 277: (3, [samples]), 278: (4,
        [height]),
        279: (4, [len(content)]), 284: (3, [rng.choice((1, 1, 2))]), 338: (3, [rng.choice((0, 1, 2, 3, 999))]),
        339: (3, [rng.choice((1, 2, 3, 4, 5, 6))] * samples), 274: (3, [rng.randint(0, 10)]), 317: (3, [rng.choice((1, 2, 3))]),
    }  # fmt: skip
    if rng.random() < 0.5:
        del values[338]
    for _ in range(rng.choice((0, 0, 1, 3))):
        tag, kind = rng.choice(_TAGS), rng.choice(list(_TYPE_SIZES))
        values[tag] = (kind, rng.choices(ABSURD_SIZES, k=rng.choice((0, 1, 2, 9))))
    fields = [(tag, kind, numbers) for tag, (kind, numbers) in sorted(values.items())]
    data = _tiff_file(fields, content, rng.choice("<>"), next_directory=rng.choice((0, 0, 8, -1, 2**31, 99)))
    return mutated(data, rng, 2) if rng.random() < 0.3 else data


def _tiff_file(fields: list[tuple[int, int, list[int]]], content: bytes, order: str, next_directory: int = 0) -> bytes:
    """Header, pixels, directory, values that have no room in it; -1: the directory is followed by itself."""
    start = 8 + len(content) + len(content) % 2
    beyond, entries = start + 2 + 12 * len(fields) + 4, b""
    outside = b""
    for tag, kind, numbers in fields:
        size = _TYPE_SIZES[kind]
        packed = b"".join((number % 2 ** (8 * size)).to_bytes(size, "little" if order == "<" else "big") for number in numbers)
        if len(packed) > 4:
            place, outside = struct.pack(order + "I", beyond + len(outside)), outside + packed
        else:
            place = packed.ljust(4, b"\0")
        entries += struct.pack(order + "HHI", tag, kind, len(numbers)) + place
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", start)
    follows = struct.pack(order + "I", start if next_directory == -1 else next_directory)
    return head + content.ljust(start - 8, b"\0") + struct.pack(order + "H", len(fields)) + entries + follows + outside


def exif(rng: Random) -> bytes:
    """EXIF that nobody checked."""
    fields = [(274, rng.choice((2, 3, 4, 12)), rng.choices((*range(10), 2**31), k=rng.choice((0, 1, 2))))]
    fields += [
        (rng.choice(_TAGS), rng.choice(list(_TYPE_SIZES)), rng.choices(ABSURD_SIZES, k=rng.choice((0, 1, 5)))) for _ in range(3)
    ]
    data = _tiff_file(fields, b"", rng.choice("<>"), rng.choice((0, -1, 8)))
    return b"Exif\0\0" + (mutated(data, rng, 3) if rng.random() < 0.5 else data)


@cache
def _jpegs() -> tuple[bytes, ...]:
    files = []
    for mode in ("RGB", "L", "CMYK"):
        for progressive in (False, True):
            file = io.BytesIO()
            Image.effect_noise((90, 60), 60).convert(mode).save(file, "jpeg", progressive=progressive)
            files.append(file.getvalue())
    return tuple(files)


def jpeg_parts(rng: Random) -> bytes:
    """A JPEG with segments dropped, doubled, moved, lying about their lengths, or full of garbage."""
    data = rng.choice(_jpegs())
    segments, at = [], 2
    while data[at + 1] != 0xDA:
        length = 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        segments.append(data[at : at + length])
        at += length
    scan = data[at:]
    for _ in range(rng.randint(1, 4)):
        place = rng.randrange(len(segments)) if segments else 0
        draw = rng.randrange(8)
        if draw == 0 and segments:
            del segments[place]
        elif draw == 1 and segments:
            segments[place:place] = [segments[place]] * rng.choice((1, 100))
        elif draw == 2:
            rng.shuffle(segments)
        elif draw == 3 and segments:
            segments[place] = segments[place][:2] + struct.pack(">H", rng.choice(ABSURD_SIZES) % 65536) + segments[place][4:]
        elif draw == 4 and segments:
            segments[place] = segments[place][:4] + mutated(segments[place][4:], rng, 2)
        elif draw == 5:
            payload = exif(rng)
            segments.insert(0, b"\xff\xe1" + struct.pack(">H", min(len(payload) + 2, 65535)) + payload)
        elif draw == 6:
            payload = rng.choice(
                (b"ICC_PROFILE\0\x05\x02", b"MPF\0II*\0", b"Photoshop 3.0\x008BIM", b"Adobe\0\x64", b"JFIF\0")
            ) + rng.randbytes(40)
            segments.insert(
                place,
                b"\xff"
                + rng.choice((b"\xe0", b"\xe1", b"\xe2", b"\xed", b"\xee"))
                + struct.pack(">H", len(payload) + 2)
                + payload,
            )
        else:
            scan = mutated(scan, rng, 2)
    return b"\xff\xd8" + b"".join(segments) + scan


def gif(rng: Random) -> bytes:
    """A GIF whose frames lie beyond the screen, of absurd sizes, with blocks without end."""
    small = [min(size, 65535) for size in rng.choices(ABSURD_SIZES, k=2)]
    screen = small if rng.random() < 0.3 else [40, 30]
    data = b"GIF89a" + struct.pack("<HHBBB", *screen, rng.choice((0x80, 0xF7, 0)), 0, 0) + bytes(6)
    for _ in range(rng.choice((1, 2, 5))):
        box = [min(size, 65535) for size in rng.choices(ABSURD_SIZES, k=4)] if rng.random() < 0.4 else [0, 0, 40, 30]
        data += b"!\xf9\x04" + rng.randbytes(4) + b"\0" if rng.random() < 0.5 else b""
        data += b"!\xfe" + b"\xffx" * rng.choice((0, 500)) if rng.random() < 0.2 else b""
        data += b"," + struct.pack("<4HB", *box, rng.choice((0, 0x40, 0x87))) + bytes([rng.choice((2, 8, 12, 0, 255))])
        data += b"".join(bytes([200]) + rng.randbytes(200) for _ in range(rng.choice((0, 1, 3)))) + b"\0"
    return data + b";"


@cache
def _boxed() -> tuple[bytes, ...]:
    files = []
    for format, options in (("WEBP", {}), ("WEBP", {"lossless": True}), ("AVIF", {}), ("WEBP", {"save_all": True})):
        file = io.BytesIO()
        frames = [Image.effect_noise((40, 30), 50).convert("RGBA"), Image.new("RGBA", (40, 30))]
        frames[0].save(file, format, **options, **({"append_images": frames[1:]} if "save_all" in options else {}))
        files.append(file.getvalue())
    return tuple(files)


def riff(rng: Random) -> bytes:
    """WebP and AVIF whose boxes lie about their lengths and sizes."""
    data = bytearray(rng.choice(_boxed()))
    names = [
        data.find(name)
        for name in (b"VP8 ", b"VP8L", b"VP8X", b"ANIM", b"ANMF", b"EXIF", b"ftyp", b"meta", b"iloc", b"ispe", b"mdat")
    ]
    for _ in range(rng.randint(1, 3)):
        at = rng.choice([place for place in names if place >= 0]) + rng.choice((-4, 4, 8, 12, 14))
        data[at : at + 4] = struct.pack(rng.choice("<>") + "I", rng.choice(ABSURD_SIZES))
    return bytes(data)
