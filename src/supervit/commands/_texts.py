"""Values of options that have a text of their own, such as the grid size 12x16: from the command line and to it."""

from typing import Any

from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, PrimitiveTypeInfo

from supervit.complexity import GridSize, KeepRate, grid_of, grid_text, rate_of, rate_text

REGISTRY = ConstructorRegistry()
METAVARS: dict[Any, str] = {GridSize: "GRID", KeepRate: "RATE"}


def text_of(value: Any) -> str:
    """A value as the command line takes it."""
    if not isinstance(value, tuple):
        return str(value)
    return rate_text(value) if any(isinstance(part, float) for part in value) else grid_text(value)


_FORMS: dict[Any, tuple[Any, Any]] = {GridSize: (grid_of, grid_text), KeepRate: (rate_of, rate_text)}


@REGISTRY.primitive_rule
def _with_text(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[Any] | None:
    if info.type not in _FORMS:
        return None
    parse, write = _FORMS[info.type]
    return PrimitiveConstructorSpec(
        nargs=1,
        metavar=METAVARS[info.type],
        instance_from_str=lambda texts: parse(texts[0]),
        is_instance=lambda value: isinstance(value, int | float | tuple),
        str_from_instance=lambda value: [write(value)],
    )
