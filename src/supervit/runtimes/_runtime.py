"""What every runtime gives: logits of images at an operating point."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from supervit.complexity import Complexity, GridSize
from supervit.config import SuperViTConfig
from supervit.errors import InputError, reason_of
from supervit.layers import resize_images
from supervit.limits import check_bytes, check_images, check_memory
from supervit.options import Precision
from supervit.runtimes._threads import on_one_thread
from supervit.tokens import Tokens
from supervit.trace import Trace

_MOST_THREADS = 1024
_FEW_IMAGES = 16  # from here on a second thread saves as much as it costs


@dataclass(frozen=True)
class RuntimeConfig:
    """How a runtime shall run."""

    device: str = "cpu"
    """Torch device, such as `cpu` or `cuda`; `auto` takes the GPU if there is one and the runtime can use it."""
    precision: Precision = "float32"
    """Arithmetic."""
    threads: int | None = None
    """CPU threads, also of PyTorch in this process, which resizes the images; default: those that PyTorch has."""
    calibration: Tensor | None = None
    """Normalised images (N, C, S, S) that int8 is calibrated on, some hundred of those to be classified."""

    def __post_init__(self) -> None:
        check_threads(self.threads)

    @property
    def cpu_threads(self) -> int:
        """CPU threads to run with."""
        return self.threads or torch.get_num_threads()


def pick_device(name: str) -> torch.device:
    """The torch device of that name; `auto` is the GPU if there is one.

    Raises:
        InputError: no such device here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"device {name!r} cannot be used ({reason_of(error)}); use auto, cpu or cuda") from error
    return device


def check_threads(threads: int | None) -> None:
    """Refuse a number of threads that cannot be."""
    if threads is not None and not 1 <= threads <= _MOST_THREADS:
        raise InputError(f"threads {threads} must be at least 1 and at most {_MOST_THREADS}; leave it out for those of PyTorch")


def constant(value: str) -> Callable[[], str]:
    """The function that gives this value: a fingerprint of weights that are a copy of the model's."""
    return lambda: value


def check_finite(values: Tensor, what: str) -> None:
    """Refuse to count with values (B, ...) of which any is no number: in logits NaN would count as class 0.

    Args:
        values: Images or logits; graphs of other libraries may make numbers of pixels that are none.
        what: What they are, for the error.

    Raises:
        InputError: how many images have such.
    """
    if not values.isfinite().all():
        count = int((~values.flatten(1).isfinite().all(dim=1)).sum())
        raise InputError(f"the {what} are not finite for {count} of {len(values)} images; check weights and images for NaN")


@dataclass(frozen=True, eq=False)
class Runtime:
    """A model that runs at any operating point; changing between points loads and compiles nothing."""

    name: str
    precision: str
    """Number format, such as float32."""
    threads: int
    """CPU threads."""
    device: torch.device
    """Where it computes."""
    model_config: SuperViTConfig
    points: tuple[Complexity, ...]
    """Operating points that it was made for: the model's menu, or those of an exported artefact."""
    fingerprint: Callable[[], str]
    """That of the model (`SuperViT.fingerprint`)."""
    run: Callable[[Tensor, Complexity], Tensor]
    """Logits of placed images that have their grid's size."""
    own_threads: ClassVar[bool] = True
    """Whether what computes has threads of its own, besides PyTorch's."""
    shares_prefixes: ClassVar[bool] = False
    """Whether operating points of a grid can go on from the blocks that they share (`encode_prefix`, `resume`)."""
    traces: ClassVar[bool] = False
    """Whether it can tell where the patches went (`traced_paths`)."""

    @torch.inference_mode()
    def logits(self, images: Tensor, complexity: Complexity | str) -> Tensor:
        """Logits (B, K), float32, on the runtime's device.

        Args:
            images: Normalised images (B, C, S, S); resized as the model does unless they have their grid's size.
            complexity: Operating point or its text, such as `"14@0.7"`.

        Raises:
            InputError: images of another shape, or an operating point that does not parse or that the runtime does not have.
        """
        point, config = Complexity.of(complexity), self.model_config
        check_images(images, config.in_chans, point.grid_size)
        size = config.pixels(point.grid_size)
        check_memory(config, point, len(images), self.device, self.dtype.itemsize)
        if tuple(images.shape[-2:]) != size:
            resized = self.preparing(len(images), lambda: resize_images(self.place(images), size, config.resize).contiguous())
        else:
            resized = self.place(images).contiguous()
        with self.evaluating():
            return self.run(resized, point).float()

    @torch.inference_mode()
    def forward_paths(self, images: Tensor, complexities: Sequence[Complexity | str]) -> list[Tensor]:
        """Logits at several operating points, as of `logits`; runtimes that share prefixes compute what these share once."""
        return [self.logits(images, point) for point in complexities]

    def encode_prefix(self, images: Tensor, grid_size: GridSize) -> Tokens:
        """As `SuperViT.encode_prefix`, of placed images; for runtimes that share prefixes."""
        raise NotImplementedError(f"{self.name} shares no prefixes")

    def resume(self, prefix: Tokens, complexity: Complexity) -> Tensor:
        """As `SuperViT.resume`, float32; for runtimes that share prefixes."""
        raise NotImplementedError(f"{self.name} shares no prefixes")

    def traced_paths(self, images: Tensor, complexities: Sequence[Complexity | str]) -> tuple[list[Tensor], list[Trace]]:
        """As `forward_paths`, and where the patches went; for runtimes that trace."""
        raise NotImplementedError(f"{self.name} traces nothing")

    def prepare(self, points: Sequence[Complexity | str], batch_size: int) -> None:
        """Run each operating point once, so that whatever is done at a first use of a shape is done."""
        for point in map(Complexity.of, points):
            check_memory(self.model_config, point, batch_size, self.device, self.dtype.itemsize)
            self.logits(torch.zeros(batch_size, self.model_config.in_chans, *self.model_config.pixels(point.grid_size)), point)

    def place(self, images: Tensor) -> Tensor:
        """The images (B, C, S, S) where and in the number format in which they are computed with.

        Raises:
            InputError: images of another shape or kind.
        """
        check_images(images, self.model_config.in_chans)
        if (images.device, images.dtype) == (self.device, self.dtype):
            return images
        what = f"{len(images)} images of {images.shape[-2]}x{images.shape[-1]} pixels"
        check_bytes(what, images.numel() * self.dtype.itemsize, self.device)
        return images.to(self.device, self.dtype)

    @property
    def dtype(self) -> torch.dtype:
        """Number format of the images that it computes with."""
        return torch.float32

    def preparing(self, count: int, prepare: Callable[[], Tensor]) -> Tensor:
        """What `prepare` makes for a call of another library, on one thread where that is of few images.

        PyTorch's other threads would still wait actively for work when the library's start: 3 ms a call on two cores
        (`docs/log.md`).

        Args:
            count: Images that are prepared in one operation.
            prepare: Makes them.
        """
        return on_one_thread(prepare) if self.own_threads and count < _FEW_IMAGES else prepare()

    def evaluating(self) -> AbstractContextManager[None]:
        """The model, where PyTorch runs it, in evaluation mode, and as it was afterwards."""
        return nullcontext()
