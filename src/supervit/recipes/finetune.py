"""Make any pretrained ViT elastic in an epoch or few: give it with --init, your images with --data.root."""

from supervit.config import SuperViTConfig
from supervit.data import DataConfig
from supervit.train import TrainConfig


def recipe() -> TrainConfig:
    """Small steps, little augmentation: the uncut largest grid knows its task, the others learn from the labels and from it."""
    return TrainConfig(
        model=SuperViTConfig(num_classes=0),
        data=DataConfig(batch_size=32, scale=(0.4, 1.0), auto_augment=None, random_erasing=0.0),
        epochs=3,
        lr=6e-5,
        min_lr=1e-6,
        warmup_lr=0.0,
        warmup_epochs=0.05,
        weight_decay=0.01,
        label_smoothing=0.0,
        clip_grad=1.0,
        eval_every=1,
    )
