"""timm's registry: `timm.create_model("supervit_deit_small_patch16_224", num_classes=10)` after `import supervit`."""

from typing import Any

from timm.models import register_model

from supervit.backbones import variant_config, variant_names
from supervit.errors import InputError
from supervit.model import SuperViT, check_global_pool


def timm_name(variant: str) -> str:
    """The name of a variant in timm's registry: `deit_small` is `supervit_deit_small_patch16_224`."""
    config = variant_config(variant)
    return f"supervit_{variant}_patch{config.patch_size}_{config.image_size}"


def register_variants() -> None:
    """Register every variant of every family with timm."""
    for variant in variant_names():
        entry_point = _entry_point(variant)
        globals()[entry_point.__name__] = entry_point  # timm lists it in __all__
        register_model(entry_point)


def _entry_point(variant: str) -> Any:
    def entry_point(
        pretrained: bool = False,
        pretrained_cfg: Any = None,
        pretrained_cfg_overlay: Any = None,
        cache_dir: Any = None,
        drop_rate: float = 0.0,
        global_pool: str | None = None,
        **overrides: Any,
    ) -> SuperViT:
        if pretrained:
            raise InputError(f"no weights are published for {timm_name(variant)}; use pretrained=False, or supervit.load(path)")
        if pretrained_cfg or pretrained_cfg_overlay:
            raise InputError("pretrained_cfg is not used; give mean, std, crop_pct, interpolation as arguments of their own")
        if drop_rate:
            raise InputError(f"drop_rate {drop_rate} is not available; SuperViT has drop_path_rate (stochastic depth)")
        check_global_pool(global_pool)
        return SuperViT(variant_config(variant, **overrides))

    entry_point.__name__ = entry_point.__qualname__ = timm_name(variant)
    return entry_point
