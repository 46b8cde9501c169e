from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest

from supervit import Complexity, InputError
from supervit.fields import check_types, from_plain


@dataclass(frozen=True)
class Inner:
    share: float = 0.5


@dataclass(frozen=True)
class Outer:
    count: int
    inner: Inner
    point: Complexity
    sizes: tuple[int, ...] = ()
    pair: tuple[float, float] = (0.0, 1.0)
    kind: Literal["one", "two"] = "one"
    root: Path | None = None
    flag: bool = False
    names: Mapping[str, str] | None = None
    anything: Any = None


GOOD = {"count": 1, "inner": {"share": 1}, "point": "14@0.7"}


def test_plain_values_become_what_the_fields_are():
    values = GOOD | {"sizes": [1, 2], "pair": [0, 1], "kind": "two", "root": "a/b", "names": {"a": "b"}, "flag": True}
    made = from_plain(Outer, values)
    assert made == Outer(1, Inner(1), Complexity(14, 0.7), (1, 2), (0, 1), "two", Path("a/b"), True, {"a": "b"})


@pytest.mark.parametrize(
    "values, message",
    [
        ([], r"\[\] should be an object with the fields of Outer"),
        ({"count": 1}, "Outer lacks inner, point"),
        (GOOD | {"coumt": 1}, "unknown Outer field 'coumt'; did you mean count"),
        (GOOD | {"count": True}, "count True is not usable; it must be of type int"),
        (GOOD | {"count": 1.5}, "count 1.5"),
        (GOOD | {"inner": 3}, "inner 3 is not usable; it must be of type Inner"),
        (GOOD | {"inner": {"share": "x"}}, "share 'x' is not usable; it must be of type float"),
        (GOOD | {"inner": {"share": float("nan")}}, "share nan"),
        (GOOD | {"inner": {"share": 10**400}}, "share 1000.*must be of type float"),
        (GOOD | {"point": 14}, "complexity 14 does not parse"),
        (GOOD | {"sizes": [1, "x"]}, r"sizes \[1, 'x'\] is not usable; it must be of type tuple\[int, ...\]"),
        (GOOD | {"sizes": [[1]]}, "sizes"),
        (GOOD | {"pair": [1]}, r"pair \[1\] is not usable; it must be of type tuple\[float, float\]"),
        (GOOD | {"kind": "tow"}, "unknown kind 'tow'; did you mean two"),
        (GOOD | {"kind": ["two"]}, "kind"),
        (GOOD | {"root": 3}, "root 3 is not usable"),
        (GOOD | {"root": "a\0b"}, "root"),
        (GOOD | {"names": {"a": 1}}, "names"),
        (GOOD | {"flag": 1}, "flag 1 is not usable; it must be of type bool"),
    ],
)
def test_values_that_do_not_fit_are_refused_with_the_field(values, message):
    with pytest.raises(InputError, match=message):
        from_plain(Outer, values)


def test_a_dataclass_can_check_itself():
    made = Outer(1, Inner(), Complexity(14), sizes=[1, 2])  # type: ignore[arg-type]
    check_types(made)
    assert made.sizes == (1, 2)
    with pytest.raises(InputError, match="pair 3"):
        check_types(Outer(1, Inner(), Complexity(14), pair=3))  # type: ignore[arg-type]
