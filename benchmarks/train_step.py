"""How much faster a step over the prefix tree is than the released scheme, four full passes one after the other.

Same weights, same drawn paths, same mathematics, same process. Ours: one forward over the tree of the four paths, one
backward. The other is written here with plain PyTorch in the released order: each path resized, embedded and run on its
own, all rows of every block computed, tokens selected after the attention of the drop blocks (which needs its matrix; the
other blocks use fused attention), one backward per path. The two take turns; before the clock starts their losses and
gradients are compared.

    python benchmarks/train_step.py --batch-size 8 --steps 8 --threads 2 --precision float32
"""

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import supervit
from supervit import Complexity, SuperViT, distillation_loss, path_losses, sample_paths
from supervit.evaluate import environment
from supervit.files import write_json
from supervit.macs import executed_macs, macs
from supervit.runtimes import pick_device


def released_pass(model: Any, images: Tensor, point: Complexity) -> Tensor:
    """Logits (B, K) of one DeiT path, the released way: every row of every block."""
    tokens = model.patch_embed(
        F.interpolate(images, size=model.config.pixels(point.grid_size), mode="bilinear", align_corners=True)
    )
    tokens = tokens.flatten(2).transpose(1, 2)
    tokens = torch.cat([model.cls_token.expand(len(images), -1, -1), tokens], dim=1) + model.pos_embeds[str(point.grid_size)]
    for index, planned in enumerate(model.config.replace(exact_savings=False).plan(point).blocks):
        block = model.blocks[index]
        batch, length, dim = tokens.shape
        packed = block.attn.qkv(block.norm1(tokens)).reshape(batch, length, 3, block.attn.num_heads, -1)
        query, key, value = packed.permute(2, 0, 3, 1, 4).unbind(0)
        if planned.reduces:
            attention = (query @ key.transpose(-2, -1) * block.attn.scale).softmax(dim=-1)
            mixed = attention @ value
        else:
            mixed = F.scaled_dot_product_attention(query, key, value)
        tokens = tokens + block.attn.proj(mixed.transpose(1, 2).reshape(batch, length, dim))
        if planned.reduces:
            best = attention[:, :, 0, 1:].mean(dim=1).topk(planned.tokens_kept - 1, dim=1).indices
            survivors = tokens[:, 1:].gather(1, best.unsqueeze(-1).expand(-1, -1, dim))
            tokens = torch.cat([tokens[:, :1], survivors], dim=1)
        tokens = tokens + block.mlp(block.norm2(tokens))
    return model.head(model.norm(tokens)[:, 0])


def released_step(model: SuperViT, images: Tensor, labels: Tensor, paths: tuple[Complexity, ...]) -> Tensor:
    """Losses of the four passes, gradients summed by one backward per pass."""
    losses, teacher = [], torch.empty(0)
    for point in paths:
        logits = released_pass(model, images, point)
        loss = F.cross_entropy(logits, labels) if point.is_uncut else distillation_loss(logits, teacher)
        teacher = logits.detach() if point.is_uncut else teacher
        loss.backward()
        losses.append(loss.detach())
    return torch.stack(losses)


def our_step(model: SuperViT, images: Tensor, labels: Tensor, paths: tuple[Complexity, ...]) -> Tensor:
    """Losses of the four paths, one forward over their tree, one backward."""
    losses = torch.stack(path_losses(model.forward_paths(images, paths), paths, labels))
    losses.sum().backward()
    return losses.detach()


Step = Callable[[SuperViT, Tensor, Tensor, tuple[Complexity, ...]], Tensor]


def main() -> None:
    """Compare, measure, print, write JSON on request."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="deit_small", help="a DeiT variant")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", choices=["float32", "bfloat16"], default="float32", help="bfloat16: autocast")
    parser.add_argument("--out", type=Path, help="write the results as JSON")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    device = pick_device(options.device)
    model = supervit.create_model(options.model).to(device).train()
    images = torch.randn(options.batch_size, 3, *model.config.pixels(model.config.grid_sizes[-1]), device=device)
    labels = torch.randint(0, model.num_classes, (options.batch_size,), device=device)
    drawn = [sample_paths(model.config.space, seed=0, step=step) for step in range(options.steps)]

    def run(step: Step, paths: tuple[Complexity, ...], enabled: bool) -> tuple[float, Tensor, Tensor]:
        model.zero_grad()
        start = time.perf_counter()
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=enabled):
            losses = step(model, images, labels, paths)
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds = time.perf_counter() - start
        return seconds, losses, torch.cat([p.grad.flatten() for p in model.blocks.parameters() if p.grad is not None])

    (_, ours, our_gradient), (_, other, other_gradient) = (run(step, drawn[0], False) for step in (our_step, released_step))
    gradient_error = float((our_gradient - other_gradient).norm() / other_gradient.norm())
    print(f"float32: losses differ by {float((ours - other).abs().max()):.1e}, gradients by {gradient_error:.1e} relative")

    kinds: dict[str, tuple[Step, bool]] = {"tree float32": (our_step, False), "four passes float32": (released_step, False)}
    if options.precision == "bfloat16":
        kinds |= {"tree bfloat16": (our_step, True), "four passes bfloat16": (released_step, True)}
    seconds: dict[str, list[float]] = {kind: [] for kind in kinds}
    for paths in (drawn[0], *drawn):  # the first turn warms up
        for kind, (step, enabled) in kinds.items():
            seconds[kind].append(run(step, paths, enabled)[0])
    medians = {kind: statistics.median(values[1:]) for kind, values in seconds.items()}

    tree = statistics.mean(3 * executed_macs(model.config, paths) for paths in drawn)
    four = statistics.mean(3 * sum(macs(model.config, path) for path in paths) for paths in drawn)
    print(f"MACs per image and step (forward, twice that backward): tree {tree / 1e9:.2f} G, four passes {four / 1e9:.2f} G")
    for kind, value in medians.items():
        print(f"{kind:>20}: {1e3 * value:8.1f} ms a step, {options.batch_size / value:7.1f} images/s")
    ratios = {}
    for precision in dict.fromkeys(kind.rpartition(" ")[2] for kind in kinds):
        pairs = zip(seconds[f"four passes {precision}"][1:], seconds[f"tree {precision}"][1:], strict=True)
        ratios[precision] = statistics.median(slow / fast for slow, fast in pairs)
        print(f"{precision}: the tree is {ratios[precision]:.2f} times as fast (the MACs say {four / tree:.2f})")
    if "tree bfloat16" in medians:
        print(f"tree: bfloat16 is {medians['tree float32'] / medians['tree bfloat16']:.2f} times as fast as float32")
    if options.out is not None:
        settings = {"model": options.model, "batch_size": options.batch_size, "steps": options.steps}
        measured = {"median_s": medians, "speedup": ratios, "macs_tree": tree, "macs_four_passes": four}
        write_json(options.out, {**settings, **environment(device), **measured})


if __name__ == "__main__":
    main()
