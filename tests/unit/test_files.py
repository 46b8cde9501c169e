import os
import stat
from concurrent.futures import ThreadPoolExecutor

import pytest

import supervit
from supervit import Complexity, SuperViT
from supervit.cascade import Ladder
from supervit.checkpoints import is_ours
from supervit.data import SourceConfig, open_dataset
from supervit.errors import InputError, SuperViTError, printable
from supervit.export import check_export
from supervit.files import (
    file_digest,
    make_directory,
    read_bounded,
    read_json,
    read_json_lines,
    read_object,
    refusing,
    whole_file,
    write_json,
    write_text,
)
from supervit.runtimes import open_artefact
from supervit.train.config_file import read_config
from supervit.train.log import RunLog
from tests.conftest import small_config
from tests.data_sets import BUILDERS


@pytest.mark.parametrize(
    "content, reason",
    [
        (b"{", "not JSON"),
        (b"\xff\xfe{}", "not JSON"),
        (b"[" * 100_000, "nested too deep"),
        (b'{"a":' * 100_000, "nested too deep"),
        (b'{"a": NaN}', "NaN is no number in JSON"),
        (b'{"a": -Infinity}', "-Infinity is no number"),
        (b'{"a": 1e999}', "1e999 is beyond all numbers"),
        (b'{"a": ' + b"9" * 10_000 + b"}", "not JSON"),
        (b"[]", "no JSON object"),
    ],
)
def test_json_from_strangers_is_refused_in_one_short_line(tmp_path, content, reason):
    (tmp_path / "file.json").write_bytes(content)
    with pytest.raises(InputError, match=reason) as error, refusing("it is no table", "write one"):
        read_object(tmp_path / "file.json")
    assert len(str(error.value)) < 300


def test_a_json_file_of_gigabytes_is_not_read(tmp_path):
    with (tmp_path / "file.json").open("wb") as file:
        file.truncate(2**31)
    with pytest.raises(InputError, match="larger than the 64 MiB"):
        read_json(tmp_path / "file.json")


READERS = {
    "log.jsonl": lambda path: RunLog(path.parent),
    "run.yaml": read_config,
    "run.json": read_config,
    "file.json": read_json,
    "lines.jsonl": read_json_lines,
    "small": read_bounded,
    "weights": file_digest,
}


@pytest.mark.parametrize("name, read", READERS.items(), ids=READERS)
@pytest.mark.parametrize("kind", ["pipe", "device", "folder"])
def test_what_is_no_ordinary_file_is_not_waited_for(tmp_path, kind, name, read):
    path = tmp_path / name
    {"pipe": os.mkfifo, "device": lambda path: path.symlink_to("/dev/zero"), "folder": type(path).mkdir}[kind](path)
    with pytest.raises(InputError, match="no ordinary file|is a folder"):
        read(path)


def open_source(name, root):
    return open_dataset(SourceConfig(name, root), "val", small_config())


@pytest.mark.parametrize("name", ["a\0b", "\ud800", "x" * 300])
def test_names_that_no_file_can_have_are_refused_in_one_line(tmp_path, name):
    ladder = Ladder((Complexity.of("4"), Complexity.of("7")), (0.5,), model="x")
    for use in (
        *(lambda path, read=read: read(path) for read in (read_json, read_bounded)),
        supervit.load,
        SuperViT.from_pretrained,
        is_ours,
        *(lambda path, source=source: open_source(source, path) for source in BUILDERS),
        open_artefact,
        make_directory,
        lambda path: make_directory(path / "below"),
        lambda path: write_text(path, ""),
        lambda path: ladder.save(path / "ladder.json"),
        lambda path: check_export("torch_export", "float32", ["4"], path),
        lambda path: SuperViT(small_config()).save(path),
    ):
        with pytest.raises(InputError) as error:
            use(tmp_path / name)
        assert str(error.value).isprintable()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["x" * 255, "é" * 127, "日" * 85])
def test_the_longest_names_can_be_written(tmp_path, name):
    write_text(tmp_path / name, "")
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_what_is_written_can_be_read_and_has_no_nan(tmp_path):
    write_json(tmp_path / "file.json", {"a": [1, 2.5, None]})
    assert read_json(tmp_path / "file.json") == {"a": [1, 2.5, None]}
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "file.json", float("nan"))
    assert read_json(tmp_path / "file.json") == {"a": [1, 2.5, None]}


@pytest.mark.parametrize("mask, rights", [(0o022, 0o644), (0o002, 0o664), (0o077, 0o600)])
def test_files_have_the_rights_of_the_umask_whatever_writes_them(tmp_path, mask, rights):
    def private(path):
        path.unlink()
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600))

    before = os.umask(mask)
    try:
        write_text(tmp_path / "text", "")
        with whole_file(tmp_path / "weights") as temporary:
            private(temporary)
    finally:
        os.umask(before)
    assert [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("text", "weights")] == [rights] * 2


def test_a_writer_that_fails_leaves_the_old_content_and_nothing_else(tmp_path):
    write_text(tmp_path / "file", "old")

    def write_half():
        with whole_file(tmp_path / "file") as temporary:
            temporary.write_text("new")
            raise OSError(28, "No space left on device")

    with pytest.raises(InputError, match=r"cannot write .*No space left.*; make room"):
        write_half()
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_text() == "old"


def test_messages_are_one_short_line_that_no_terminal_obeys():
    error = SuperViTError("\x1b[31mred\x1b[0m\nline " + "x" * 10_000 + "; the fix")
    assert str(error).startswith("[31mred [0m line xxx")
    assert str(error).endswith("; the fix")
    assert len(str(error)) <= 600
    assert printable("a\u202eb\x07") == "a b"


def test_many_threads_may_write_one_file(tmp_path):
    def write(number):
        for _ in range(20):
            write_json(make_directory(tmp_path) / "file.json", {"writer": number})

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(8)))
    assert read_object(tmp_path / "file.json")["writer"] in range(8)
    assert [path.name for path in tmp_path.iterdir()] == ["file.json"]
