"""Backbone families: one file is one family, found by its name.

A family file says how the family differs from the others, and the model assembles it:

- `Config`: `SuperViTConfig` or a subclass with the family's own fields;
- `VARIANTS`: the sizes by name, each as the fields that differ from the defaults of `Config`;
- `patch_embed(config)`: a module from images (B, C, p g, p g) to a map of patch tokens (B, D, g, g), p = patch size;
- `patch_embed_macs(config, grid_size)`: its multiply-accumulates per image.

What knows sizes alone imports no PyTorch: it is imported in `patch_embed`.
"""

import sys
from types import ModuleType
from typing import Any

from supervit.complexity import Complexity, GridSize, has_shape, sides
from supervit.config import SuperViTConfig
from supervit.errors import InputError, unknown_name
from supervit.plugins import check_named, load_plugin, plugin_names


def load_family(name: str) -> ModuleType:
    """The family file `name`, such as `deit`."""
    return load_plugin(sys.modules[__name__], name)


def variant_names() -> list[str]:
    """Names of all variants of all families, such as `deit_small`."""
    return [variant for family in plugin_names(sys.modules[__name__]) for variant in load_family(family).VARIANTS]


def variant_config(name: str, img_size: int | tuple[int, int] | None = None, **overrides: Any) -> SuperViTConfig:
    """The config of a known variant.

    Args:
        name: Variant, such as `deit_small`, or `my_package.my_module.my_variant`.
        img_size: Image side in pixels, or (height, width), multiples of the patch size: scales the grid sizes of the menu.
        overrides: Fields of the config that differ from the variant's.

    Raises:
        InputError: unknown variant or field, or a value that does not fit.
    """
    outside, _, variant = name.rpartition(".")
    for family in [outside] if outside else plugin_names(sys.modules[__name__]):
        module = load_family(family)
        if variant in module.VARIANTS:
            config: SuperViTConfig = module.Config(family=family, **module.VARIANTS[variant]).replace(**overrides)
            return config if img_size is None else _at_image_size(config, img_size)
    raise unknown_name("model", name, variant_names())


def _at_image_size(config: SuperViTConfig, img_size: int | tuple[int, int]) -> SuperViTConfig:
    height, width = (img_size, img_size) if isinstance(img_size, int) else img_size
    if any(side < 2 * config.patch_size or side % config.patch_size for side in (height, width)):
        raise InputError(
            f"img_size {img_size} must be a multiple of patch_size {config.patch_size}, at least two patches: one side, or "
            "(height, width)"
        )
    return config.replace(
        grid_sizes=scaled_grid_sizes(config.grid_sizes, (height // config.patch_size, width // config.patch_size))
    )


def scaled_grid_sizes(grid_sizes: tuple[GridSize, ...], largest: GridSize) -> tuple[GridSize, ...]:
    """The menu with `largest` as its largest grid and the others in proportion (duplicates and grids under 2 left out)."""
    (most_rows, most_columns), (rows, columns) = sides(grid_sizes[-1]), sides(largest)
    scaled = {(round(r * rows / most_rows), round(c * columns / most_columns)) for r, c in map(sides, grid_sizes)}
    points = sorted(Complexity(grid) for grid in scaled if min(grid) >= 2)
    return tuple(point.grid_size for point in points if has_shape(point.grid_size, rows, columns))


def config_from_dict(values: dict[str, Any]) -> SuperViTConfig:
    """The config that `SuperViTConfig.to_dict` made, of the class of its family.

    Raises:
        InputError: unknown fields or values of another kind, or a plug-in from outside as of `check_named`.
    """
    for field in ("family", "reducer"):
        check_named(values.get(field))
    config: SuperViTConfig = load_family(str(values.get("family", "deit"))).Config.from_dict(values)
    return config
