"""AdamW and its schedule."""

import torch
from timm.optim import param_groups_weight_decay
from timm.scheduler import CosineLRScheduler

from supervit.distributed import World
from supervit.model import SuperViT
from supervit.train.config import TrainConfig


def make_optimizer(model: SuperViT, config: TrainConfig, world: World) -> torch.optim.Optimizer:
    """AdamW without weight decay on biases, norms and the class token."""
    undecayed = {name for name in model.no_weight_decay() if not (config.decay_positions and name.startswith("pos_embeds."))}
    groups = param_groups_weight_decay(model, config.weight_decay, no_weight_decay_list=undecayed)
    return torch.optim.AdamW(groups, lr=peak_lr(config, world), eps=1e-8, fused=True)


def peak_lr(config: TrainConfig, world: World) -> float:
    """The peak learning rate for the global batch (linear scaling, Goyal et al. 2017)."""
    scale = config.data.batch_size * world.size / config.lr_batch_size if config.lr_batch_size is not None else 1.0
    return config.lr * scale


def make_scheduler(optimizer: torch.optim.Optimizer, config: TrainConfig, steps_per_epoch: int) -> CosineLRScheduler:
    """Linear warm-up, then cosine, then the lowest rate; per step or per epoch."""
    unit = 1 if config.lr_per_epoch else steps_per_epoch
    return CosineLRScheduler(
        optimizer,
        t_initial=config.epochs * unit,
        lr_min=config.min_lr,
        warmup_t=min(round(config.warmup_epochs * unit), config.epochs * unit - 1),
        warmup_lr_init=config.warmup_lr,
        t_in_epochs=config.lr_per_epoch,
    )
