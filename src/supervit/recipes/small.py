"""Small real data on two CPU cores: minutes."""

from supervit.backbones import variant_config
from supervit.config import SuperViTConfig
from supervit.data import DataConfig
from supervit.train import TrainConfig


def _network() -> SuperViTConfig:
    """Twelve operating points in half size: grids of 4x4 to 7x7 patches of 4x4 grey pixels."""
    return variant_config(
        "deit_tiny",
        embed_dim=96,
        depth=4,
        drop_blocks=(1, 2, 3),
        mlp_ratio=2.0,
        patch_size=4,
        in_chans=1,
        num_classes=0,
        grid_sizes=(4, 5, 6, 7),
        crop_pct=1.0,
    )


def digits() -> TrainConfig:
    """A small SuperViT on scikit-learn's handwritten digits: two minutes on two CPU cores."""
    data = DataConfig(
        name="digits",
        batch_size=48,
        workers=0,
        scale=(0.85, 1.0),
        ratio=(0.85, 1.18),
        hflip=0.0,
        auto_augment=None,
        random_erasing=0.0,
    )
    return TrainConfig(
        model=_network(),
        data=data,
        epochs=35,
        lr=3e-3,
        warmup_epochs=2,
        weight_decay=0.02,
        label_smoothing=0.0,
        clip_grad=1.0,
        ema_decay=0.99,
    )


def fashion_mnist() -> TrainConfig:
    """A small SuperViT on 20,000 images of Fashion-MNIST: the scale of our ablations."""
    data = DataConfig(
        name="fashion_mnist",
        batch_size=64,
        workers=1,
        scale=(0.7, 1.0),
        ratio=(0.85, 1.18),
        auto_augment=None,
        random_erasing=0.0,
        limit=20_000,
    )
    return TrainConfig(
        model=_network(),
        data=data,
        epochs=10,
        lr=1.5e-3,
        warmup_epochs=1,
        clip_grad=1.0,
        ema_decay=0.995,
        eval_every=10,
    )
