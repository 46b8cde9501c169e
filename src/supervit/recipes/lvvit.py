"""The paper's recipe for LV-ViT (reference: the released implementation, global batch 1024)."""

from supervit.backbones import variant_config
from supervit.data import DataConfig
from supervit.train import TrainConfig


def _paper(variant: str) -> TrainConfig:
    """ImageNet from scratch with token labels: 300 epochs and 10 of cooldown; no mixing of pixels, no repeats."""
    data = DataConfig(
        batch_size=256,
        workers=8,
        auto_augment="rand-m9-mstd0.5-inc1",
        random_erasing=0.25,
        train_interpolation="random",
        mix_token=1.0,
    )
    return TrainConfig(
        model=variant_config(variant, num_classes=0, drop_path_rate=0.1),
        data=data,
        epochs=300,
        cooldown_epochs=10,
        lr=1.6e-3,
        lr_per_epoch=True,
        min_lr=1e-5,
        warmup_lr=1e-6,
        warmup_epochs=5,
        weight_decay=0.05,
        label_smoothing=0.1,
        precision="float16",
        ema_decay=0.99992,
        ema_warmup=False,
    )


def lvvit_tiny() -> TrainConfig:
    """The paper's training on ImageNet, with LV-ViT-T; give the label maps with --data.token-labels."""
    return _paper("lvvit_tiny")


def lvvit_small() -> TrainConfig:
    """The paper's training on ImageNet, with LV-ViT-S; give the label maps with --data.token-labels."""
    return _paper("lvvit_small")


def lvvit_medium() -> TrainConfig:
    """The paper's training on ImageNet, with LV-ViT-M; give the label maps with --data.token-labels."""
    return _paper("lvvit_medium")
