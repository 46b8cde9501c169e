"""Weights from files of anybody: the one door for tensors, which executes nothing and holds no more than the file does.

Every reader comes through here: models, teachers, label maps, whatever was pickled or written as safetensors.
"""

import mmap
import re
import threading
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from supervit.errors import InputError, printable, reason_of
from supervit.files import check_regular, refusing

_MOST_HEADER_BYTES = 2 * 2**20  # of safetensors: a name and a shape take a hundred
_FLOATING = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_WHOLE = (torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
_SHARED = 2  # a file may name each of its values this often (tied weights)


class _Beside:
    """What stands in for things beside the weights that need not be known: arguments, NumPy scalars, paths."""

    def __init__(self, *_values: Any):
        pass

    def __setstate__(self, _state: Any) -> None:
        pass


_BESIDE = [
    (_Beside, name)
    for name in (
        "argparse.Namespace", "types.SimpleNamespace", "pathlib.Path", "pathlib.PosixPath", "pathlib.WindowsPath",
        "numpy.dtype", "numpy.ndarray",
        *(f"numpy.{core}.multiarray.{made}" for core in ("core", "_core") for made in ("scalar", "_reconstruct")),
    )
]  # fmt: skip
_lock = threading.Lock()  # what torch admits beside tensors is one list for all threads


def read_pickle(path: Path) -> Any:
    """What `torch.save` wrote. Nothing in the file is executed: tensors and plain values come back.

    Of other classes only some that often lie beside weights are let pass, as empty objects (`argparse.Namespace`, paths,
    NumPy scalars and arrays). Tensors still have to be seen by `check_tensors` before anything is done with them.

    Raises:
        InputError: the file is missing, damaged or compressed, or holds another class, which is named.
    """
    with refusing(f"{str(path)!r} is damaged or not safe to load", "re-save its weights as safetensors"):
        try:
            is_zip = _check_container(path)
            with _lock, torch.serialization.safe_globals(_BESIDE):  # type: ignore[arg-type]
                return torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip)
        except InputError:
            raise
        except Exception as error:  # an unpickler that is fed garbage raises nearly anything
            raise InputError(_reason(error)) from error


def _check_container(path: Path) -> bool:
    """Whether the file is a zip (the newer form); refuses what would be larger in memory than it is on the disk."""
    size = check_regular(path).stat().st_size
    if not size:
        raise InputError("it is empty")
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        if content.find(b"bytearray\n") >= 0:  # torch lets it pass, and it may ask for any length
            raise InputError("it holds a bytearray")
        if content[:4] != b"PK\x03\x04":
            return False
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
    if any(entry.filename.endswith("/constants.pkl") for entry in entries):
        raise InputError("it is a TorchScript program")
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries) or sum(entry.file_size for entry in entries) > size:
        raise InputError("it is a compressed zip, which torch.save does not write")
    return True


def _reason(error: Exception) -> str:
    """Why torch refuses a file, without its advice to read it unsafely."""
    text = str(error)
    if found := re.search(r"GLOBAL ([\w.]+)", text):
        return f"it holds {found[1]}, which is no tensor and might run code"
    if found := re.search(r"WeightsUnpickler error: (.+)", text):
        return printable(found[1], 200)
    if "legacy .tar" in text:
        return "it is a tar file of a PyTorch before 0.1.10"
    return "it is not what torch.save writes" if "weights_only" in text else reason_of(error)


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, checked by `check_tensors`.

    Raises:
        InputError: the file is missing, is not safetensors, or holds tensors that are not usable.
    """
    with refusing(f"{str(path)!r} cannot be read as safetensors", "download or convert it again"):
        try:
            with check_regular(path).open("rb") as file:
                header_bytes = int.from_bytes(file.read(8), "little")
            if header_bytes > _MOST_HEADER_BYTES:
                raise InputError(f"its header claims {header_bytes} bytes; {_MOST_HEADER_BYTES} are allowed")
            tensors: dict[str, Tensor] = safetensors.torch.load_file(path)
        except InputError:
            raise
        except Exception as error:  # beside its own error, whatever unknown types and shapes lead to
            raise InputError(reason_of(error)) from error
    check_tensors(tensors, path)
    return tensors


def check_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Refuse tensors that are not dense numbers of this file, or not finite, before any of them is copied.

    Args:
        tensors: What was read, by name.
        path: The file it was read from: all together may not be larger than it is.

    Raises:
        InputError: a tensor is sparse, quantised, on no device, complex, of 8 bits or less, larger than its values in the
            file, or holds NaN or infinity (as float32); it is named.
    """
    total = 0
    for name, tensor in tensors.items():
        with refusing(f"the weights of {str(path)!r} cannot be used", "save them anew as dense, finite float32"):
            total += _checked_bytes(printable(name, 100), tensor)
            if total > _SHARED * path.stat().st_size:
                raise InputError(f"its tensors have {total >> 20} MiB and more, the file has not")
            if tensor.dtype in _FLOATING and tensor.numel():
                extremes = torch.stack(tensor.detach().aminmax()).float()  # float64 beyond float32 becomes infinite
                if not extremes.isfinite().all():
                    raise InputError(f"{printable(name, 100)} holds values that are not finite")


def _checked_bytes(name: str, tensor: Tensor) -> int:
    """The size of a tensor that is dense and no larger than what it shows of the file."""
    is_dense = tensor.layout == torch.strided and not (tensor.is_quantized or tensor.is_nested)
    if not is_dense or tensor.device.type != "cpu":
        form = (
            "quantised"
            if tensor.is_quantized
            else "nested"
            if tensor.is_nested
            else tensor.device
            if is_dense
            else tensor.layout
        )
        raise InputError(f"{name} is {form}, not a dense tensor with values")
    if tensor.dtype not in (*_FLOATING, *_WHOLE):
        raise InputError(f"{name} is of type {tensor.dtype}")
    size = tensor.numel() * tensor.element_size()
    if size > tensor.untyped_storage().nbytes():
        raise InputError(f"{name} {tuple(tensor.shape)} has more values than the file holds of it")
    return size
