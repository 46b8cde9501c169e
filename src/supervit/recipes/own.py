"""Your own images."""

from supervit.backbones import variant_config
from supervit.config import SuperViTConfig
from supervit.data import DataConfig
from supervit.train import TrainConfig


def image_folder() -> TrainConfig:
    """A DeiT-S from scratch on train/CLASS/*, val/CLASS/*: for 100,000 images or more; for fewer, begin with `finetune`.

    300 epochs without mixing and repeats. A pretrained model learns some thousand photographs better, and in minutes.
    """
    return TrainConfig(model=variant_config("deit_small", num_classes=0, drop_path_rate=0.1), data=DataConfig(), lr=2.5e-4)


def finetune() -> TrainConfig:
    """Begin here with your own photographs: make any pretrained ViT (--init) elastic on them (--data.root) in a few epochs.

    Small steps, little augmentation: the uncut largest grid knows its task, the others learn from the labels and from it.
    """
    return TrainConfig(
        model=SuperViTConfig(num_classes=0),
        init="",
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
