"""Image files: every format that Pillow writes in every mode, damaged; containers full of lies; small files, large pictures."""

import io
import struct
import zlib
from collections.abc import Callable, Iterator
from functools import cache
from random import Random

import numpy as np
from PIL import Image

from tests.fuzz.containers import gif, jpeg_parts, png_chunks, riff, tiff
from tests.fuzz.mutations import ABSURD_SIZES, mutated

MODES = (
    "1",
    "L",
    "P",
    "RGB",
    "RGBA",
    "CMYK",
    "YCbCr",
    "LAB",
    "HSV",
    "I",
    "F",
    "LA",
    "La",
    "PA",
    "RGBX",
    "RGBa",
    "I;16",
    "I;16B",
)
SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".gif", ".ppm", ".pgm", ".avif", ".jfif", ".jp2", ".JPG")
_SIZES = ((40, 30), (1, 1), (64, 64), (120, 90), (1, 400), (17, 3))


def picture(mode: str, size: tuple[int, int] = (40, 30)) -> Image.Image:
    """Noise on a ramp in a mode of Pillow's."""
    rng = np.random.default_rng(len(mode) + size[0])
    width, height = size
    ramp = np.linspace(0, 200, width)[None, :, None] + rng.integers(0, 55, (height, width, 4))
    pixels = ramp.astype(np.uint8)
    if mode in ("RGBA", "RGBa", "RGBX", "CMYK"):
        return (
            Image.fromarray(pixels, "RGBA").convert(mode) if mode == "RGBa" else Image.frombytes(mode, size, pixels.tobytes())
        )
    if mode in ("YCbCr", "LAB", "HSV", "RGB"):
        return Image.frombytes(mode, size, np.ascontiguousarray(pixels[..., :3]).tobytes())
    if mode in ("LA", "PA", "La"):
        two = Image.frombytes("LA", size, np.ascontiguousarray(pixels[..., :2]).tobytes())
        return two.convert(mode)
    grey = pixels[..., 0]
    wide = {"I": np.int32, "F": np.float32, "I;16": np.uint16, "I;16B": ">u2"}
    if mode in wide:
        return Image.frombytes(mode, size, (grey.astype(np.int64) * 300 % 65536).astype(wide[mode]).tobytes())
    return Image.fromarray(np.ascontiguousarray(grey)).convert(mode)


@cache
def encoded() -> dict[str, bytes]:
    """Files by `format mode size options`: whatever Pillow can write."""
    Image.init()
    found = {}
    for format in sorted(set(Image.SAVE) - {"PDF"}):
        for mode in MODES:
            for size in _SIZES if mode in ("RGB", "L") else _SIZES[:1]:
                for name, options in _options(format, mode):
                    file = io.BytesIO()
                    try:
                        picture(mode, size).save(file, format, **options)
                    except Exception:  # this format has not this mode
                        continue
                    found[f"{format} {mode} {size[0]}x{size[1]} {name}"] = file.getvalue()
    return found


def _options(format: str, mode: str) -> Iterator[tuple[str, dict[str, object]]]:
    yield "", {}
    frames = [picture(mode, (40, 30)), picture(mode, (20, 10))]
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "x" * 50
    many: dict[str, list[tuple[str, dict[str, object]]]] = {
        "JPEG": [("progressive", {"progressive": True}), ("exif", {"exif": exif, "icc_profile": b"icc" * 50})],
        "PNG": [("interlaced", {"interlace": 1}), ("exif", {"exif": exif, "icc_profile": b"icc" * 50})],
        "TIFF": [(kind, {"compression": kind}) for kind in ("tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg", "group4")],
        "WEBP": [("lossless", {"lossless": True, "exif": exif})],
        "AVIF": [("exif", {"exif": exif})],
        "TGA": [("rle", {"compression": "tga_rle"})],
        "SGI": [("16", {"bpc": 2})],
        "JPEG2000": [("tiles", {"tile_size": (16, 16)})],
        "DDS": [(kind, {"pixel_format": kind}) for kind in ("DXT1", "DXT5", "BC5")],
    }
    yield from many.get(format, [])
    if format in ("GIF", "WEBP", "TIFF", "PNG", "AVIF", "MPO"):
        yield "frames", {"save_all": True, "append_images": frames}


def make(rng: Random) -> tuple[str, bytes]:
    """What was done, and the file."""
    names = sorted(encoded())
    draw = rng.random()
    if draw < 0.5:
        name = rng.choice(names)
        return f"damaged {name}", mutated(encoded()[name], rng)
    if draw < 0.57:
        name = rng.choice(names)
        return f"whole {name}", encoded()[name]
    if draw < 0.94:
        crafted = rng.choice(CRAFTED)
        return crafted.__name__, crafted(rng)
    return large(rng)


def _two_files(rng: Random) -> bytes:
    """The head of one file, the tail of another."""
    head, tail = (encoded()[rng.choice(sorted(encoded()))] for _ in range(2))
    return head[: rng.randrange(len(head) + 1)] + tail[rng.randrange(len(tail) + 1) :]


def _own_header(rng: Random) -> bytes:
    """Absurd sizes where a format has them, all else right."""
    width, height = rng.choice(ABSURD_SIZES), rng.choice(ABSURD_SIZES)
    small, large = (min(width, 65535), min(height, 65535)), (width, height)
    qoi = b"qoif" + struct.pack(">IIBB", *large, 4, 0) + b"\xfd" * rng.choice((1, 1000))
    bmp = b"BM" + struct.pack("<IIIIiiHHIIiiII", 54, 0, 54, 40, width % 2**31, -(height % 2**31), 1, 24, 0, 0, 0, 0, 0, 0)
    rle = b"BM" + struct.pack("<IIIIiiHHIIiiII", 1078, 0, 1078, 40, width % 2**31, height % 2**31, 1, 8, 1, 0, 0, 0, 256, 0)
    ppm = f"P{rng.randint(1, 7)}\n{width} {height}\n{rng.choice((1, 255, 65535, 10**9))}\n".encode() + rng.randbytes(99)
    pfm = f"Pf\n{width} {height}\n{rng.choice((-1.0, 0, 1e400))}\n".encode() + rng.randbytes(99)
    pam = f"P7\nWIDTH {width}\nHEIGHT {height}\nDEPTH 4\nMAXVAL 255\nTUPLTYPE RGB_ALPHA\nENDHDR\n".encode() + b"x" * 99
    pcx = (
        struct.pack("<4B4H", 10, 5, 1, 8, 0, 0, *small)
        + bytes(52)
        + b"\x00\x03"
        + struct.pack("<H", small[0])
        + bytes(58)
        + b"\xff\0" * 99
    )
    sgi = struct.pack(">HBBHHHHIIII80sI404s", 474, rng.randint(0, 1), 1, 3, *small, 3, 0, 255, 0, 0, b"", 0, b"") + b"\0" * 99
    tga = struct.pack("<3BHHBHHHHBB", 0, 0, rng.choice((2, 3, 10, 11)), 0, 0, 0, 0, 0, *small, 24, 0) + b"\xff\1\2\3" * 99
    psd = b"8BPS" + struct.pack(">H6xHIIHH", 1, rng.choice((1, 3, 4, 56)), *large, 8, 3) + bytes(12) + b"\0\0" + b"\0" * 99
    xbm = f"#define a_width {width}\n#define a_height {height}\nstatic char a_bits[] = {{ 0x00 }};".encode()
    colours = rng.choice((1, 2, 10**8))
    xpm = f'/* XPM */\nstatic char *a[] = {{\n"{width} {height} {colours} 1",\n". c #000000",\n"...."}};'.encode()
    ico = struct.pack("<HHH", 0, 1, 65535) + struct.pack("<4B2H2I", 0, 0, 0, 0, 1, 32, width, 22) + bmp[14:] + b"x" * 99
    fits = b"".join(
        f"{key:8}= {value:>20}".ljust(80).encode()
        for key, value in (
            ("SIMPLE", "T"),
            ("BITPIX", rng.choice((8, 16, -32, -64))),
            ("NAXIS", 2),
            ("NAXIS1", width),
            ("NAXIS2", height),
        )
    ) + b"END".ljust(80)
    jp2 = (
        b"\xff\x4f\xff\x51"
        + struct.pack(">HHIIIIIIIIHBBB", 41, 0, *large, 0, 0, *large, 0, 0, 1, 7, 1, 1)
        + b"\xff\x93"
        + b"\0" * 99
    )
    dds = (
        b"DDS "
        + struct.pack("<7I44x8I", 124, 0x1007, height, width, 0, 0, 1, 32, 4, 0x31545844, 0, 0, 0, 0, 0)
        + bytes(20)
        + b"\0" * 99
    )
    fli = struct.pack("<IHHHHHHI", 128, 0xAF12, 1, *small, 8, 0, 0) + bytes(108) + b"\0" * 99
    spider = np.array(
        [1, height % 10**6, 1, 0, 1, *[0] * 6, width % 10**6, 1, width % 10**6 * 4, *[0] * 9], "<f4"
    ).tobytes() + bytes(2000)
    return rng.choice(
        (qoi, bmp, rle, ppm, pfm, pam, pcx, sgi, tga, psd, xbm, xpm, ico, fits.ljust(2880) + bytes(99), jp2, dds, fli, spider)
    )


def _something_else(rng: Random) -> bytes:
    """Files of other kinds, which some readers would hand to other programs."""
    eps = (
        f"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 {rng.choice((10, 10**5))} 10\n%%EndComments\n"
        "(executed) (w) file closefile\nshowpage\n%%EOF\n"
    ).encode()
    svg = (
        b'<?xml version="1.0"?><!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]><svg xmlns="http://www.w3.org/2000/svg"/>'
    )
    wmf = b"\xd7\xcd\xc6\x9a" + struct.pack("<H4hHIH", 0, 0, 0, 100, 100, 72, 0, 0) + b"\1\0\t\0" + bytes(60)
    emf = b"\1\0\0\0\x6c\0\0\0" + struct.pack("<8i", 0, 0, 10, 10, 0, 0, 1000, 1000) + b" EMF" + bytes(80)
    others = (
        eps, b"\xc5\xd0\xd3\xc6" + struct.pack("<II", 30, len(eps)) + bytes(18) + eps, svg, wmf, emf, b"", b"\0",
        b"%PDF-1.7\n%%EOF",
        b"<html>404</html>", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", b"PK\3\4" + bytes(99),
        b"\x7fELF" + bytes(99), b"\x80\x04cos\nsystem\n(S'touch executed'\ntR.", b"SIMPLE  =" + b" " * 99,
        b"\x89HDF\r\n\x1a\n" + bytes(99),
        b"GRIB\0\0\0\1" + bytes(99), b"BUFR\0\0\0\4" + bytes(99), b"\0\0\1\xb3" + bytes(99), b"#!/bin/sh\ntouch executed\n",
        b"\0\0\0\x20ftypheic\0\0\0\0mif1heic" + bytes(99), b"ID;FJL\r\n" + bytes(99),
        b"push graphic-context\nimage over 0,0 0,0 '|touch executed'",
    )  # fmt: skip
    data = rng.choice(others)
    return mutated(data, rng) if rng.random() < 0.3 else data


def _text_bombs(rng: Random) -> bytes:
    """PNG chunks that grow a thousandfold, and many of them."""
    bomb = zlib.compress(bytes(rng.choice((100, 10**6, 50 * 10**6))))
    chunk = rng.choice((b"zTXta\0\0", b"iTXta\0\1\0\0\0", b"iCCPa\0\0", b"tEXta\0", b"eXIf", b"zTXt" + b"k" * 99 + b"\0\7"))
    chunks = [(chunk[:4], chunk[4:] + bomb)] * rng.choice((1, 3, 200 if len(bomb) < 10_000 else 2))
    return png_chunks([*chunks, (b"IDAT", zlib.compress(bytes(31 * 30)))], (30, 30), 0, 8)


CRAFTED: tuple[Callable[[Random], bytes], ...] = (
    tiff, tiff, tiff, gif, jpeg_parts, jpeg_parts, riff, _two_files, _own_header, _own_header, _something_else, _text_bombs,
    lambda rng: png_damaged(rng),
)  # fmt: skip


def png_damaged(rng: Random) -> bytes:
    """A PNG with chunks dropped, doubled, moved, renamed or with another content, their checksums right."""
    data = encoded()[rng.choice([name for name in sorted(encoded()) if name.startswith("PNG")])]
    chunks, at = [], 8
    while at + 8 <= len(data):
        (length,) = struct.unpack(">I", data[at : at + 4])
        chunks.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + length]))
        at += 12 + length
    for _ in range(rng.randint(1, 4)):
        place = rng.randrange(len(chunks))
        name, content = chunks[place]
        match rng.randrange(6):
            case 0:
                del chunks[place]
            case 1:
                chunks[place:place] = [chunks[place]] * rng.choice((1, 30))
            case 2:
                rng.shuffle(chunks)
            case 3:
                chunks[place] = (rng.choice((b"acTL", b"fcTL", b"fdAT", b"PLTE", b"tRNS", b"gAMA", b"eXIf", b"CgBI")), content)
            case 4:
                chunks[place] = (name, mutated(content, rng, 2))
            case 5:
                chunks.insert(place, (b"fcTL", struct.pack(">5I2H2B", 0, *rng.choices(ABSURD_SIZES, k=4), 1, 1, 9, 9)))
        chunks = chunks or [(b"IEND", b"")]
    packed = (
        struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
        for name, content in chunks
    )
    return data[:8] + b"".join(packed)


def large(rng: Random) -> tuple[str, bytes]:
    """A small file of a large, even picture: just below what may be decoded, or far above."""
    pixels = rng.choice(
        (2_200_000, 9_000_000, 16_600_000, 24_900_000, 33_200_000, 49_900_000, 49_900_000, 70_000_000, 178_000_000)
    )
    if rng.random() < 0.1:
        pixels = 1_600_000_000
    width = rng.choice((int(pixels**0.5), int(pixels**0.5) * 3, int(pixels**0.5) // 9, 64, pixels // 100))
    height = pixels // width
    kind = rng.choice(("png", "png", "png", "tiff", "tiff", "tiff", "webp", "gif", "truncated jpeg", "truncated", "really"))
    name, turn = f"large {kind} {width}x{height}", rng.choice((1, 1, 3, 5, 6))
    if kind == "really" and rng.random() < 0.3:
        kind, mode = rng.choice(REALLY)
        pixels = min(pixels, 49_900_000) // (3 if kind in ("JPEG2000", "AVIF") else 1)
        return f"large real {kind} {mode} {pixels}", _encoded_large(kind, mode, int(pixels**0.5), turn)
    if kind == "tiff":
        bits, form, samples, photometric = rng.choice(
            (
                (32, 2, 1, 1),
                (32, 3, 1, 1),
                (16, 1, 1, 1),
                (8, 1, 1, 1),
                (8, 1, 3, 2),
                (8, 1, 4, 5),
                (8, 1, 3, 8),
                (8, 1, 2, 1),
                (32, 1, 1, 1),
            )
        )
        content = zeros(width * height * samples * bits // 8)
        return f"{name} {bits} bits {form} turned {turn}", tiff(
            rng, (width, height), bits, form, samples, photometric, content, turn
        )
    if kind in ("png", "really"):
        colour, bits = rng.choice(((0, 8), (0, 16), (2, 8), (2, 16), (4, 8), (4, 16), (6, 8), (6, 16), (0, 1), (3, 8)))
        row = 1 + (width * bits * {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour] + 7) // 8
        before = [(b"PLTE", bytes(768))] if colour == 3 else []
        exif = Image.Exif()
        exif[0x0112] = turn
        before += [(b"eXIf", exif.tobytes()[6:])] if turn > 1 else []
        before += [(b"tRNS", bytes(rng.choice((2, 6, 256))))] if rng.random() < 0.3 else []
        return f"{name} {colour}/{bits} turned {turn}", png_chunks(
            [*before, (b"IDAT", zeros(row * height))], (width, height), colour, bits
        )
    return name, _encoded_even(kind, min(width, 16000), min(height, 16000))


REALLY = (
    ("JPEG", "RGB"), ("JPEG", "CMYK"), ("JPEG progressive", "CMYK"), ("JPEG progressive", "RGB"), ("PNG", "RGBA"), ("WEBP",
    "RGBA"), ("TIFF", "CMYK"),
    ("TIFF tiff_lzw", "RGBA"), ("TIFF jpeg", "RGB"), ("JPEG2000", "RGBA"), ("PPM", "RGB"), ("BMP", "RGB"), ("GIF", "P"),
    ("AVIF", "RGB"), ("TIFF", "LAB"),
)  # fmt: skip


def _encoded_large(kind: str, mode: str, side: int, turn: int) -> bytes:
    """A file that holds all it says."""
    file, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = turn
    format, _, variant = kind.partition(" ")
    options: dict[str, object] = {"exif": exif} if format in ("JPEG", "PNG", "WEBP", "AVIF") else {}
    options |= {"progressive": True} if variant == "progressive" else {"compression": variant} if variant else {}
    options |= {"lossless": True, "quality": 0, "method": 0} if format == "WEBP" else {"speed": 10} if format == "AVIF" else {}
    Image.new(mode, (side, side)).save(file, format, **options)
    return file.getvalue()


@cache
def _encoded_even(kind: str, width: int, height: int) -> bytes:
    file = io.BytesIO()
    if kind == "webp":
        size = (min(width, 4000), min(height, 4000))
        Image.new("RGB", size).save(file, "webp", lossless=True, method=0, quality=0)
        data = file.getvalue()
        at = data.index(b"VP8L") + 9  # the picture says it is larger than it is
        bits = int.from_bytes(data[at : at + 4], "little") & ~0xFFFFFFF | (width - 1) | (height - 1) << 14
        return data[:at] + bits.to_bytes(4, "little") + data[at + 4 :]
    if kind == "truncated jpeg":
        Image.new("RGB", (16, 16)).save(file, "jpeg", progressive=width % 3 == 0)
        data = bytearray(file.getvalue())
        at = max(data.find(b"\xff\xc0"), data.find(b"\xff\xc2"))
        data[at + 5 : at + 9] = struct.pack(">HH", height, width)
        return bytes(data)
    if kind == "gif":
        return (
            b"GIF89a"
            + struct.pack("<HHBBB", width, height, 0x80, 0, 0)
            + bytes(6)
            + b","
            + struct.pack("<4HB", 0, 0, width, height, 0)
            + b"\x02\x02\x44\x01\x00;"
        )
    return png_chunks([(b"IDAT", zlib.compress(bytes(1000)))], (width, height), 2, 8)


def zeros(count: int) -> bytes:
    """So many bytes of 0, deflated: one block, again and again."""
    head, block, length = b"\x78\x01", *_zero_block()
    packer = zlib.compressobj(1, zlib.DEFLATED, -15)
    rest = packer.compress(bytes(count % length)) + packer.flush()
    checksum = struct.pack(">HH", count % 65521, 1)  # Adler-32 of zeros
    return head + block * (count // length) + rest + checksum


@cache
def _zero_block() -> tuple[bytes, int]:
    length = 4_000_000
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    return packer.compress(bytes(length)) + packer.flush(zlib.Z_FULL_FLUSH), length
