"""AdamW and its schedule."""

import torch
from timm.optim import param_groups_weight_decay
from timm.scheduler import CosineLRScheduler

from supervit.model import SuperViT
from supervit.train.config import TrainConfig


def make_optimizer(model: SuperViT, config: TrainConfig) -> torch.optim.Optimizer:
    """AdamW without weight decay on biases, norms and the class token."""
    undecayed = {name for name in model.no_weight_decay() if not (config.decay_positions and name.startswith("pos_embeds."))}
    groups = param_groups_weight_decay(model, config.weight_decay, no_weight_decay_list=undecayed)
    return torch.optim.AdamW(groups, lr=config.lr, eps=1e-8, fused=True)


def make_scheduler(optimizer: torch.optim.Optimizer, config: TrainConfig, steps_per_epoch: int) -> CosineLRScheduler:
    """Linear warm-up, then cosine, per step."""
    return CosineLRScheduler(
        optimizer,
        t_initial=config.epochs * steps_per_epoch,
        lr_min=config.min_lr,
        warmup_t=min(round(config.warmup_epochs * steps_per_epoch), config.epochs * steps_per_epoch - 1),
        warmup_lr_init=config.warmup_lr,
        t_in_epochs=False,
    )
