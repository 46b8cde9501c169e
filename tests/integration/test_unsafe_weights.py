"""Weights and configs made to hurt: one line says what is wrong, nothing is executed, no memory is asked for."""

import collections
import io
import json
import pickle
import resource
import struct
import tarfile
import zipfile

import pytest
import torch
from safetensors.torch import save, save_file

import supervit
from supervit import InputError, SuperViT
from supervit.checkpoints import read_state_dict
from supervit.token_labels import read_label_map
from tests.conftest import small_config

HEADS = {"num_heads": 3, "mean": (0.5,) * 3, "std": (0.5,) * 3, "crop_pct": 1.0}


@pytest.fixture
def weights():
    return SuperViT(small_config()).state_dict()


@pytest.fixture(autouse=True)
def _bounded_memory():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300 * 1024  # KiB


def directory_of(weights, path):
    SuperViT(small_config()).save(path)
    save_file({key: value.contiguous() for key, value in weights.items()}, path / "model.safetensors")
    return path


def pickled(content, path, *, is_zip=True, read=supervit.load, **options):
    torch.save(content, path / "w.pth", _use_new_zipfile_serialization=is_zip)
    return read(path / "w.pth", **options)


def as_safetensors(weights, path):
    save_file(weights, path / "w.safetensors")
    return supervit.load(path / "w.safetensors", **HEADS)


READERS = {
    "pickle": lambda weights, path: pickled(weights, path, **HEADS),
    "legacy pickle": lambda weights, path: pickled(weights, path, is_zip=False, **HEADS),
    "container": lambda weights, path: pickled({"model": weights}, path, **HEADS),
    "safetensors": as_safetensors,
    "directory": lambda weights, path: supervit.load(directory_of(weights, path)),
    "from_pretrained": lambda weights, path: SuperViT.from_pretrained(directory_of(weights, path)),
    "teacher": lambda weights, path: pickled(weights, path, read=read_state_dict),
}


@pytest.mark.parametrize("reader", READERS.values(), ids=READERS)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_weights_that_are_not_finite_are_refused_by_name(weights, tmp_path, reader, value, dtype):
    weights["blocks.3.norm1.weight"] = torch.ones(24, dtype=dtype)
    weights["blocks.3.norm1.weight"][5] = value
    with pytest.raises(InputError, match=r"blocks\.3\.norm1\.weight holds values that are not finite"):
        reader(weights, tmp_path)


def test_numbers_beyond_float32_are_not_finite(weights, tmp_path):
    weights["norm.bias"] = torch.full((24,), 1e300, dtype=torch.float64)
    with pytest.raises(InputError, match=r"norm\.bias holds values that are not finite"):
        READERS["safetensors"](weights, tmp_path)


@pytest.mark.parametrize("reader", [READERS["pickle"], READERS["directory"]])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_floating_point_weights_become_float32(weights, tmp_path, reader, dtype):
    model = reader({key: value.to(dtype) for key, value in weights.items()}, tmp_path)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


@pytest.mark.parametrize("reader", [READERS["pickle"], READERS["safetensors"], READERS["directory"]])
@pytest.mark.parametrize("dtype", [torch.int32, torch.int64, torch.uint8, torch.bool, torch.complex64, torch.float8_e4m3fn])
def test_weights_of_other_kinds_of_numbers_are_refused_by_name(weights, tmp_path, reader, dtype):
    weights["norm.bias"] = weights["norm.bias"].to(dtype)
    with pytest.raises(InputError, match=rf"norm\.bias .*{dtype}"):
        reader(weights, tmp_path)


@pytest.mark.parametrize(
    "make",
    [
        lambda value: value.to_sparse(),
        lambda value: value.to_sparse_csr(),
        lambda value: value.to("meta"),
        lambda value: torch.quantize_per_tensor(value, 0.1, 0, torch.qint8),
        lambda value: torch.nested.nested_tensor([value[0], value[1]]),
        lambda value: torch.zeros(1).expand(10**6, 10**6),
        lambda value: torch.zeros(1).expand(5, 24),
        lambda value: torch.zeros(30).as_strided((5, 24), (1, 1)),
        lambda value: torch.zeros(1).expand(2**62),
    ],
    ids=["sparse", "csr", "meta", "quantised", "nested", "stride 0, absurd", "stride 0", "overlapping", "2^62"],
)
@pytest.mark.parametrize("form", ["pickle", "legacy pickle", "teacher"])
@pytest.mark.filterwarnings("ignore")
def test_tensors_that_are_not_dense_values_of_the_file_are_refused_by_name(weights, tmp_path, make, form):
    weights["head.weight"] = make(weights["head.weight"])
    with pytest.raises(
        InputError, match=r"head\.weight .*(not a dense tensor|more values than the file holds)|damaged or not safe"
    ):
        READERS[form](weights, tmp_path)


def test_many_tensors_of_the_same_values_are_refused(weights, tmp_path):
    same = torch.zeros(2**20)
    with pytest.raises(InputError, match="MiB and more, the file has not"):
        READERS["pickle"]({**weights, **{f"blocks.{i}.x": same for i in range(2000)}}, tmp_path)


@pytest.mark.parametrize(
    "content",
    [
        torch.zeros(3),
        torch.zeros(()),
        torch.zeros(0),
        [torch.zeros(3)],
        {},
        {1: torch.zeros(3)},
        None,
    ],
    ids=str,
)
@pytest.mark.parametrize("read", [supervit.load, read_state_dict, lambda path: read_label_map(path, 10)])
def test_a_pickle_of_anything_but_tensors_by_name_holds_no_weights(content, tmp_path, read):
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(InputError, match=r"holds no weights|w\.pth.* holds (a |torch)"):
        read(tmp_path / "w.pth")


class Called:
    """Calls what the unpickler of torch admits or not, when it is loaded."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


@pytest.mark.parametrize("is_zip", [True, False])
@pytest.mark.parametrize(
    "beside, message",
    [
        (Called(eval, "1 + 1"), "it holds eval, which is no tensor and might run code"),
        (Called(print, "x"), "it holds print"),
        (collections.defaultdict(list), r"it holds collections\.defaultdict"),
        (torch.nn.Linear(2, 2), r"it holds torch\.nn\.modules\.linear\.Linear"),
        (Called(bytearray, 10**10), "it holds a bytearray"),
        (Called(torch.Tensor, 60_000, 60_000), "holds no weights|MiB and more"),
    ],
)
def test_other_classes_are_named_and_nothing_of_them_is_made(weights, tmp_path, beside, message, is_zip):
    path = tmp_path / "weights.pth"
    torch.save({**weights, "beside": beside}, path, _use_new_zipfile_serialization=is_zip)
    for read in (lambda: supervit.load(path, **HEADS), lambda: read_label_map(path, 10), lambda: read_state_dict(path)):
        with pytest.raises(InputError, match=f"{message}|holds a dict") as error:
            read()
        assert "weights_only" not in str(error.value)
        assert len(str(error.value)) <= 600


def damaged_files(weights, path):
    """Files of all kinds that are not weights, by what they are."""
    path.mkdir()
    torch.save(weights, path / "good.pth")
    with zipfile.ZipFile(path / "good.pth") as good, zipfile.ZipFile(path / "bomb.pth", "w", zipfile.ZIP_DEFLATED) as bomb:
        for name in good.namelist():
            bomb.writestr(name, good.read(name))
        bomb.writestr("good/data/999", b"\0" * 2 * 10**7)
    with tarfile.open(path / "oldest.tar", "w") as archive:
        for name in ("storages", "tensors", "pickle"):
            archive.addfile(tarfile.TarInfo(name), io.BytesIO())
    (path / "plain.pkl").write_bytes(pickle.dumps({"a": 1}))
    torch.jit.save(torch.jit.trace(torch.nn.Linear(2, 2), torch.zeros(1, 2)), str(path / "script.pt"))
    (path / "text.bin").write_text("<html>not found</html>")
    whole = (path / "good.pth").read_bytes()
    (path / "cut.pth").write_bytes(whole[:-100])
    (path / "lying.pth").write_bytes(whole.replace(b"K\x18", b"K\xff"))  # dimensions that the storages have not
    (path / "empty.pth").write_bytes(b"")
    (path / "good.pth").unlink()
    return sorted(path.iterdir())


@pytest.mark.filterwarnings("ignore")
def test_files_that_are_no_weights_are_refused_in_one_line_without_advice(weights, tmp_path):
    for path in damaged_files(weights, tmp_path / "files"):
        for read in (lambda path=path: supervit.load(path, **HEADS), lambda path=path: read_label_map(path, 10)):
            with pytest.raises(InputError) as error:
                read()
            assert "weights_only" not in str(error.value)
            assert "()" not in str(error.value), path


def safetensors_file(header, data=b"\0" * 64):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


F32 = {"dtype": "F32", "shape": [16], "data_offsets": [0, 64]}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\0" * 7,
        struct.pack("<Q", 2**60) + b"{}",
        struct.pack("<Q", 2**63 + 5) + b"{}",
        safetensors_file({"a": F32, "b": F32}),
        safetensors_file({"a": F32 | {"dtype": "F64"}}),
        safetensors_file({"a": F32 | {"dtype": "F6_E2M3"}}),
        safetensors_file({"a": F32 | {"dtype": "X"}}),
        safetensors_file({"a": F32 | {"shape": [-16]}}),
        safetensors_file({"a": F32 | {"shape": [2**40, 2**40]}}),
        safetensors_file({"a": F32 | {"data_offsets": [0, 2**62]}}),
        safetensors_file(b"[" * 100_000),
        safetensors_file(b"\xff\xfe"),
        safetensors_file(b" " * 5 * 2**20 + b"{}"),
    ],
)
def test_absurd_safetensors_are_refused(tmp_path, content):
    (tmp_path / "w.safetensors").write_bytes(content)
    with pytest.raises(InputError, match="cannot be read as safetensors"):
        supervit.load(tmp_path / "w.safetensors", **HEADS)


def test_shapes_and_names_that_no_vit_has_are_refused(weights, tmp_path):
    shapes = [
        torch.zeros(shape) for shape in ((), (24,), (0, 3, 4, 4), (24, 3, 4, 2), (24, 3, 0, 0), (24, 0, 4, 4), (1, 1, 1, 1, 1))
    ]
    bare = {key: value for key, value in weights.items() if not key.startswith("pos_embeds.")}
    bare["pos_embed"] = weights["pos_embeds.7"]
    keys = (
        "patch_embed.proj.weight",
        "blocks.0.mlp.fc1.weight",
        "head.weight",
        "pos_embed",
        "cls_token",
        "blocks.1.attn.qkv.bias",
    )
    names = ("blocks.x.y", "blocks.", "blocks.-1.x", "blocks.99999999.x", "pos_embeds.abc", "pos_embeds.", "pos_embed_list.")
    changes = [{key: value} for key in keys for value in shapes if value.shape != bare[key].shape]
    changes += [{name: torch.zeros(1)} for name in (*names, *(f"{name}0" for name in names))]
    path = tmp_path / "w.safetensors"
    for change in changes:
        save_file(bare | change, path)
        with pytest.raises(InputError):
            supervit.load(path, **HEADS)
    path.write_bytes(save({f"blocks.{i}.x": torch.zeros(1) for i in range(3000)} | bare))
    with pytest.raises(InputError, match="depth 3000 must be at most 1000"):
        supervit.load(path, **HEADS)


ABSURD = {
    "depth": 10**9,
    "num_classes": 10**7,
    "embed_dim": 30_000,
    "num_heads": 10**9,
    "grid_sizes": [100_000],
    "keep_rates": [1.0] * 10**6,
    "patch_size": 10**6,
    "drop_blocks": list(range(10**6)),
    "mlp_ratio": 1e9,
    "in_chans": 10**12,
    "mean": [0.5] * 10**6,
    "class_names": ["x"] * 10**6,
    "std": [1e-300] * 3,
    "crop_pct": 1e-300,
    "norm_eps": 1e300,
    "residual_divisor": 1e-300,
    "family": "x" * 10_000,
    "reducer": "../os",
}


@pytest.mark.parametrize("name", ABSURD)
def test_absurd_configs_are_refused_before_anything_is_built(tmp_path, name):
    SuperViT(small_config()).save(tmp_path)
    values = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(values | {name: ABSURD[name]}))
    with pytest.raises(InputError):
        supervit.load(tmp_path)
    value = tuple(ABSURD[name]) if isinstance(ABSURD[name], list) else ABSURD[name]
    with pytest.raises(InputError):
        supervit.create_model("deit_tiny", **{name: value})


@pytest.mark.parametrize(
    "change",
    [
        {"depth": 900},
        {"num_classes": 190_000},
        {"embed_dim": 3000},
        {"grid_sizes": [1000]},
        {"in_chans": 900},
        {"mlp_ratio": 60.0},
    ],
)
def test_what_the_weights_do_not_fill_is_not_built(tmp_path, monkeypatch, change):
    SuperViT(small_config()).save(tmp_path)
    values = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(values | {"mean": [], "std": []} | change))
    monkeypatch.setattr(torch.nn.Module, "to_empty", lambda *_args, **_options: pytest.fail("memory was asked for"))
    with pytest.raises(InputError, match="do not fit the model"):
        supervit.load(tmp_path)


@pytest.mark.parametrize("value", [["a", "b", 3], [[4]], [None], [4.5], "4", {"4": 1}, [True]])
def test_what_is_no_number_inside_a_list_of_a_config_is_refused(tmp_path, value):
    SuperViT(small_config()).save(tmp_path)
    values = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(values | {"grid_sizes": value}))
    with pytest.raises(InputError, match="grid_sizes .* is not usable"):
        supervit.load(tmp_path)


def test_a_config_nested_too_deep_is_refused(tmp_path):
    SuperViT(small_config()).save(tmp_path)
    for opening in ("[", '{"a":'):
        (tmp_path / "config.json").write_text(opening * 200_000)
        with pytest.raises(InputError, match="nested too deep"):
            supervit.load(tmp_path)


def test_loading_draws_no_random_numbers_and_leaves_the_weights_of_the_file(tmp_path):
    model = SuperViT(small_config())
    model.save(tmp_path)
    before = torch.get_rng_state()
    loaded = supervit.load(tmp_path)
    assert torch.equal(torch.get_rng_state(), before)
    assert loaded.fingerprint() == model.fingerprint()
    assert all(parameter.requires_grad and not parameter.is_meta for parameter in loaded.parameters())
