"""What PyTorch's runtimes share."""

import copy

import torch

from supervit.model import SuperViT
from supervit.options import Precision
from supervit.runtimes._runtime import Runtime, RuntimeConfig, constant

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


def torch_runtime(name: str, placed: SuperViT, model: SuperViT) -> Runtime:
    """The runtime that calls `placed`, which was made of `model` or is it itself."""
    parameter = next(placed.parameters())
    shares_weights = parameter is next(model.parameters())
    return Runtime(
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
