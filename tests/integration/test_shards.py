"""What WebDataset's shards make of layouts and faults that are their own."""

import contextlib
import json
import os
import resource
import tarfile

import pytest
from PIL import Image

from supervit import InputError
from supervit.data import (
    DataConfig,
    SourceConfig,
    open_dataset,
    webdataset,
)
from tests.conftest import small_config
from tests.data_sets import (
    CLASSES,
    damage_of,
    encode,
    noise,
    write_file,
    write_shard,
    write_shards,
)


def shards_config(root, **options) -> SourceConfig:
    return SourceConfig("webdataset", root, **options)


def test_shards_may_lie_beside_each_other_with_the_split_in_their_name(tmp_path):
    write_shards(tmp_path, "train", [3, 2])
    for shard in (tmp_path / "train").iterdir():
        shard.rename(tmp_path / f"train-{shard.name}")
    assert len(webdataset.open_split(shards_config(tmp_path), "train")) == 5
    with pytest.raises(InputError, match=r"no shards val/\*\.tar nor val-\*\.tar"):
        webdataset.open_split(shards_config(tmp_path), "val")


def test_sizes_are_taken_from_the_list_beside_the_shards(tmp_path):
    sidecar = write_shards(tmp_path, "val", [3, 2]) / "val/sizes.json"
    sidecar.write_text(json.dumps({"000.tar": 30, "001.tar": 20, "other.tar": 1}))
    assert len(webdataset.open_split(shards_config(tmp_path), "val")) == 50
    odd = ('"many"', "10000000000000000000000000000000", "-1", "true", "4.5")
    for text in ('{"000.tar": 30}', *(f'{{"000.tar": 30, "001.tar": {size}}}' for size in odd), "[1, 2]", "no json"):
        sidecar.write_text(text)
        with pytest.raises(InputError, match=r"sizes\.json' must give the samples of each shard, such as \{'000\.tar': 1000\}"):
            webdataset.open_split(shards_config(tmp_path), "val")


def test_counting_groups_members_as_reading_does(tmp_path):
    write_file(tmp_path / "classes.txt", b"cat\ndog\n")
    image = encode(noise(0))
    members = ["__meta__/a.json", "__index__", "a/1.png", "a/1.cls", "a/1.seg.png", "b/1.png", "b/1.cls", "README", "2.5.png"]
    write_shard(tmp_path / "val/0.tar", [(name, b"0" if name.endswith(".cls") else image) for name in members])
    source = webdataset.open_split(shards_config(tmp_path), "val")
    assert [source.name_of(record) for record in source.records(0, 1)] == ["0.tar/a/1", "0.tar/b/1", "0.tar/2"]
    assert len(source) == 3


def test_class_names_come_from_a_list(tmp_path):
    write_shards(tmp_path, "val", [3])
    (tmp_path / "classes.txt").rename(tmp_path / "names.txt")
    assert webdataset.open_split(shards_config(tmp_path, class_list=tmp_path / "names.txt"), "val").classes == CLASSES
    with pytest.raises(InputError, match=r"cannot read class_list .*classes\.txt"):
        webdataset.open_split(shards_config(tmp_path), "val")


def test_a_class_without_a_name_is_refused(tmp_path):
    write_shards(tmp_path, "val", [3])
    (tmp_path / "classes.txt").write_text("cat\n")
    with pytest.raises(InputError, match=r"'000\.tar/0001' is of class 1, but 1 classes are listed"):
        damage_of(shards_config(tmp_path))


@pytest.mark.parametrize("workers", [0, 2])
def test_samples_without_an_image_or_a_class_are_damaged(tmp_path, workers):
    write_file(tmp_path / "classes.txt", b"cat\ndog\n")
    image = encode(noise(0), "jpeg")
    members = {"good.JPG": image, "good.cls": b"1\n", "no_image.txt": b"?", "no_image.cls": b"1", "no_class.jpg": image}
    members |= {"bad_class.jpg": image, "bad_class.cls": b"dog", "torn.jpg": b"?", "torn.cls": b"0"}
    write_shard(tmp_path / "val/0.tar", members.items())
    assert damage_of(shards_config(tmp_path), workers=workers) == {
        "0.tar/no_image": "no image among its members (txt, cls)",
        "0.tar/no_class": "no class index in .cls: None",
        "0.tar/bad_class": "no class index in .cls: b'dog'",
        "0.tar/torn": "not an image of a known format",
    }


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("is_counted", [False, True])
def test_a_truncated_shard_is_named(tmp_path, workers, is_counted):
    shard = write_shards(tmp_path, "val", [3, 4]) / "val/001.tar"
    if is_counted:
        write_file(tmp_path / "val/sizes.json", b'{"000.tar": 3, "001.tar": 4}')
    shard.write_bytes(shard.read_bytes()[:4000])
    with pytest.raises(
        InputError, match=r"^cannot read the shard '.*/val/001\.tar' \(unexpected end of data\); write it anew$"
    ):
        damage_of(shards_config(tmp_path), workers=workers)


def test_a_shard_that_is_no_tar_file_is_named(tmp_path):
    write_file(write_shards(tmp_path, "val", [3]) / "val/001.tar", b"?" * 2000)
    with pytest.raises(InputError, match=r"cannot read the shard '.*/val/001\.tar'"):
        webdataset.open_split(shards_config(tmp_path), "val")


def test_a_stream_cannot_be_limited(tmp_path):
    config = DataConfig("webdataset", write_shards(tmp_path, "train", [3]), limit=2)
    with pytest.raises(InputError, match="limit 2 is not available for a stream"):
        open_dataset(config, "train", small_config(), augmentation=config)


def test_a_sample_of_several_images_is_refused_unless_one_is_named(tmp_path):
    write_file(tmp_path / "classes.txt", b"cat\ndog\n")
    mask, picture = encode(Image.new("L", (8, 8))), encode(Image.new("RGB", (30, 20), "red"), "jpeg")
    members = {"0.png": mask, "0.JPG": picture, "0.cls": b"1", "1.png": mask, "1.cls": b"1"}
    write_shard(tmp_path / "val/0.tar", members.items())
    for workers in (0, 1):
        with pytest.raises(InputError, match=r"'0\.tar/0' has several images \(png, jpg\).*--data\.image-member jpg"):
            damage_of(shards_config(tmp_path), workers=workers)
    for member in ("jpg", ".JPG"):
        source = webdataset.open_split(shards_config(tmp_path, image_member=member), "val")
        assert source.read(next(source.records(0, 1)))[0].size == (30, 20)
        assert damage_of(shards_config(tmp_path, image_member=member)) == {"0.tar/1": "no image among its members (png, cls)"}
    assert damage_of(shards_config(tmp_path, image_member="png")) == {}


def raw_header(name=b"0.png", size=0, kind=b"0", **fields) -> bytes:
    header = tarfile.TarInfo(name.decode())
    header.size, header.type = size, kind
    for field, value in fields.items():
        setattr(header, field, value)
    return header.tobuf(tarfile.GNU_FORMAT)


TARS = {
    "a member that claims 10 GB": raw_header(size=10 * 2**30) + bytes(2048),
    "a long name that claims 2 GB": raw_header(b"././@LongLink", 2**31, tarfile.GNUTYPE_LONGNAME) + bytes(2048),
    "a PAX header that claims 2 GB": raw_header(b"pax", 2**31, tarfile.XHDTYPE) + bytes(2048),
    "a PAX header of 8 MB": raw_header(b"pax", 2**23, tarfile.XGLTYPE)
    + b"30 comment=aaaaaaaaaaaaaaaaaa\n" * 2**18
    + bytes(2**20),
    "PAX headers in a row": raw_header(b"pax", 12, tarfile.XHDTYPE) * 3000 + bytes(2048),
    "long names in a row": (raw_header(b"././@LongLink", 1, tarfile.GNUTYPE_LONGNAME) + bytes(512)) * 3000 + bytes(2048),
    "a sparse member": raw_header(b"0.png", 512, tarfile.GNUTYPE_SPARSE) + bytes(4096),
    "a negative size": raw_header().replace(b"00000000000\0", b"\xff" * 12, 1) + bytes(2048),
    "bytes of no tar": b"\x1f\x8b" + bytes(4000),
}


@pytest.mark.parametrize("content", TARS.values(), ids=TARS)
@pytest.mark.parametrize("is_counted", [False, True])
def test_shards_that_claim_what_they_have_not_take_no_memory(tmp_path, content, is_counted):
    write_shards(tmp_path, "val", [2])
    write_file(tmp_path / "val/001.tar", content)
    if is_counted:
        write_file(tmp_path / "val/sizes.json", b'{"000.tar": 2, "001.tar": 1}')
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with contextlib.suppress(InputError):
        damage_of(shards_config(tmp_path))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 * 1024


def test_members_with_tricks_in_their_names_are_read_and_never_unpacked(tmp_path):
    write_file(tmp_path / "classes.txt", b"cat\ndog\n")
    image = encode(noise(0))
    names = ["../../up", "/abs/olute", "./here", "a\x1b[31mred"]
    write_shard(
        tmp_path / "val/0.tar", [(f"{name}{suffix}", c) for name in names for suffix, c in ((".png", image), (".cls", b"0"))]
    )
    before = sorted(tmp_path.rglob("*"))
    source = webdataset.open_split(shards_config(tmp_path), "val")
    assert len(list(source.records(0, 1))) == len(source) == 4
    assert damage_of(shards_config(tmp_path)) == {}
    assert sorted(tmp_path.rglob("*")) == before


def test_links_and_folders_in_a_shard_are_passed_over(tmp_path):
    write_file(tmp_path / "classes.txt", b"cat\ndog\n")
    path = write_shard(tmp_path / "val/0.tar", [("0.png", encode(noise(0))), ("0.cls", b"0")])
    with tarfile.open(path, "a") as tar:
        for name, kind in (
            ("1.png", tarfile.SYMTYPE),
            ("2.png", tarfile.LNKTYPE),
            ("3.png", tarfile.DIRTYPE),
            ("4.png", tarfile.FIFOTYPE),
        ):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, "/etc/passwd"
            tar.addfile(member)
    assert len(webdataset.open_split(shards_config(tmp_path), "val")) == 1
    assert damage_of(shards_config(tmp_path)) == {}


def test_pipes_are_no_shards_and_no_lists(tmp_path):
    write_shards(tmp_path, "val", [2])
    os.mkfifo(tmp_path / "val/001.tar")
    with pytest.raises(InputError, match=r"cannot read the shard '.*001\.tar' \(no regular file\)"):
        webdataset.open_split(shards_config(tmp_path), "val")
    (tmp_path / "val/001.tar").unlink()
    (tmp_path / "classes.txt").unlink()
    os.mkfifo(tmp_path / "classes.txt")
    with pytest.raises(InputError, match="cannot read class_list .*no regular file"):
        webdataset.open_split(shards_config(tmp_path), "val")
