"""timm's registry: `timm.create_model("supervit_deit_small_patch16_224", num_classes=10)` after `import supervit`.

Whichever of the two is imported first; `import supervit` does not import timm, which takes seconds.
"""

import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import TYPE_CHECKING, Any

from supervit.backbones import variant_config, variant_names
from supervit.complexity import grid_text
from supervit.errors import InputError

if TYPE_CHECKING:
    from supervit.model import SuperViT


def timm_name(variant: str) -> str:
    """The name of a variant in timm's registry: `deit_small` is `supervit_deit_small_patch16_224`."""
    config = variant_config(variant)
    return f"supervit_{variant}_patch{config.patch_size}_{grid_text(config.image_size)}"


def register_with_timm() -> None:
    """Register all variants with timm, now or as soon as it is imported."""
    if "timm" in sys.modules:
        register_variants()
    elif not any(isinstance(finder, _AfterTimm) for finder in sys.meta_path):
        sys.meta_path.insert(0, _AfterTimm())


class _AfterTimm:
    """Finds timm where the other finders do, and has the variants registered once it is loaded."""

    def find_spec(self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name != "timm":
            return None
        others = (finder for finder in sys.meta_path if finder is not self)
        spec = next(filter(None, (finder.find_spec(name, path, target) for finder in others)), None)
        if spec is not None and spec.loader is not None:
            load = spec.loader.exec_module

            def exec_module(module: ModuleType) -> None:
                load(module)
                register_variants()

            spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


def register_variants() -> None:
    """Register every variant of every family with timm."""
    from timm.models import register_model

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
    ) -> "SuperViT":
        from supervit.model import SuperViT, check_global_pool

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
