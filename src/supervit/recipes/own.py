"""Your own images."""

from supervit.backbones import variant_config
from supervit.config import SuperViTConfig
from supervit.data import DataConfig
from supervit.train import TrainConfig


def image_folder() -> TrainConfig:
    """Your own images in train/CLASS/* and val/CLASS/*: a DeiT-S from scratch, without mixing and repeats."""
    return TrainConfig(model=variant_config("deit_small", num_classes=0, drop_path_rate=0.1), data=DataConfig(), lr=2.5e-4)


def finetune() -> TrainConfig:
    """Make any pretrained ViT elastic in an epoch or few: give it with --init, your images with --data.root.

    Small steps, little augmentation: the uncut largest grid knows its task, the others learn from the labels and from it.
    """
    return TrainConfig(
        model=SuperViTConfig(num_classes=0),
        data=DataConfig(batch_size=32, scale=(0.4, 1.0), auto_augment=None, random_erasing=0.0),
        epochs=3,
        lr=1e-4,
        min_lr=1e-6,
        warmup_lr=0.0,
        warmup_epochs=0.05,
        weight_decay=0.01,
        label_smoothing=0.0,
        clip_grad=1.0,
        eval_every=1,
    )
