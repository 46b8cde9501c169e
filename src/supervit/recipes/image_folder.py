"""Your own images in train/CLASS/* and val/CLASS/*, a DeiT-S from scratch."""

from supervit.backbones import variant_config
from supervit.data import DataConfig
from supervit.train import TrainConfig


def recipe() -> TrainConfig:
    """DeiT-S with the released optimiser settings at batch 256; mixup, cutmix and repeated augmentation left out."""
    return TrainConfig(model=variant_config("deit_small", num_classes=0, drop_path_rate=0.1), data=DataConfig(), lr=2.5e-4)
