from functools import partial
from itertools import combinations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from supervit import Complexity
from supervit.calibrate import Answers, _pareto_of_ladder, simulate
from supervit.cascade import Ladder, climb_macs
from tests.conftest import small_config

CLIMB = partial(climb_macs, small_config())
POINTS = tuple(Complexity.of(text) for text in ("4@0.5", "7@0.5", "7"))
sure = st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0])  # few values, so that images tie


@st.composite
def answers(draw) -> Answers:
    images = draw(st.integers(1, 10))
    hits = draw(st.lists(st.booleans(), min_size=3 * images, max_size=3 * images))
    confidences = draw(st.lists(sure, min_size=3 * images, max_size=3 * images))
    return Answers(POINTS, torch.tensor(hits).view(3, -1), torch.tensor(confidences).view(3, -1), "probability")


@settings(deadline=None)
@given(answers(), sure, sure)
def test_no_thresholds_beat_those_that_the_sweep_finds(answers, first, second):
    found = _pareto_of_ladder(answers, POINTS, CLIMB)
    for ladder, outcome in found:
        simulated = simulate(answers, ladder, CLIMB)
        assert (outcome.top1, outcome.mean_macs) == pytest.approx((simulated.top1, simulated.mean_macs))
    tried = simulate(answers, Ladder(POINTS, (first, second)), CLIMB)
    reaching = [outcome for _, outcome in found if outcome.top1 >= tried.top1 - 1e-9]
    # Where all images climb past a rung, the sweep leaves the setting to the ladder without that rung, which is no dearer.
    shorter = [rungs for length in (1, 2) for rungs in combinations(POINTS, length)]
    swept = found + [each for rungs in shorter for each in _pareto_of_ladder(answers, rungs, CLIMB)]
    costs = [outcome.mean_macs for _, outcome in swept if outcome.top1 >= tried.top1 - 1e-9]
    assert costs
    assert min(costs) <= tried.mean_macs * (1 + 1e-9)
    if reaching and 0 < first <= answers.confidences[0].max() and 0 < second <= answers.confidences[1].max():
        assert min(outcome.mean_macs for outcome in reaching) <= tried.mean_macs * (1 + 1e-9)
