"""What image folders and class lists make of odd files, links and bytes."""

import pytest

from supervit import InputError
from supervit.data import (
    SourceConfig,
    image_folder,
)
from tests.data_sets import (
    CLASSES,
    COUNTS,
    encode,
    noise,
    write_file,
    write_folder,
)


@pytest.mark.parametrize(
    "content, message",
    [
        (b"cat\n\xff\xfe\n", "must be text in UTF-8"),
        (b"cat\ndo\x1bg\n", "cannot be printed"),
        (b"cat\ndo\0g\n", "cannot be printed"),
        (b"x" * (2**24 + 1), "larger than 16 MiB"),
    ],
)
def test_class_lists_of_odd_bytes_are_refused(tmp_path, content, message):
    write_folder(tmp_path)
    config = SourceConfig("image_folder", tmp_path, class_list=write_file(tmp_path / "classes.txt", content))
    with pytest.raises(InputError, match=message) as error:
        image_folder.open_split(config, "val")
    assert "\x1b" not in str(error.value)
    write_file(tmp_path / "classes.txt", b"\xef\xbb\xbfcat\r\ndog\r\n")
    assert image_folder.open_split(config, "val").classes == CLASSES


def test_what_is_not_named_as_an_image_is_counted_and_named(tmp_path, caplog):
    write_folder(tmp_path)
    for name in ("a.HEIC", "b.heic", "notes.txt", ".hidden.heic", "._c.png"):
        write_file(tmp_path / "val/cat" / name, b"?")
    write_file(tmp_path / "val/dog/d.jp2", encode(noise(3), "jpeg2000"))
    assert len(image_folder.open_split(SourceConfig("image_folder", tmp_path), "val")) == COUNTS["val"] + 1
    assert [record.message.partition("; images are")[0] for record in caplog.records] == [
        f"skipped 3 files in {str(tmp_path / 'val')!r} that are not named as images are (2 .heic, 1 .txt), such as 'cat/a.HEIC'"
    ]


def test_links_are_followed_but_not_in_circles(tmp_path):
    write_folder(tmp_path / "data")
    (tmp_path / "more").mkdir()
    write_file(tmp_path / "more/9.png", encode(noise(9)))
    (tmp_path / "data/val/cat/more").symlink_to(tmp_path / "more")
    (tmp_path / "data/val/cat/loop").symlink_to(tmp_path / "data/val/cat")
    source = image_folder.open_split(SourceConfig("image_folder", tmp_path / "data"), "val")
    assert [source.name_of(index) for index in range(len(source))] == [
        "cat/0.png", "cat/2.png", "cat/more/9.png", "dog/1.png", "dog/3.png",
    ]  # fmt: skip


def test_folders_that_link_to_each_other_end_and_give_each_way_down_once(tmp_path):
    write_folder(tmp_path)
    for here, there in (("cat", "dog"), ("dog", "cat")):
        for name in ("one", "two"):
            (tmp_path / "val" / here / name).symlink_to(tmp_path / "val" / there)
    assert 4 <= len(image_folder.open_split(SourceConfig("image_folder", tmp_path), "val")) < 20
