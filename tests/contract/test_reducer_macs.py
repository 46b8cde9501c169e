"""The costs of every reducer, counted and executed."""

import pytest

from supervit.macs import executed_macs, macs
from tests.contract.test_reducers import POINTS, REDUCERS, executed, model_with


@pytest.mark.parametrize("name", REDUCERS)
@pytest.mark.parametrize("exact_savings", [True, False])
def test_counted_macs_are_executed_macs(name, exact_savings):
    model = model_with(name, exact_savings=exact_savings)
    for point in POINTS:
        assert executed(model, point) == executed_macs(model.config, point), point
        if not exact_savings:
            assert macs(model.config, point) == executed_macs(model.config, point)
