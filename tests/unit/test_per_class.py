"""Counts per class: exact, also of several processes, and small also for very many classes."""

import csv

import pytest
import torch

from supervit import Complexity, SuperViT
from supervit.distributed import World
from supervit.evaluate import Accuracy, evaluate, standard_error
from supervit.per_class import ClassCounts, write_per_class
from supervit.report import aligned_table
from tests.conftest import small_config, trained_like

POINTS = [Complexity(4, 0.5), Complexity(7)]


def counted(pairs, point=POINTS[0]):
    counts = ClassCounts()
    labels, answers = torch.tensor(pairs).T
    counts.add(point, labels, answers)
    return counts


def test_the_counts_are_those_of_the_answers(model):
    data = [(torch.randn(5, 3, 28, 28), torch.randint(0, 5, (5,))) for _ in range(3)]
    counts = ClassCounts()
    accuracies = evaluate(model, data, POINTS, on_answers=counts.add)
    for point in POINTS:
        matrix = torch.tensor(counts.matrix(point, 5))
        expected = torch.zeros(5, 5, dtype=torch.long)
        with torch.no_grad():
            for images, labels in data:
                for label, answer in zip(labels, model(images, point).argmax(1), strict=True):
                    expected[label, answer] += 1
        assert torch.equal(matrix, expected)
        assert 100 * matrix.trace() / 15 == pytest.approx(accuracies[point].top1)


def test_the_table_of_classes_says_how_good_and_what_instead():
    counts = counted([(0, 0), (0, 0), (0, 1), (0, 2), (0, 2), (2, 2)])
    cat, dog, eel = counts.per_class(POINTS[0], ["cat", "dog", "eel"])
    assert (cat.images, cat.right, cat.top1, cat.mistake, cat.mistaken) == (5, 2, 40.0, "eel", 2)
    assert cat.standard_error == pytest.approx(100 * (0.4 * 0.6 / 5) ** 0.5)
    assert (dog.images, dog.top1, dog.standard_error, dog.mistake) == (0, None, None, None)
    assert (eel.top1, eel.standard_error, eel.mistake) == (100.0, 0.0, None)


def test_processes_count_together(monkeypatch):
    parts = [counted([(0, 1), (1, 1)]), counted([(0, 1), (2, 0)])]
    monkeypatch.setattr(World, "gather", lambda self, value: [part.pairs for part in parts])
    whole = parts[0].total(World(0, 2))
    assert whole.matrix(POINTS[0], 3) == [[0, 2, 0], [0, 1, 0], [1, 0, 0]]
    assert parts[0].matrix(POINTS[0], 3) == [[0, 1, 0], [0, 1, 0], [0, 0, 0]]


def read(file):
    with file.open(newline="") as opened:
        return list(csv.reader(opened))


def test_files_hold_every_point_and_names_of_all_kinds(tmp_path):
    pytest.importorskip("matplotlib")
    names = ["cat, tabby", 'a"b', "$x$"]
    counts = counted([(0, 0), (0, 2), (1, 1)])
    counts.add(POINTS[1], torch.tensor([2, 2]), torch.tensor([2, 0]))
    written = write_per_class(counts, names, POINTS[1], tmp_path)
    assert written == ["classes.csv", "classes.md", "confusion/", "confusion.{png,svg,pdf}"]
    header, *rows = read(tmp_path / "classes.csv")
    assert header == [
        "complexity", "class", "images", "top1", "top1_standard_error", "most_frequent_mistake", "mistaken_images",
    ]  # fmt: skip
    assert [row[:3] for row in rows] == [
        [str(p), n, i] for p, of in zip(POINTS, ("210", "002"), strict=True) for n, i in zip(names, of, strict=True)
    ]
    assert rows[0][3:] == ["50.0", str(standard_error(50.0, 2)), "$x$", "1"]
    assert read(tmp_path / "confusion/4@0.5.csv") == [
        ["class", *names],
        [names[0], "1", "0", "1"],
        [names[1], "0", "1", "0"],
        [names[2], "0", "0", "0"],
    ]
    assert "cat, tabby" in (tmp_path / "confusion.svg").read_text()
    assert (tmp_path / "classes.md").read_text().splitlines()[2].startswith("| $x$   | 50.00 ± 35.36 |      2 | cat, tabby")


@pytest.mark.parametrize(("classes", "has_matrix"), [(51, True), (20_000, False)])
def test_many_classes_take_neither_memory_nor_pictures(tmp_path, classes, has_matrix):
    counts = counted([(index % classes, (7 * index) % classes) for index in range(30_000)])
    assert sum(map(len, counts.pairs.values())) <= 30_000
    written = write_per_class(counts, [str(index) for index in range(classes)], POINTS[0], tmp_path)
    assert written == ["classes.csv", "classes.md", *(["confusion/"] if has_matrix else [])]
    assert len(read(tmp_path / "classes.csv")) == classes + 1


def test_a_standard_error_is_that_of_a_share():
    assert Accuracy(75.0, 90.0, 300).standard_error == standard_error(75.0, 300) == pytest.approx(2.5)
    assert standard_error(100.0, 10) == standard_error(0.0, 10) == 0.0


def test_text_is_aligned_left_and_numbers_right():
    table = aligned_table(
        [
            ["image", "top-1 %", "MACs", "change"],
            ["cat.jpg", "71.25 ± 1.43", "1,234", "+0.2"],
            ["b", "8.00 ± 1.00", "", "-10.0"],
        ]
    )
    assert table.splitlines() == [
        "| image   |      top-1 % |  MACs | change |",
        "|:--------|-------------:|------:|-------:|",
        "| cat.jpg | 71.25 ± 1.43 | 1,234 |   +0.2 |",
        "| b       |  8.00 ± 1.00 |       |  -10.0 |",
    ]


def test_names_of_all_kinds_stay_in_their_cell():
    table = aligned_table([["image"], ["a\nb\x1b[31m"], ["a|b"], ["\u732b\u732b"], [""]])
    assert table.splitlines()[2:] == ["| a b [31m |", "| a\\|b     |", "| \u732b\u732b     |", "|          |"]


def test_a_model_is_evaluated_as_before_without_counts():
    model = trained_like(SuperViT(small_config())).eval()
    data = [(torch.randn(4, 3, 28, 28), torch.tensor([0, 1, 2, 3]))]
    counts = ClassCounts()
    assert evaluate(model, data, POINTS) == evaluate(model, data, POINTS, on_answers=counts.add)
