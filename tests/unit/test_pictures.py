"""What pictures show, and that they can be read."""

import json
import math
import os
import re
import threading

import numpy as np
import pytest
import torch

from supervit import Complexity, InputError, SuperViT
from supervit.comparison import Comparison
from supervit.evaluate import Accuracy, tabulate
from supervit.figures import draw_runtimes
from supervit.pictures import FORMS, check_plotting, picture, picture_files
from supervit.pictures._canvas import log_ticks, make_logarithmic, tick_text
from supervit.pictures._labels import Label, place_labels
from supervit.pictures.confusion import draw_confusion
from supervit.pictures.curves import draw_curves, read_history
from supervit.pictures.dropped import MOST_ROWS, Look, default_points, draw_dropped, look
from supervit.pictures.tradeoff import Curve, Measured, draw_tradeoff
from supervit.report import plot_tradeoff
from supervit.runtimes import as_runtime
from tests.conftest import plain_runtime, small_config, trained_like

pytest.importorskip("matplotlib")
CUT, SEVEN = Complexity(4, 0.5), Complexity(7)
STARTS = {"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}


def texts(directory, name) -> list[str]:
    """The texts of a picture, of which all forms must be there."""
    for form in FORMS:
        assert (directory / f"{name}.{form}").read_bytes().startswith(STARTS[form])
    return re.findall(r"<text[^>]*>([^<]*)</text>", (directory / f"{name}.svg").read_text())


def measured(count=12, standard_error=1.0):
    return [Measured(Complexity(4 + index), 1.3**index, 50 + 3 * math.log(1 + index), standard_error) for index in range(count)]


def a_log(path, *entries, end="\n"):
    path.write_text("\n".join(entry if isinstance(entry, str) else json.dumps(entry) for entry in entries) + end)
    return path


def train_entry(step, epoch=1, **changes):
    losses = {"4": 2.0 / step, "4@0.5": 0.1, "7": 1.5 / step, "7@0.5": None}
    return {"event": "train", "step": step, "epoch": epoch, "lr": 1e-3, "loss": 3.0 / step, "losses": losses, "x": 1} | changes


def evaluate_entry(step, epoch):
    return {"event": "evaluate", "step": step, "epoch": epoch, "top1": {"4@0.5": 40.0 + epoch, "5": 45.0, "7": 50.0 + epoch}}


DRAWINGS = {
    "tradeoff": lambda files: draw_tradeoff(measured(), [Curve([(1.0, 50.0), (2.0, 55.0)], "best")], "MACs", files, "a title"),
    "confusion": lambda files: draw_confusion([[3, 1], [0, 2]], ["cat", "dog"], files, "a title"),
    "runtimes": lambda files: draw_runtimes([Comparison("eager", "float32", SEVEN, 1.0, 1.0, 70.0, 0.0, 100.0)], files),
    "curves": lambda files: draw_curves(a_log(files[0].parent / "log.jsonl", train_entry(1), evaluate_entry(1, 1)), files),
    "dropped": lambda files: draw_dropped([[Look(CUT, np.zeros((16, 16, 3)), np.eye(4) - 1, "cat", 0.5)]], ["x"], 12, files),
}


@pytest.mark.parametrize("name", DRAWINGS)
def test_every_picture_is_written_in_all_forms_the_same_each_time(name, tmp_path):
    contents = []
    for run in ("first", "second"):
        (tmp_path / run).mkdir()
        DRAWINGS[name](picture_files(tmp_path / run, name))
        assert texts(tmp_path / run, name)
        contents.append([(tmp_path / run / f"{name}.{form}").read_bytes() for form in FORMS])
    assert contents[0] == contents[1]


def test_a_picture_has_the_rights_of_the_umask_and_is_written_whole_or_not_at_all(tmp_path):
    umask = os.umask(0o022)
    try:
        with picture(picture_files(tmp_path, "new"), 2, 2) as figure:
            figure.add_subplot()
    finally:
        os.umask(umask)
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o644}
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(ZeroDivisionError), picture(picture_files(tmp_path, "new"), 2, 2):
        raise ZeroDivisionError
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
    with pytest.raises(InputError, match="cannot write"), picture([tmp_path / "nowhere/x.png"], 2, 2):
        pass
    with (
        pytest.raises(InputError, match="unknown form of pictures 'pnk'; did you mean png"),
        picture([tmp_path / "x.pnk"], 2, 2),
    ):
        pass


def test_pictures_of_many_threads_are_those_of_one_and_leave_the_settings_as_they_were(tmp_path):
    import matplotlib

    before = dict(matplotlib.rcParams)
    DRAWINGS["tradeoff"]([tmp_path / "alone.svg"])
    threads = [threading.Thread(target=DRAWINGS["tradeoff"], args=([tmp_path / f"{index}.svg"],)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {path.read_bytes() for path in tmp_path.iterdir()} == {(tmp_path / "alone.svg").read_bytes()}
    assert dict(matplotlib.rcParams) == before


def test_without_matplotlib_the_extra_is_named(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"needs matplotlib; pip install 'supervit\[plot\]'"):
        check_plotting()


# --- axes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (1.0, 16.0, [1, 2, 4, 8, 16]),
        (0.4, 2.3, [0.5, 0.75, 1, 1.5, 2]),
        (1.9, 33.0, [2, 4, 8, 16, 32]),
        (1.1, 11.0, [1.5, 2, 3, 4, 6, 8]),
        (3.0, 3.55, [3.0, 3.1, 3.2, 3.3, 3.4, 3.5]),
        (2.2, 4.7, [2.5, 3, 3.5, 4, 4.5]),
        (0.05, 40.0, [0.0625, 0.25, 1, 4, 16]),
        (5.0, 5.0, [5.0]),
    ],
)
def test_ticks_are_round_numbers(low, high, ticks):
    assert log_ticks(low, high) == pytest.approx(ticks)


def test_ticks_of_all_ranges_are_few_and_their_texts_do_not_overlap(tmp_path):
    for start in (0.013, 0.7, 1.0, 9.3, 730.0):
        for octaves in (0.01, 0.2, 0.5, 0.9, 1, 1.4, 1.6, 2, 2.9, 3.1, 5, 8, 12, 20):
            low, high = start, start * 2**octaves
            ticks = log_ticks(low, high)
            assert 2 <= len(ticks) <= 9, (low, high, ticks)
            assert low * 0.999 <= min(ticks) <= max(ticks) <= high * 1.001
            assert len({tick_text(tick) for tick in ticks}) == len(ticks)
    for high in (1.05, 1.9, 9.0, 1000.0):
        with picture([tmp_path / "axis.png"], 4, 3) as figure:
            axes = figure.add_subplot()
            make_logarithmic(axes.xaxis, [1.0, high])
            figure.draw_without_rendering()
            boxes = [label.get_window_extent() for label in axes.get_xticklabels(which="both") if label.get_text()]
            assert len(boxes) >= 2
            assert not any(one.overlaps(other) for index, one in enumerate(boxes) for other in boxes[:index])


def test_labels_cover_neither_points_nor_each_other(tmp_path):
    generator = np.random.default_rng(0)
    with picture([tmp_path / "labels.png"], 5, 4) as figure:
        axes = figure.add_subplot()
        axes.set(xlim=(0, 1), ylim=(0, 1))
        points = generator.uniform(0.1, 0.9, (15, 2))
        labels = [Label(x, y, f"14@0.{index}", error=0.02) for index, (x, y) in enumerate(points)]
        assert place_labels(figure, axes, labels, [[(0, 0), (1, 1)]]) == 15
        boxes = [text.get_window_extent() for text in axes.texts]
        assert not any(one.overlaps(other) for index, one in enumerate(boxes) for other in boxes[:index])
        assert not any(box.contains(*axes.transData.transform(point)) for box in boxes for point in points)
        assert all(axes.bbox.contains(*corner) for box in boxes for corner in box.corners())
        assert place_labels(figure, axes, [Label(0.5, 0.5, "x" * 300)]) == 0  # no room


def test_a_tradeoff_labels_its_points_and_has_bars_of_the_standard_error(tmp_path):
    points = [CUT, Complexity(4), SEVEN]
    accuracies = {point: Accuracy(50.0 + 10 * index, 99.0, 100) for index, point in enumerate(points)}
    plot_tradeoff(tabulate(small_config(), points, accuracies), picture_files(tmp_path, "plot"), "One $model$")
    written = texts(tmp_path, "plot")
    assert {"4@0.5", "4", "7", "One $model$", "top-1 accuracy (%), bars: ± standard error", "7×7 tokens"} <= set(written)
    plot_tradeoff(tabulate(small_config(), [SEVEN], {SEVEN: Accuracy(100.0, 100.0, 9)}), [tmp_path / "one.svg"])


def test_the_legend_is_beside_the_axes(tmp_path):
    found = []
    DRAWINGS["tradeoff"](picture_files(tmp_path, "plot"))
    with picture([tmp_path / "x.png"], 5, 4) as figure:
        axes = figure.add_subplot()
        axes.plot([0, 1], [0, 1], label="line")
        found = figure.legend(loc="outside right upper")
        figure.draw_without_rendering()
        assert not found.get_window_extent().overlaps(axes.bbox)


# --- runs -----------------------------------------------------------------------------------------------------------


def test_curves_show_losses_accuracies_and_the_rate(tmp_path):
    log = a_log(
        tmp_path / "log.jsonl", *(train_entry(step) for step in range(1, 9)), evaluate_entry(8, 1), evaluate_entry(16, 2)
    )
    history = draw_curves(log, picture_files(tmp_path, "curves"))
    assert (len(history.train), len(history.evaluate), history.damaged) == (8, 2, 0)
    written = set(texts(tmp_path, "curves"))
    assert {"loss, uncut paths", "loss, cut paths", "top-1 accuracy (%)", "learning rate", "epoch"} <= written
    assert {"sum of all paths", "4×4 tokens", "7×7 tokens", "7", "4@0.5", "mean of 3", "the others"} <= written


def test_curves_are_drawn_while_a_run_goes_on(tmp_path):
    log = a_log(tmp_path / "log.jsonl", train_entry(1), '{"event": "train", "st', end="")
    assert draw_curves(log, picture_files(tmp_path, "curves")).damaged == 0
    assert {"no evaluation yet", "step"} <= set(texts(tmp_path, "curves"))
    a_log(log, train_entry(1, losses={"7": 1.0}))
    draw_curves(log, picture_files(tmp_path, "curves"))
    assert "loss, cut paths" not in texts(tmp_path, "curves")


DAMAGED = [
    "", "{", "[]", "7", "null", '{"event": "train"}', '{"event": 3}', '{"a": NaN}', "[" * 10**5, "\x00", "é" * 100,
    *(json.dumps(train_entry(1) | change) for change in ({"step": 10**400}, {"step": -1}, {"lr": "high"}, {"epoch": None})),
    *(json.dumps(train_entry(1, losses=losses)) for losses in ({"x": 1.0}, [1.0], {"7": "1"})),
    json.dumps(evaluate_entry(1, 1) | {"top1": {"7": None}}), json.dumps(evaluate_entry(1, 1)).replace("45.0", "1e400"),
]  # fmt: skip


@pytest.mark.parametrize("line", DAMAGED)
def test_damaged_lines_are_left_out_and_counted(tmp_path, line):
    history = read_history(a_log(tmp_path / "log.jsonl", train_entry(1), line, evaluate_entry(2, 1)))
    assert (len(history.train), len(history.evaluate), history.damaged) == (1, 1, 1)
    with pytest.raises(InputError, match=r"^\S*log.jsonl' is not the log of a training run \(it has no entries yet, 1 damaged"):
        read_history(a_log(tmp_path / "log.jsonl", line))


def test_an_empty_or_missing_log_is_one_clear_line(tmp_path):
    for content in (b"", b"\n" * 0, b'{"event": "damaged", "step": 1}\n'):
        (tmp_path / "log.jsonl").write_bytes(content)
        with pytest.raises(InputError, match="it has no entries yet"):
            read_history(tmp_path / "log.jsonl")
    with pytest.raises(InputError, match="No such file or directory"):
        read_history(tmp_path / "nowhere.jsonl")
    with (tmp_path / "huge.jsonl").open("wb") as file:
        file.truncate(2**31)
    with pytest.raises(InputError, match="larger than the 64 MiB"):
        read_history(tmp_path / "huge.jsonl")


def test_extreme_numbers_and_long_runs_are_drawn(tmp_path):
    log = a_log(tmp_path / "log.jsonl", train_entry(1, loss=1e300, lr=1e300), train_entry(2, loss=-1e300), evaluate_entry(2, 1))
    draw_curves(log, [tmp_path / "extreme.png"])
    a_log(log, *(train_entry(step) for step in range(1, 5001)), *(evaluate_entry(step, step) for step in range(1, 301)))
    draw_curves(log, [tmp_path / "long.svg"])
    assert (tmp_path / "long.svg").stat().st_size < 5e5  # neighbours are averaged


# --- what is dropped ------------------------------------------------------------------------------------------------


def a_runtime(**overrides):
    names = ("cat", "dog", "a$b$", "x" * 99, "line\nbreak")
    return as_runtime(trained_like(SuperViT(small_config(class_names=names, **overrides))).eval())


@pytest.mark.parametrize("channels", [1, 3])
def test_a_look_is_the_picture_the_answer_and_what_was_dropped(channels):
    config = {"in_chans": channels, "mean": (0.4,) * channels, "std": (0.2,) * channels}
    runtime = a_runtime(**config)
    images = torch.rand(2, channels, 28, 28) * 4 - 2
    (first, uncut), _ = look(runtime, images, [CUT, SEVEN])
    with torch.no_grad():
        logits, trace = runtime.model(images, CUT, trace=True)
    probability, index = logits[0].softmax(0).max(0)
    assert (first.complexity, first.answer) == (CUT, runtime.model_config.class_names[int(index)])
    assert first.probability == pytest.approx(float(probability), abs=1e-5)
    assert np.array_equal(first.dropped, trace.drop_map()[0])
    assert first.pixels.shape == (16, 16, 3)
    assert set(np.unique(uncut.dropped)) == {-1}
    expected = (images[0] * 0.2 + 0.4).clamp(0, 1).permute(1, 2, 0)
    assert torch.allclose(torch.from_numpy(uncut.pixels), expected.expand(-1, -1, 3), atol=1e-6)


def test_a_drawing_has_a_panel_for_each_image_and_point(tmp_path):
    runtime = a_runtime()
    points = default_points(runtime.model_config, [SEVEN])
    assert [str(point) for point in points] == ["7", "7@0.7", "7@0.5", "4@0.7", "4@0.5"]
    rows = look(runtime, torch.rand(2, 3, 28, 28), points)
    draw_dropped(rows, ["one.png", "a$b$\n\x1b[31m.png"], 12, picture_files(tmp_path, "dropped"))
    svg = (tmp_path / "dropped.svg").read_text()
    assert svg.count("<image") == 12
    written = set(texts(tmp_path, "dropped"))
    kept = int((rows[0][1].dropped == -1).sum())
    assert {"as the model sees it", "one.png", "a$b$ [31m.png", f"7@0.7: {kept} of 49 patches", "kept to the end"} <= written
    assert {f"dropped in block {block} of 12" for block in (4, 7, 10)} <= written
    for row in ([], rows * MOST_ROWS):
        with pytest.raises(InputError, match=f"do not fit in a figure; draw 1 to {MOST_ROWS}"):
            draw_dropped(row, ["x"] * len(row), 12, [tmp_path / "x.png"])


def test_runtimes_without_a_trace_are_refused():
    with pytest.raises(InputError, match="onnx_runtime does not tell which patches it drops, PyTorch's runtimes alone do"):
        look(plain_runtime(a_runtime(), name="onnx_runtime"), torch.rand(1, 3, 28, 28), [CUT])


def test_bars_show_the_cheapest_and_the_dearest_point_with_the_change_of_accuracy(tmp_path):
    rows = [
        Comparison(runtime, precision, point, 1.0, speedup, 70.0, change, 99.0)
        for runtime, precision, speedup, change in (("eager", "float32", 1.0, 0.0), ("openvino", "int8", 3.456, -0.42))
        for point in (CUT, Complexity(5), SEVEN)
    ]
    draw_runtimes(rows, picture_files(tmp_path, "runtimes"))
    written = texts(tmp_path, "runtimes")
    assert {"eager float32", "openvino int8", "4@0.5", "7"} <= set(written)
    assert "5" not in written[written.index("operating point") :]
    assert written.count("3.46×, -0.42 points") == 2
