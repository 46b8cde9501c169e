"""timm's registry: `timm.create_model("supervit_deit_small_patch16_224", num_classes=10)` after `import supervit`."""

from typing import Any

from timm.models import register_model

from supervit.backbones import variant_config, variant_names
from supervit.errors import InputError
from supervit.model import SuperViT


def timm_name(variant: str) -> str:
    """The name of a variant in timm's registry: `deit_small` is `supervit_deit_small_patch16_224`."""
    config = variant_config(variant)
    return f"supervit_{variant}_patch{config.patch_size}_{config.image_size}"


def register_variants() -> None:
    """Register every variant of every family with timm; the entry points ignore what timm passes to all models."""
    for variant in variant_names():
        register_model(_entry_point(variant))


def _entry_point(variant: str) -> Any:
    def entry_point(
        pretrained: bool = False,
        pretrained_cfg: Any = None,
        pretrained_cfg_overlay: Any = None,
        cache_dir: Any = None,
        drop_rate: float = 0.0,
        **overrides: Any,
    ) -> SuperViT:
        if pretrained:
            raise InputError(f"no weights are published for {timm_name(variant)}; use pretrained=False, or supervit.load(path)")
        if drop_rate:
            raise InputError(f"drop_rate {drop_rate} is not available; SuperViT has drop_path_rate (stochastic depth)")
        return SuperViT(variant_config(variant, **overrides))

    entry_point.__name__ = entry_point.__qualname__ = timm_name(variant)
    return entry_point
