"""Minutes on two CPU cores: a small SuperViT on scikit-learn's handwritten digits."""

from pathlib import Path

from supervit.backbones import variant_config
from supervit.data import DataConfig
from supervit.train import TrainConfig


def recipe() -> TrainConfig:
    """A half-size menu of twelve operating points: grids of 4x4 to 7x7 patches of 4x4 pixels."""
    model = variant_config(
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
        model=model,
        data=data,
        out=Path("runs/digits"),
        epochs=35,
        lr=3e-3,
        warmup_epochs=2,
        weight_decay=0.02,
        label_smoothing=0.0,
        clip_grad=1.0,
        ema_decay=0.99,
        eval_every=10,
    )
