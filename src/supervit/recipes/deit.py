"""The paper's recipe for DeiT (reference: the released implementation, global batch 1024), and its ablations."""

from dataclasses import replace

from supervit.backbones import variant_config
from supervit.data import DataConfig
from supervit.train import TrainConfig


def _paper(variant: str) -> TrainConfig:
    """ImageNet from scratch: 300 epochs, AdamW, cosine per epoch, DeiT's augmentation."""
    data = DataConfig(
        batch_size=256,
        workers=8,
        auto_augment="rand-m9-mstd0.5-inc1",
        random_erasing=0.25,
        mixup=0.8,
        cutmix=1.0,
        repeats=3,
    )
    return TrainConfig(
        model=variant_config(variant, num_classes=0, drop_path_rate=0.1),
        data=data,
        epochs=300,
        lr=5e-4,
        lr_batch_size=512,
        lr_per_epoch=True,
        min_lr=1e-5,
        warmup_lr=1e-6,
        warmup_epochs=5,
        weight_decay=0.05,
        label_smoothing=0.1,
        precision="float16",
        ema_decay=0.99996,
        ema_warmup=False,
        evaluate_ema=False,
    )


def deit_tiny() -> TrainConfig:
    """The paper's training on ImageNet, with DeiT-Ti."""
    return _paper("deit_tiny")


def deit_small() -> TrainConfig:
    """The paper's training on ImageNet, with DeiT-S."""
    return _paper("deit_small")


def deit_base() -> TrainConfig:
    """The paper's training on ImageNet, with DeiT-B."""
    return _paper("deit_base")


def sizes_only() -> TrainConfig:
    """Figure 4a: `deit_small` with several grid sizes, but no tokens dropped."""
    recipe = deit_small()
    return replace(recipe, model=recipe.model.replace(keep_rates=(1.0,)))


def rates_only() -> TrainConfig:
    """Figure 4a: `deit_small` with several keep rates at the largest grid alone."""
    recipe = deit_small()
    return replace(recipe, model=recipe.model.replace(grid_sizes=(14,)))


def cross_entropy() -> TrainConfig:
    """Figure 4b: `deit_small` with labels teaching every path."""
    return replace(deit_small(), teacher="labels")


def all_paths() -> TrainConfig:
    """Figure 4c: `deit_small` with all operating points in every step instead of four."""
    return replace(deit_small(), paths=("all",))


def individual() -> TrainConfig:
    """Table 3: `deit_small` at one operating point alone, taught by labels; name it with --paths (here 14)."""
    return replace(deit_small(), paths=("14",), teacher="labels")


def antialias() -> TrainConfig:
    """Ours: `deit_small` with images low-pass filtered when they are resized for a smaller grid."""
    recipe = deit_small()
    return replace(recipe, model=recipe.model.replace(resize="antialias"))


def larger_grid() -> TrainConfig:
    """Ours: `deit_small` with the uncut largest grid teaching the smaller grids instead of the labels."""
    return replace(deit_small(), teacher="larger_grid")
