"""The door for images: what comes in, how it is turned and scaled, and what is refused before it is decoded."""

import io
import os
import resource
import struct
import subprocess
import threading
import zlib

import numpy as np
import pytest
import torch
from PIL import Image, ImageFile, TiffImagePlugin

from supervit import InputError, SuperViT
from supervit.data import (
    DamagedImage,
    DataConfig,
    Reading,
    SourceConfig,
    evaluation_transform,
    open_dataset,
    open_image,
    read_for_grid,
    read_image,
)
from supervit.data._images import to_mode
from supervit.label import LabelConfig, label_folder
from supervit.predictor import Failure, Predictor
from tests.conftest import small_config
from tests.data_sets import noise

TURNS = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}  # from the upright picture to what the file holds
LOSSLESS = {"PNG": {}, "TIFF": {}, "WEBP": {"lossless": True}}
EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 20 20\n%%EndComments\n0 0 moveto\n%%EOF\n"
MODES = ["1", "L", "P", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "HSV", "I", "LA", "PA", "RGBX", "RGBa", "La"]
MODES += ["I;16", "I;16L", "I;16B"]


def as_bytes(image, form="PNG", **options):
    stream = io.BytesIO()
    image.save(stream, form, **options)
    return stream.getvalue()


def smooth(width, height):
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    return Image.fromarray(np.stack([255 * x / width, 255 * y / height, 127 * (x + y) / width], axis=2).astype(np.uint8))


def turned(image, turn, form="PNG", **options):
    """A file whose pixels are turned, and whose EXIF data say how to turn them back."""
    exif = Image.Exif()
    exif[0x0112] = turn
    stored = image if TURNS[turn] is None else image.transpose(TURNS[turn])
    return as_bytes(stored, form, exif=exif, **options)


# --- orientation ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", LOSSLESS)
@pytest.mark.parametrize("turn", TURNS)
def test_a_turned_file_gives_the_pixels_of_the_upright_one(form, turn, tmp_path):
    picture, config = smooth(57, 41), small_config()
    data = turned(picture, turn, form, **LOSSLESS[form])
    (tmp_path / "picture").write_bytes(data)
    for file in (data, tmp_path / "picture"):
        assert np.array_equal(np.asarray(read_image(file)), np.asarray(picture))
        with open_image(file) as opened:
            seen = read_for_grid(opened, config, 4)
        assert torch.equal(seen, read_for_grid(picture, config, 4))
        as_stored = read_image(file, Reading(exif_orientation=False))
        assert np.array_equal(np.asarray(as_stored), np.asarray(picture if turn == 1 else picture.transpose(TURNS[turn])))


@pytest.mark.parametrize("size", [(160, 96), (157, 91)])
@pytest.mark.parametrize("turn", TURNS)
def test_a_turned_jpeg_is_seen_upright_for_every_grid(turn, size):
    picture, config = smooth(*size), small_config()
    for grid_size in (4, 6):
        with open_image(turned(picture, turn, "JPEG", quality=100, subsampling=0)) as opened:
            seen = read_for_grid(opened, config, grid_size)
            assert min(opened.size) < min(size)  # decoded at a reduced scale
        expected = read_for_grid(picture, config, grid_size)
        assert (seen - expected).abs().mean() * 0.225 * 255 < 1


@pytest.mark.parametrize("turn", TURNS)
@pytest.mark.parametrize("reduced_decoding", [True, False])
def test_the_predictor_answers_for_the_upright_picture(turn, reduced_decoding, tmp_path):
    model = SuperViT(small_config()).eval()
    predictor = Predictor(model, reduced_decoding=reduced_decoding)
    picture = smooth(57, 41)
    data = turned(picture, turn)
    (tmp_path / "picture.png").write_bytes(data)
    lazy = Image.open(io.BytesIO(data))
    for point in ("4", "7"):
        expected = predictor(picture, point)[0].probability
        for kind in (data, tmp_path / "picture.png", str(tmp_path / "picture.png"), lazy):
            assert predictor(kind, point)[0].probability == pytest.approx(expected, abs=1e-6)
    plain = Predictor(model, exif_orientation=False, reduced_decoding=reduced_decoding)
    stored = picture if turn == 1 else picture.transpose(TURNS[turn])
    assert plain(data, "4")[0].probability == pytest.approx(predictor(stored, "4")[0].probability, abs=1e-6)


@pytest.mark.parametrize("turn", [3, 6])
def test_training_and_evaluation_see_the_upright_picture_unless_told_otherwise(turn, tmp_path):
    picture = smooth(57, 41)
    for name, data in (("turned", turned(picture, turn)), ("upright", as_bytes(picture))):
        for split in ("train", "val"):
            (tmp_path / name / split / "a").mkdir(parents=True)
            (tmp_path / name / split / "a/0.png").write_bytes(data)
    for augmentation in (None, DataConfig()):
        images = [
            open_dataset(SourceConfig(root=tmp_path / name), "train", small_config(), augmentation).load(0, seed=1)[0]
            for name in ("turned", "upright")
        ]
        assert torch.equal(*images)
    as_stored = SourceConfig(root=tmp_path / "turned", exif_orientation=False)
    assert not torch.equal(open_dataset(as_stored, "val", small_config())[0][0], images[1])


def test_labels_are_made_of_the_upright_picture(tmp_path):
    import timm

    torch.save(timm.create_model("test_resnet", num_classes=1).state_dict(), tmp_path / "teacher.pth")
    for name, data in (("turned", turned(smooth(57, 41), 6)), ("upright", as_bytes(smooth(57, 41)))):
        (tmp_path / name / "train/a").mkdir(parents=True)
        (tmp_path / name / "train/a/0.png").write_bytes(data)
        options = {"workers": 0, "device": "cpu"}
        label_folder(LabelConfig(tmp_path / name, tmp_path / f"{name}_out", "test_resnet", tmp_path / "teacher.pth", **options))
    maps = [torch.load(tmp_path / f"{name}_out/a/0.pt", weights_only=True) for name in ("turned", "upright")]
    assert torch.equal(*maps)


def test_damaged_exif_data_leave_the_picture_as_it_is():
    picture = smooth(40, 30)
    for exif in (b"", b"Exif\0\0", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0MM\0*\0\0\0\x08\xff\xff" + b"\x01\x12" * 50):
        data = as_bytes(picture, "JPEG", exif=exif, quality=100)
        assert read_image(data).size == (40, 30)
        with open_image(data) as opened:
            assert read_for_grid(opened, small_config(), 4) is not None


# --- modes and depths -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("mode", MODES)
def test_every_mode_is_brought_to_grey_and_to_colour(mode, channels):
    config = small_config(in_chans=channels)
    picture = Image.new(mode, (50, 40))
    assert evaluation_transform(config)(picture).isfinite().all()
    (answer,) = Predictor(SuperViT(config))(picture)
    assert not isinstance(answer, Failure)
    is_grey = mode in ("1", "L", "LA", "La") or mode.startswith("I")
    is_expected = (is_grey if channels == 1 else mode in ("RGB", "P")) and mode not in ("LA", "La")
    assert (answer.warning is None) == is_expected
    if not is_expected:
        assert "seen as" in answer.warning or "transparency" in answer.warning


@pytest.mark.parametrize("mode", ["La", "LAB", "CMYK", "YCbCr"])
@pytest.mark.parametrize("channels", [1, 3])
def test_tiff_files_of_odd_modes_are_read_by_training_and_predictor(mode, channels, tmp_path):
    for split in ("train", "val"):
        (tmp_path / split / "a").mkdir(parents=True)
    data = as_bytes(Image.new("LA" if mode == "La" else mode, (50, 40)), "TIFF")
    if mode == "La":  # is read but not written: the tag of the extra sample says that alpha is premultiplied
        data = data.replace(struct.pack("<HHIHH", 338, 3, 1, 2, 0), struct.pack("<HHIHH", 338, 3, 1, 1, 0))
    assert Image.open(io.BytesIO(data)).mode == mode
    (tmp_path / "train/a/0.tif").write_bytes(data)
    config = small_config(in_chans=channels)
    assert open_dataset(SourceConfig(root=tmp_path), "train", config)[0][0].isfinite().all()
    assert not isinstance(Predictor(SuperViT(config))(data)[0], Failure)


def ramp(dtype, top, width=64):
    return np.linspace(0, top, width * 40).reshape(40, width).astype(dtype)


@pytest.mark.parametrize(
    "pixels, form, options",
    [
        (ramp(np.int32, 255), "TIFF", {}),
        (ramp(np.int32, 4095), "TIFF", {}),
        (ramp(np.int32, 65535), "TIFF", {}),
        (ramp(np.int32, 2**31 - 1), "TIFF", {}),
        (ramp(np.uint16, 255), "TIFF", {}),
        (ramp(np.uint16, 4095), "TIFF", {}),
        (ramp(np.uint16, 4095), "PNG", {}),
        (ramp(np.uint16, 65535), "PNG", {}),
        (ramp(np.uint16, 65535), "TIFF", {}),
        (ramp(np.uint16, 65535), "JPEG2000", {}),
        (ramp(np.uint16, 65535), "PPM", {}),
        (ramp(np.uint16, 900), "TIFF", {"tiffinfo": {281: 1023}}),  # the largest sample value, as the file tells
        (ramp(np.uint16, 900), None, {}),
        (ramp(np.int32, 255), None, {}),
    ],
)
def test_deep_grey_is_neither_black_nor_white(pixels, form, options):
    picture = Image.fromarray(pixels)
    if form is not None:
        if tags := options.get("tiffinfo"):
            info = TiffImagePlugin.ImageFileDirectory_v2()
            info.tagtype[281] = 3
            info[281] = tags[281]
            options = {"tiffinfo": info}
        picture = read_image(as_bytes(picture, form, **options))
    white = {900: 1023 if options else 4095}.get(int(pixels.max()), int(pixels.max()))
    grey = np.asarray(to_mode(picture, "L")).astype(int)
    assert grey.min() == 0
    assert np.abs(grey - pixels.astype(np.float64) * 255 / white).max() <= 1.01
    assert np.array_equal(np.asarray(to_mode(picture, "RGB"))[:, :, 1], grey)


def test_twelve_bits_that_a_file_packs_are_scaled_by_their_depth():
    values = np.arange(64, dtype=np.uint16) * 16  # far from white: only the file tells the depth
    packed = bytes(b for a, c in zip(values[::2], values[1::2], strict=True) for b in (a >> 4, (a & 15) << 4 | c >> 8, c & 255))
    tags = [(256, 3, 1, 64), (257, 3, 1, 1), (258, 3, 1, 12), (259, 3, 1, 1), (262, 3, 1, 1), (273, 4, 1, 8), (277, 3, 1, 1)]
    tags += [(278, 3, 1, 1), (279, 4, 1, len(packed))]
    entries = b"".join(struct.pack("<HHII", *tag) for tag in tags)
    data = b"II*\0" + struct.pack("<I", 8 + len(packed)) + packed + struct.pack("<H", len(tags)) + entries + bytes(4)
    assert np.asarray(to_mode(read_image(data), "L"))[0].tolist() == (values.astype(int) * 255 // 4095).tolist()


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


@pytest.mark.parametrize(
    "top, bits, white",
    [
        (900, 16, 65535),
        (900, 12, 4095),
        (900, 10, 1023),
        (60000, 12, 65535),
        (900, None, 4095),
        (900, 0, 4095),
        (900, 200, 4095),
    ],
)
@pytest.mark.parametrize("turn", [1, 6])
def test_a_png_tells_by_its_significant_bits_what_white_is(top, bits, white, turn):
    pixels, exif = ramp(np.uint16, top), Image.Exif()
    exif[0x0112] = turn
    data = as_bytes(Image.fromarray(pixels), "PNG", exif=exif)
    if bits is not None:
        data = data[:33] + chunk(b"tEXt", b"a\0b") + chunk(b"sBIT", bytes([bits])) + data[33:]
    grey = np.asarray(to_mode(read_image(data), "L")).astype(int)
    assert np.array_equal(grey, np.rot90(pixels.astype(int) * 255 // white, {1: 0, 6: 3}[turn]))


@pytest.mark.parametrize("tag, kind, value, white", [(281, 3, 65535, 65535), (341, 3, 65535, 65535), (341, 12, 1e300, 4095)])
def test_a_tiff_tells_by_its_largest_sample_value_what_white_is(tag, kind, value, white):
    info, pixels = TiffImagePlugin.ImageFileDirectory_v2(), ramp(np.uint16, 1023)
    info.tagtype[tag], info[tag] = kind, value
    grey = np.asarray(to_mode(read_image(as_bytes(Image.fromarray(pixels), "TIFF", tiffinfo=info)), "L"))
    assert np.abs(grey - pixels * 255.0 / white).max() <= 1.01


def test_negative_pixels_are_black_and_unsigned_ones_are_not():
    signed = Image.fromarray(np.array([[-5, 0], [100, 255]], np.int32))
    assert np.asarray(to_mode(signed, "L")).tolist() == [[0, 0], [100, 255]]
    unsigned = np.array([[0, 2**31], [2**32 - 1, 2**30]], np.uint32)
    info = TiffImagePlugin.ImageFileDirectory_v2()
    info[339] = 1
    data = as_bytes(Image.fromarray(unsigned.view(np.int32)), "TIFF", tiffinfo=info)
    data = data.replace(struct.pack("<HHIHH", 339, 3, 1, 2, 0), struct.pack("<HHIHH", 339, 3, 1, 1, 0))
    assert np.asarray(to_mode(read_image(data), "L")).tolist() == [[0, 127], [255, 63]]


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.fixture
def no_programs(monkeypatch):
    def refuse(*_args, **_options):
        raise AssertionError("a program was started")

    monkeypatch.setattr(subprocess, "Popen", refuse)
    monkeypatch.setattr(os, "system", refuse)


def test_formats_that_start_programs_are_not_opened(no_programs, tmp_path):
    (tmp_path / "cat.jpg").write_bytes(EPS)
    lazy = Image.open(io.BytesIO(EPS))
    assert lazy.format == "EPS"
    for image in (EPS, tmp_path / "cat.jpg", str(tmp_path / "cat.jpg"), lazy):
        (answer,) = Predictor(SuperViT(small_config()))(image)
        assert isinstance(answer, Failure)
        assert "known format" in answer.reason or "format EPS" in answer.reason


@pytest.mark.parametrize("form", ["ICO", "PCX", "TGA", "DDS", "SGI", "IM", "MSP"])
def test_other_formats_that_are_not_listed_are_refused(form):
    data = as_bytes(Image.new("1" if form == "MSP" else "RGB", (16, 16)), form)
    with pytest.raises(DamagedImage, match="not an image of a known format"):
        read_image(data)


@pytest.mark.parametrize(
    "form, options",
    [
        *((form, {}) for form in ("PNG", "TIFF", "WEBP", "GIF", "BMP", "PPM", "AVIF", "JPEG2000")),
        ("JPEG", {"progressive": True}),
    ],
)
def test_more_pixels_than_allowed_are_refused_before_they_are_decoded(form, options, tmp_path, monkeypatch):
    data = as_bytes(Image.new("RGB", (80, 80)), form, **options)
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda self: pytest.fail("decoded"))
    for file in (data, tmp_path / "image"):
        if file is not data:
            file.write_bytes(data)
        with pytest.raises(DamagedImage, match=r"80 x 80 pixels \(\w+\), larger than max_pixels = 2000 allows"):
            open_image(file, Reading(max_pixels=2000))
    assert "80 x 80" in Predictor(SuperViT(small_config()), max_pixels=2000)(Image.open(io.BytesIO(data)))[0].reason


def test_larger_jpegs_are_decoded_smaller():
    data = as_bytes(smooth(160, 80), "JPEG", quality=95)
    assert read_image(data, Reading(max_pixels=160 * 80)).size == (160, 80)
    assert read_image(data, Reading(max_pixels=4000)).size == (80, 40)
    assert read_image(data, Reading(max_pixels=300)).size == (20, 10)
    with pytest.raises(DamagedImage, match="160 x 80"):
        read_image(data, Reading(max_pixels=100))
    (answer,) = Predictor(SuperViT(small_config()), "4", max_pixels=4000)(data)
    assert not isinstance(answer, Failure)
    with pytest.raises(InputError, match="max_pixels 0 must be at least 1"):
        Predictor(SuperViT(small_config()), max_pixels=0)


def test_what_is_no_file_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    with pytest.raises(DamagedImage, match="a device or a pipe"):
        read_image(tmp_path / "pipe.jpg")
    with (tmp_path / "sparse.webp").open("wb") as file:
        file.write(b"RIFF\0\0\0\x7fWEBP")
        file.truncate(2**34)
    with pytest.raises(DamagedImage, match="a file of 16384 MiB"):
        read_image(tmp_path / "sparse.webp")
    assert "null byte" in Predictor(SuperViT(small_config()))("a\0b.jpg")[0].reason


def test_a_small_file_of_many_pixels_takes_little_memory(tmp_path):
    header = b"II*\0\x08\0\0\0"
    tags = [(256, 3, 1, 13370), (257, 3, 1, 13370), (258, 3, 1, 32), (259, 3, 1, 8), (262, 3, 1, 1), (273, 4, 1, 200)]
    tags += [(277, 3, 1, 1), (278, 3, 1, 13370), (279, 4, 1, 10), (339, 3, 1, 2)]
    entries = b"".join(struct.pack("<HHII", *tag) for tag in tags)
    data = header + struct.pack("<H", len(tags)) + entries + bytes(300)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(DamagedImage, match="13370 x 13370 pixels"):
        read_image(data)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50 * 1024


def test_one_picture_is_read_by_many_threads_alike(tmp_path):
    (tmp_path / "a.jpg").write_bytes(turned(noise(1, (90, 70)), 6, "JPEG"))
    seen = []
    threads = [threading.Thread(target=lambda: seen.append(read_image(tmp_path / "a.jpg").tobytes())) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(seen) == 8
    assert len(set(seen)) == 1
