import dataclasses
import io
import json
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from supervit import Complexity, InputError, SuperViT
from supervit.cascade import Ladder
from supervit.choose import Budget
from supervit.commands import Predict
from supervit.cost_table import Setup
from supervit.data import SourceConfig, evaluation_transform, open_dataset, open_image, read_for_grid, read_image
from supervit.layers import resize_images
from supervit.macs import executed_macs, macs
from supervit.predictor import Failure, Prediction, Predictor
from supervit.runtimes import as_runtime
from tests.conftest import plain_runtime, small_config, trained_like
from tests.unit.test_cost_table import cost, table


@pytest.fixture
def predictor():
    return Predictor(trained_like(SuperViT(small_config(class_names=tuple("abcde")))).eval(), batch_size=3)


def photograph(width, height, seed=0, channels=3):
    """A picture whose detail falls with its frequency as that of photographs does, nearly, with an edge; hardly coloured."""
    random = np.random.default_rng(seed)
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)[None])
    frequency[0, 0] = 1
    noise = random.normal(size=(height, width)) + 0.2 * random.normal(size=(channels, height, width))
    pixels = np.fft.ifft2(np.fft.fft2(noise) / frequency**1.3).real
    pixels = 128 + 40 * pixels / pixels.std()
    pixels[:, height // 3 :, width // 2 :] += 30
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8).transpose(1, 2, 0).squeeze())


def as_bytes(image, form="PNG", **options):
    stream = io.BytesIO()
    image.save(stream, form, **options)
    return stream.getvalue()


def seen_in_evaluation(data, config, grid_size):
    image = evaluation_transform(config)(read_image(data))
    return resize_images(image[None], config.patch_size * grid_size, config.resize)[0]


def seen_by_predictor(data, config, grid_size):
    with open_image(data) as image:
        return read_for_grid(image, config, grid_size)


def difference(data, config, grid_size):
    """Mean absolute difference in 8-bit levels between reading for a grid and evaluation."""
    seen, expected = seen_by_predictor(data, config, grid_size), seen_in_evaluation(data, config, grid_size)
    assert seen.shape == expected.shape
    std = torch.tensor(config.std).view(-1, 1, 1)
    return float(((seen - expected) * std).abs().mean() * 255)


@pytest.mark.parametrize("reduced_decoding, tolerance", [(False, 1e-5), (True, 1e-3)])  # batches of other sizes round otherwise
def test_every_kind_of_input_gives_the_answer_of_the_model(predictor, reduced_decoding, tolerance, tmp_path):
    predictor = Predictor(predictor.runtime.model, batch_size=3, reduced_decoding=reduced_decoding)
    image = photograph(50, 40)
    (tmp_path / "cat.png").write_bytes(as_bytes(image))
    array = np.asarray(image)
    pixels = evaluation_transform(predictor.config)(image)
    kinds = [tmp_path / "cat.png", str(tmp_path / "cat.png"), as_bytes(image), image, array]
    kinds += [torch.tensor(array).permute(2, 0, 1), pixels, pixels.double()]
    answers = predictor(kinds, "5@0.7")
    probability, index = predictor.runtime.model(pixels[None], "5@0.7").softmax(dim=1)[0].max(dim=0)
    for answer in answers:
        assert isinstance(answer, Prediction)
        assert answer.class_index == index
        assert answer.class_name == "abcde"[index]
        assert answer.probability == pytest.approx(probability.item(), abs=tolerance)
        assert answer.complexity == Complexity(5, 0.7)
        assert answer.macs == macs(predictor.config, "5@0.7")
        assert answer.executed_macs == executed_macs(predictor.config, "5@0.7")
    assert [answer.source for answer in answers[:3]] == [str(tmp_path / "cat.png")] * 2 + ["2"]
    for kind in kinds:
        assert [answer.class_index for answer in predictor(kind, "5@0.7")] == [index]


@pytest.mark.parametrize("form, options", [("PNG", {}), ("JPEG", {"quality": 90})])
def test_files_are_seen_bit_for_bit_as_in_evaluation(form, options, predictor, tmp_path):
    for split in ("train", "val"):
        (tmp_path / split / "cat").mkdir(parents=True)
        (tmp_path / split / "cat" / "0.img.jpg").write_bytes(as_bytes(photograph(61, 200), form, **options))
    (expected, _) = open_dataset(SourceConfig(root=tmp_path), "val", predictor.config)[0]
    seen = []
    run = predictor.runtime.model.forward
    predictor.runtime.model.forward = lambda images, point: seen.append(images) or run(images, point)
    exact = Predictor(predictor.runtime.model, reduced_decoding=False)
    file = tmp_path / "val/cat/0.img.jpg"
    predictor(file)  # the largest grid, which is never decoded at a reduced scale
    exact(file, "4")
    assert torch.equal(seen[0][0], expected)
    assert torch.equal(seen[1], resize_images(expected[None], 16, predictor.config.resize))


@pytest.mark.parametrize("resize", ["align_corners", "half_pixel", "antialias"])
@pytest.mark.parametrize("size", [(64, 64), (77, 73), (131, 97), (203, 301), (640, 263)])
def test_jpegs_are_seen_nearly_as_in_evaluation_at_every_scale(size, resize):
    config = small_config(resize=resize)
    data = as_bytes(photograph(*size), "JPEG", quality=92)
    for grid_size in (4, 6):
        assert difference(data, config, grid_size) < 2.5  # levels; small pictures have more detail in a pixel


def test_positions_are_those_of_evaluation():
    x, y = np.meshgrid(np.arange(403), np.arange(301))
    ramps = np.stack([x / 2, y / 2, (x + y) / 4], axis=2).astype(np.uint8)
    for resize in ("align_corners", "half_pixel", "antialias"):
        data = as_bytes(Image.fromarray(ramps), "JPEG", quality=100, subsampling=0)
        assert difference(data, small_config(resize=resize), 4) < 0.75  # levels; a pixel of the grid is about 8


def test_jpegs_are_decoded_at_the_smallest_scale_that_suffices():
    config = small_config()  # resizes the short side to 32
    for short, decoded in [(20, 20), (63, 63), (64, 32), (127, 64), (128, 32), (255, 64), (256, 32), (1000, 125)]:
        with open_image(as_bytes(photograph(short, short + 9), "JPEG")) as image:
            assert read_for_grid(image, config, 4) is not None
            assert image.size[0] == decoded


@pytest.mark.parametrize("resize", ["align_corners", "half_pixel", "antialias"])
@pytest.mark.parametrize("size", [(32, 32), (39, 32), (20, 25), (77, 73), (300, 131)])
def test_pictures_that_are_decoded_whole_are_seen_as_in_evaluation_without_its_rounding(size, resize):
    config, picture = small_config(resize=resize), photograph(*size)
    for grid_size in (4, 6):
        seen = difference(as_bytes(picture), config, grid_size)
        assert seen < (1e-4 if min(size) == 32 else 0.35)  # levels; 32 pixels need no resize before the model's own


def test_a_picture_of_the_callers_is_not_decoded_at_a_reduced_scale(predictor):
    data = as_bytes(photograph(150, 140), "JPEG")
    with open_image(data) as image:
        (whole,) = predictor(image, "4")
        assert image.size == (150, 140)
    assert whole.probability == pytest.approx(predictor(read_image(data), "4")[0].probability, abs=1e-6)


def test_only_what_can_be_read_for_a_grid_is():
    config, image = small_config(), photograph(100, 80)
    assert seen_by_predictor(as_bytes(image, "JPEG"), config, 4) is not None
    assert seen_by_predictor(as_bytes(image, "JPEG", progressive=True), config, 4) is not None
    assert seen_by_predictor(as_bytes(image, "PNG"), config, 4) is not None
    assert seen_by_predictor(as_bytes(image.convert("P"), "PNG"), config, 4) is None
    assert seen_by_predictor(as_bytes(photograph(2100, 900), "PNG"), config, 4) is None
    assert seen_by_predictor(as_bytes(image.convert("CMYK"), "JPEG"), config, 4) is None
    assert seen_by_predictor(as_bytes(image, "JPEG"), config, 7) is None
    assert seen_by_predictor(as_bytes(photograph(401, 100), "JPEG"), config, 4) is None
    assert seen_by_predictor(as_bytes(image, "JPEG"), small_config(interpolation="nearest"), 4) is None


@pytest.mark.parametrize("in_chans, channels", [(1, 1), (1, 3), (3, 1)])
def test_grey_and_colour_are_converted_as_in_evaluation(in_chans, channels):
    config = small_config(in_chans=in_chans)
    data = as_bytes(photograph(160, 140, channels=channels), "JPEG", quality=92)
    assert difference(data, config, 4) < 2
    predictor = Predictor(SuperViT(config))
    for kind in (data, photograph(50, 40, channels=channels), np.asarray(photograph(50, 40, channels=channels))):
        assert isinstance(predictor(kind)[0], Prediction)


def png_of_size(width, height):
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = [struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
              for kind, body in [(b"IHDR", header), (b"IDAT", b"")]]  # fmt: skip
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


@pytest.mark.parametrize("point", ["4", "7"])
def test_a_bad_image_fails_in_its_place_and_the_others_are_answered(predictor, point, tmp_path):
    good = as_bytes(photograph(80, 60), "JPEG")
    (tmp_path / "empty.jpg").touch()
    bad = {
        "not an image of a known format": [b"", b"not an image", tmp_path / "empty.jpg"],
        "truncated": [good[: len(good) // 2], as_bytes(photograph(80, 60))[:3000]],
        "larger than max_pixels": [png_of_size(100_000, 100_000)],
        "No such file": [tmp_path / "missing.jpg"],
        "Is a directory": [tmp_path],
        "floating-point": [Image.new("F", (9, 9))],
        "no pixels": [Image.new("RGB", (0, 9))],
    }
    for reason, images in bad.items():
        for image in images:
            first, failure, last = predictor([good, image, good], point)
            assert isinstance(failure, Failure)
            assert reason in failure.reason
            assert first.class_index == last.class_index == predictor(good, point)[0].class_index
            (alone,) = predictor(image, point)
            assert alone.reason == failure.reason


@pytest.mark.parametrize("count", [0, 1, 2, 3, 4, 7])
def test_answers_come_in_order_whatever_the_batches(predictor, count):
    images = [photograph(40 + i, 50, seed=i) for i in range(count)]
    alone = [predictor(image)[0].class_index for image in images]
    answers = predictor(iter(images))
    assert [answer.class_index for answer in answers] == alone
    assert [answer.source for answer in answers] == [str(i) for i in range(count)]


def test_a_stream_is_read_one_batch_at_a_time(predictor):
    read = []
    images = (read.append(i) or torch.randn(3, 28, 28) for i in range(9))
    next(predictor.stream(images))
    assert read == [0, 1, 2]


def test_a_batch_of_tensors_of_several_sizes_is_resized_as_by_the_model(predictor):
    images = [torch.randn(3, side, side) for side in (28, 16, 40)]
    for image, answer in zip(images, predictor(images, "4"), strict=True):
        assert answer.class_index == predictor.runtime.model(image[None], "4").argmax()
    assert len(predictor(torch.randn(5, 3, 28, 28))) == 5


def test_operating_points_share_one_copy_of_the_weights(predictor):
    rows = table(cost("4@0.5", latency_ms=1.0, top1=50.0, macs=10), cost("7", 2, latency_ms=5.0, top1=70.0, macs=60))
    with pytest.raises(InputError, match="the cost table holds for model 'm', here it is"):
        predictor.within(Budget(latency_ms=2), rows)
    rows = dataclasses.replace(rows, setup=Setup.of(predictor.runtime))
    cheap, dear = (predictor.within(Budget(latency_ms=limit), rows) for limit in (2, 20))
    assert (str(cheap.complexity), cheap.batch_size) == ("4@0.5", 1)
    assert (str(dear.complexity), dear.batch_size) == ("7", 2)
    assert cheap.runtime is dear.runtime is predictor.runtime
    assert str(predictor.complexity) == "7"
    assert str(cheap(photograph(40, 40))[0].complexity) == "4@0.5"


def test_any_runtime_can_run():
    def run(images, complexity):
        assert images.shape[1:] == (3, 4 * complexity.grid_size, 4 * complexity.grid_size)
        return torch.eye(5)[: len(images)]

    runtime = plain_runtime(as_runtime(SuperViT(small_config())), run=run)
    answers = Predictor(runtime)([photograph(30, 30)] * 3, "5@0.5")
    assert [answer.class_index for answer in answers] == [0, 1, 2]
    assert answers[0].class_name is None


def test_a_cascade_answers_in_order_and_says_where_each_image_left(predictor):
    images = [photograph(40 + i, 50, seed=i) for i in range(11)]
    sure = [answer.probability for answer in predictor(images, "4@0.5")]
    threshold = (sorted(sure)[5] + sorted(sure)[6]) / 2
    ladder = Ladder((Complexity.of("4@0.5"), Complexity.of("7")), (threshold,))
    answers = predictor([*images[:3], b"", *images[3:]], ladder)
    assert isinstance(answers.pop(3), Failure)
    cheap, dear = (predictor(images, point) for point in ("4@0.5", "7"))
    for answer, first, last in zip(answers, cheap, dear, strict=True):
        expected = first if first.probability >= threshold else last
        assert (answer.class_index, answer.complexity) == (expected.class_index, expected.complexity)
        climbed = first.executed_macs if expected is last else 0
        assert answer.executed_macs == expected.executed_macs + climbed
    assert {str(answer.complexity) for answer in answers} == {"4@0.5", "7"}
    assert [a.class_index for a in Predictor(predictor.runtime, ladder)(images)] == [a.class_index for a in answers]


def test_the_model_predicts_in_evaluation_mode_and_stays_in_its_own():
    model = SuperViT(small_config(drop_path_rate=0.9)).train()
    predictor = Predictor(model, "4")
    image = torch.randn(3, 28, 28)
    assert predictor(image) == predictor(image)
    assert model.training


@pytest.mark.parametrize(
    "image, message",
    [
        (7, "a int is no image; give a path"),
        (None, "a NoneType is no image"),
        (torch.zeros(3, 28, 27), r"\(3, 28, 27\) does not fit; expected \(3, H, W\), as grid 7 and"),
        (torch.zeros(1, 28, 28), r"expected \(3, H, W\)"),
        (torch.zeros(3, 6, 6), "as grid 7 and with a pixel for each patch"),
        (torch.zeros(3, 28, 28, dtype=torch.int64), "type int64 does not fit; expected uint8"),
        (np.zeros((28, 28, 3)), "type float64 does not fit"),
        (np.zeros((28, 28, 4), np.uint8), r"shape \(28, 28, 4\)"),
        (np.zeros((0, 28, 3), np.uint8), r"shape \(0, 28, 3\)"),
        (np.zeros(28, np.uint8), r"shape \(28,\)"),
    ],
)
def test_what_is_no_image_is_refused(predictor, image, message):
    with pytest.raises(InputError, match=message):
        predictor([image])
    with pytest.raises(InputError, match=message):
        predictor(image)


@pytest.mark.parametrize(
    "image",
    [
        torch.zeros(3, 28, 28).to_sparse(),
        torch.zeros(1, 3, 28, 28).to_sparse(),
        torch.zeros(3, 28, 28, device="meta"),
        torch.zeros(2, 3, 28, 28, device="meta"),
        torch.zeros(3, 28, 28, dtype=torch.uint8, device="meta"),
        torch.zeros(3, 28, 28, dtype=torch.uint8).to_sparse(),
        torch.zeros(3, 28, 28, dtype=torch.complex64),
        torch.zeros(3, 28, 28, dtype=torch.complex64).conj(),
        torch.zeros(3, 28, 28, dtype=torch.bool),
        torch.quantize_per_tensor(torch.zeros(3, 28, 28), 1.0, 0, torch.quint8),
        torch.tensor(1.0),
        torch.tensor(1, dtype=torch.uint8),
        torch.zeros(0, 28, 28, dtype=torch.uint8),
        np.array(3, np.uint8),
        np.zeros((28, 28, 3), object),
        np.zeros((28, 28), [("a", "u1")]),
        np.zeros((28, 28, 3, 2, 1), np.uint8),
        np.zeros((28, 28), ">u2"),
        np.zeros((28, 28), "U4"),
        bytearray(b"x"),
    ],
    ids=lambda image: f"{type(image).__name__}-{getattr(image, 'dtype', '')}-{getattr(image, 'layout', '')}",
)
def test_odd_tensors_and_arrays_are_refused(predictor, image):
    with pytest.raises(InputError):
        predictor([image])
    with pytest.raises(InputError):
        predictor(image)


def test_views_of_pictures_are_answered_as_their_copies(predictor):
    array = np.asarray(photograph(50, 40))
    assert not array.flags.writeable
    for view in (array, array[::-1, ::-1], array[:, ::2], np.asfortranarray(array), np.ma.masked_array(array)):
        assert predictor(view)[0] == predictor(np.array(view))[0]
    assert isinstance(predictor(np.broadcast_to(np.uint8(0), (10**5, 10**5)))[0], Failure)
    assert isinstance(predictor(torch.zeros(()).expand(3, 10**5, 10**5))[0], Failure)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 1e300])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_pixels_that_are_not_finite_fail_in_their_place(predictor, value, dtype):
    good, bad = torch.zeros(3, 28, 28, dtype=dtype), torch.zeros(3, 40, 40, dtype=dtype)
    bad[0, 1, 2] = value if dtype == torch.float64 or value != 1e300 else float("inf")
    first, failure, last = predictor([good, bad, good])
    assert failure == Failure("1", "pixels that are NaN or infinite")
    assert first.class_index == last.class_index


@pytest.mark.parametrize("way", ["7", "4@0.5", Ladder((Complexity(4), Complexity(7)), (0.5,))], ids=str)
def test_an_answer_that_is_not_finite_is_a_failure(way):
    model = SuperViT(small_config()).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(float("nan"))
    try:
        answers = Predictor(model)([photograph(40, 40)] * 2, way)
    except InputError:
        return  # refused before
    for answer in answers:
        assert isinstance(answer, Failure)
        assert "no finite answer" in answer.reason


@pytest.mark.parametrize("grid_size", [29, 99999])
def test_more_patches_than_pixels_are_refused_before_anything_is_made(predictor, grid_size):
    for point in (str(grid_size), Complexity(grid_size, 0.5), Ladder((Complexity(4), Complexity(grid_size)), (0.5,))):
        with pytest.raises(InputError, match=rf"{grid_size} patches a side, each of which needs a pixel"):
            predictor(photograph(40, 40), point)
        with pytest.raises(InputError, match="needs a pixel"):
            Predictor(predictor.runtime.model, point)


def test_a_picture_that_is_not_of_the_models_kind_gets_a_warning(predictor, tmp_path, capsys):
    colour, grey = photograph(40, 40), photograph(40, 40, channels=1)
    kinds = [colour, grey, colour.convert("CMYK"), colour.convert("RGBA"), as_bytes(colour.convert("CMYK"), "JPEG")]
    warnings = [answer.warning for answer in predictor(kinds, "4")]
    assert warnings[0] is None
    assert warnings[1:] == [
        "a picture in grey is seen as RGB",
        "a picture in CMYK is seen as RGB",
        "the transparency of a picture in RGB is dropped",
        "a picture in CMYK is seen as RGB",
    ]
    assert Predictor(SuperViT(small_config(in_chans=1)))(colour)[0].warning == "a picture in RGB is seen as grey"
    predictor.runtime.model.save(tmp_path / "model")
    (tmp_path / "in").mkdir()
    for number in range(2):
        colour.convert("CMYK").save(tmp_path / f"in/{number}.jpg")
    Predict(str(tmp_path / "model"), (tmp_path / "in",), "4", form="json").run()
    printed, said = capsys.readouterr()
    assert said == f"2 of 2 images: a picture in CMYK is seen as RGB, such as {tmp_path / 'in/0.jpg'}\n"
    assert json.loads(printed.splitlines()[0])["warning"] == "a picture in CMYK is seen as RGB"


def test_the_command_names_what_it_skips_and_passes_over_hidden_files(predictor, tmp_path, capsys, caplog):
    predictor.runtime.model.save(tmp_path / "model")
    names = ["a.png", "b.HEIC", "c.heic", "d.jp2", "notes.txt", "._a.png", ".hidden/e.png", "__MACOSX/f.png"]
    for name in names:
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).write_bytes(as_bytes(photograph(40, 50), "JPEG2000" if name == "d.jp2" else "PNG"))
    Predict(str(tmp_path / "model"), (tmp_path / "in",), "4", form="json").run()
    sources = [json.loads(line)["source"] for line in capsys.readouterr().out.splitlines()]
    assert sources == [str(tmp_path / "in" / name) for name in ("a.png", "d.jp2")]
    (record,) = caplog.records
    assert "skipped 3 files" in record.message
    assert "2 .heic, 1 .txt" in record.message
    assert "'b.HEIC'" in record.message


def test_the_default_is_the_dearest_point_that_the_runtime_has():
    runtime = dataclasses.replace(
        as_runtime(SuperViT(small_config())), points=(Complexity(4, 0.5), Complexity(6), Complexity(5))
    )
    assert Predictor(runtime).complexity == Complexity(6)
    assert Predictor(runtime.model).complexity == Complexity(7)


def test_a_ladder_is_looked_at_once(predictor, monkeypatch):
    looks, fingerprint = [], SuperViT.fingerprint
    monkeypatch.setattr(SuperViT, "fingerprint", lambda self: looks.append(self) or fingerprint(self))
    ladder = Ladder((Complexity(4), Complexity(7)), (0.5,), model=fingerprint(predictor.runtime.model))
    predictor = Predictor(predictor.runtime.model)
    for _ in range(3):
        predictor(photograph(40, 40), ladder)
    assert len(looks) == 1


def test_impossible_predictors_and_points_are_refused(predictor):
    model = predictor.runtime.model
    for options, message in [({"batch_size": 0}, "batch_size 0"), ({"complexity": "14@"}, "does not parse")]:
        with pytest.raises(InputError, match=message):
            Predictor(model, **options)
    with pytest.raises(InputError, match="nothing to predict"):
        Predictor(SuperViT(small_config(num_classes=0)))
    with pytest.raises(InputError, match="a str is no model; give what supervit.load"):
        Predictor("model.safetensors")
    with pytest.raises(InputError, match="in_chans=2"):
        Predictor(SuperViT(small_config(in_chans=2)))
    with pytest.raises(InputError, match="does not parse"):
        predictor.stream([], "x")


def test_the_command_prints_an_answer_for_each_file(predictor, tmp_path, capsys):
    predictor.runtime.model.save(tmp_path / "model")
    (tmp_path / "good.jpg").write_bytes(as_bytes(photograph(80, 60), "JPEG"))
    (tmp_path / "bad.jpg").write_bytes(b"")
    files = (tmp_path / "bad.jpg", tmp_path / "good.jpg")
    (_, expected) = predictor(files, "4@0.5")
    with pytest.raises(SystemExit, match="1"):  # as there is a file that cannot be read
        Predict(str(tmp_path / "model"), files, "4@0.5", form="json").run()
    printed, said = capsys.readouterr()
    assert said == "1 of 2 images could not be read\n"
    bad, good = (json.loads(line) for line in printed.splitlines())
    assert bad == {"source": str(files[0]), "reason": "not an image of a known format"}
    assert good["class_name"] == expected.class_name
    assert good["complexity"] == "4@0.5"
    with pytest.raises(SystemExit, match="1"):
        Predict(str(tmp_path / "model"), files).run()
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4
    assert "cannot be read: not an image" in lines[2]
    assert "good.jpg" in lines[3]


def test_the_command_takes_folders(predictor, tmp_path, capsys):
    predictor.runtime.model.save(tmp_path / "model")
    names = ["b.png", "sub/a.JPG", "sub/c.jpeg"]
    (tmp_path / "images/sub").mkdir(parents=True)
    (tmp_path / "images/notes.txt").write_text("no image")
    for name in names:
        photograph(40, 50).save(tmp_path / "images" / name)
    Predict(str(tmp_path / "model"), (tmp_path / "images", tmp_path / "images/b.png"), "4", form="json").run()
    sources = [json.loads(line)["source"] for line in capsys.readouterr().out.splitlines()]
    assert sources == [str(tmp_path / "images" / name) for name in [*names, "b.png"]]
    with pytest.raises(InputError, match=r"model' holds no images \(\*.jpg, "):
        Predict(str(tmp_path / "model"), (tmp_path / "model",)).run()
    with pytest.raises(InputError, match="name at least one file or folder"):
        Predict(str(tmp_path / "model"), ()).run()
