"""What PyTorch's runtimes share."""

import copy
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import Tensor

from supervit.complexity import Complexity, GridSize
from supervit.model import SuperViT
from supervit.modes import evaluation_mode
from supervit.options import Precision
from supervit.runtimes._runtime import Runtime, RuntimeConfig, constant
from supervit.tokens import Tokens
from supervit.trace import Trace

DTYPES: dict[Precision, torch.dtype] = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def torch_obstacle(device: torch.device, precision: Precision) -> str | None:
    """Why PyTorch cannot compute so on a device, or None. bfloat16 that would be emulated counts as an obstacle."""
    if device.type == "cuda":
        if not torch.cuda.is_available():
            return "there is no CUDA device"
        return None if precision == "float32" or torch.cuda.is_bf16_supported(False) else "the GPU has no bfloat16"
    if precision == "bfloat16" and device.type == "cpu" and not cpu_has_bfloat16():
        return "the CPU has no bfloat16 instructions"
    return None


def cpu_has_bfloat16() -> bool:
    """Whether the CPU multiplies bfloat16 itself (AVX-512 BF16 or AMX; on ARM what oneDNN says)."""
    if torch.backends.cpu.get_cpu_capability().startswith(("AVX", "AMX", "DEFAULT")):
        return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def place_model(model: SuperViT, config: RuntimeConfig) -> SuperViT:
    """The model in evaluation mode where and as the config says, sharing its tensors if they are so already."""
    device, dtype = torch.empty(0, device=config.device).device, DTYPES[config.precision]
    tensors = [*model.parameters(), *model.buffers()]
    fits = all(t.device == device and (t.dtype == dtype or not t.is_floating_point()) for t in tensors)
    shared = {id(tensor): tensor for tensor in tensors} if fits else {}
    placed = copy.deepcopy(model, shared)
    return (placed if fits else placed.to(device, dtype)).eval()


@dataclass(frozen=True, eq=False)
class TorchRuntime(Runtime):
    """A model that PyTorch runs: its operating points can share prefixes and tell where the patches went."""

    model: SuperViT
    """What runs."""
    own_threads, shares_prefixes, traces = False, True, True

    @torch.inference_mode()
    def forward_paths(self, images: Tensor, complexities: Sequence[Complexity | str]) -> list[Tensor]:
        """Logits at several operating points, what they share computed once."""
        with self.evaluating():
            return [logits.float() for logits in self.model.forward_paths(self.place(images), complexities)]

    def encode_prefix(self, images: Tensor, grid_size: GridSize) -> Tokens:
        """As `SuperViT.encode_prefix`, of placed images."""
        return self.model.encode_prefix(images, grid_size)

    def resume(self, prefix: Tokens, complexity: Complexity) -> Tensor:
        """As `SuperViT.resume`, float32."""
        return self.model.resume(prefix, complexity).float()

    @torch.inference_mode()
    def traced_paths(self, images: Tensor, complexities: Sequence[Complexity | str]) -> tuple[list[Tensor], list[Trace]]:
        """As `forward_paths`, and where the patches went."""
        with self.evaluating():
            logits, traces = self.model.forward_paths(self.place(images), complexities, trace=True)
        return [each.float() for each in logits], traces

    @property
    def dtype(self) -> torch.dtype:
        """Number format of the images that it computes with."""
        return next(self.model.parameters()).dtype

    def evaluating(self) -> AbstractContextManager[None]:
        """The model in evaluation mode, and as it was afterwards."""
        return evaluation_mode(self.model)


def torch_runtime(name: str, placed: SuperViT, model: SuperViT) -> TorchRuntime:
    """The runtime that calls `placed`, which was made of `model` or is it itself."""
    parameter = next(placed.parameters())
    shares_weights = parameter is next(model.parameters())
    return TorchRuntime(
        name=name,
        precision=str(parameter.dtype).removeprefix("torch."),
        threads=torch.get_num_threads(),
        device=parameter.device,
        model_config=model.config,
        points=tuple(model.config.space),
        fingerprint=model.fingerprint if shares_weights else constant(model.fingerprint()),
        run=placed,
        model=placed,
    )
