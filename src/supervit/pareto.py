"""The Pareto set, once for all tables."""

from collections.abc import Callable, Iterable
from typing import TypeVar

Item = TypeVar("Item")


def pareto_set(items: Iterable[Item], cost: Callable[[Item], float], worth: Callable[[Item], float]) -> list[Item]:
    """The items that none of equal or lower cost matches in worth, cheapest first.

    Args:
        items: What to choose from; of those equal in both, the first stays.
        cost: Less is better.
        worth: More is better.
    """
    best: list[Item] = []
    for item in sorted(items, key=lambda item: (cost(item), -worth(item))):
        if not best or worth(item) > worth(best[-1]):
            best.append(item)
    return best
