from functools import partial
from itertools import pairwise, product

import pytest
import torch

from supervit import Complexity, InputError
from supervit.calibrate import (
    Answers,
    _pareto_of_ladder,
    calibrate,
    collect_answers,
    halves,
    paper_ladder,
    pick_cascade,
    simulate,
)
from supervit.cascade import Cascade, Ladder, climb_macs
from supervit.complexity import ComplexitySpace
from supervit.macs import executed_macs
from tests.conftest import small_config

CONFIG = small_config()
CLIMB = partial(climb_macs, CONFIG)
POINTS = [Complexity.of(text) for text in ("4@0.5", "4", "7@0.5", "7")]


def some_answers(images=60, points=POINTS, seed=0) -> Answers:
    """Answers as a trained model gives them: dearer points are right more often, sure ones too."""
    generator = torch.Generator().manual_seed(seed)
    ease = torch.rand(images, generator=generator)
    logits, labels = {}, torch.randint(0, 5, (images,), generator=generator)
    for rank, point in enumerate(points):
        truth = torch.nn.functional.one_hot(labels, 5) * (4 * ease + rank)[:, None]
        logits[point] = truth + 1.5 * torch.randn(images, 5, generator=generator)
    return Answers.of(logits, labels)


@pytest.mark.parametrize("rungs", [POINTS[:1], POINTS[:2], [POINTS[0], POINTS[2], POINTS[3]]])
def test_the_sweep_finds_what_trying_all_thresholds_finds(rungs):
    answers = some_answers(12)
    found = _pareto_of_ladder(answers, rungs, CLIMB)
    for ladder, outcome in found:
        simulated = simulate(answers, ladder, CLIMB)
        assert (outcome.top1, outcome.mean_macs) == pytest.approx((simulated.top1, simulated.mean_macs))
    _, confidences = answers.of_rungs(rungs)
    for thresholds in product(*(each.tolist() for each in confidences[:-1])):
        tried = simulate(answers, Ladder(tuple(rungs), thresholds), CLIMB)
        assert any(o.top1 >= tried.top1 - 1e-9 and o.mean_macs <= tried.mean_macs + 1e-6 for _, o in found), thresholds


def test_the_curve_climbs_and_contains_the_best_single_points():
    answers = some_answers()
    curve = calibrate(answers, CLIMB)
    for a, b in pairwise(curve):
        assert a.calibration.top1 < b.calibration.top1
        assert a.calibration.mean_macs < b.calibration.mean_macs
    seen = answers[halves(60, 0)[0]]
    for point in POINTS:
        single = simulate(seen, Ladder((point,), ()), CLIMB)
        assert single.mean_macs == executed_macs(CONFIG, point)
        reached = pick_cascade(curve, target_top1=single.top1, safety=0)
        assert reached.calibration.mean_macs <= single.mean_macs


def test_what_is_held_out_has_no_part_in_the_choice():
    answers = some_answers()
    chosen_by, held_out = halves(60, 0)
    assert sorted([*chosen_by.tolist(), *held_out.tolist()]) == list(range(60))
    changed = Answers(answers.points, answers.hits.clone(), answers.confidences, answers.confidence)
    changed.hits[:, held_out] = False
    before, after = calibrate(answers, CLIMB), calibrate(changed, CLIMB)
    assert [each.ladder for each in before] == [each.ladder for each in after]
    assert {each.held_out.top1 for each in after} == {0.0}
    for each in before:
        assert each.held_out == simulate(answers[held_out], each.ladder, CLIMB)


@pytest.mark.parametrize("answer", ["last", "mean"])
def test_a_running_cascade_does_what_was_simulated(model, answer):
    images, labels = torch.randn(40, 3, 28, 28), torch.randint(0, 5, (40,))
    answers = collect_answers(model, [(images[:25], labels[:25]), (images[25:], labels[25:])], POINTS)
    answers = answers.last() if answer == "last" else answers
    for each in calibrate(answers, partial(climb_macs, model.config), max_rungs=2):
        assert each.ladder.answer == answer
        exits = Cascade(model, each.ladder, batch_size=8).predict(images)
        outcome = simulate(answers, each.ladder, partial(climb_macs, model.config))
        assert 100 * (exits.logits.argmax(1) == labels).float().mean() == pytest.approx(outcome.top1, abs=5.1)
        assert exits.executed_macs.double().mean() == pytest.approx(outcome.mean_macs, rel=0.05)  # of 40, two may tip over


def test_a_chosen_cascade_is_above_the_target_by_a_margin_where_one_is():
    curve = calibrate(some_answers(), CLIMB)
    target = curve[0].calibration.top1
    error = 100 * (0.01 * target * (1 - 0.01 * target) / 30) ** 0.5
    assert curve[0].calibration.standard_error == pytest.approx(error)
    safe = pick_cascade(curve, target_top1=target, safety=1.0)
    assert safe.calibration.top1 >= target + safe.calibration.standard_error > target
    assert pick_cascade(curve, target_top1=target, safety=1000.0) == curve[-1]
    with pytest.raises(InputError, match="safety -1 must be at least 0"):
        pick_cascade(curve, target_top1=target, safety=-1)


def test_targets_pick_from_the_curve():
    curve = calibrate(some_answers(), CLIMB)
    middle = curve[len(curve) // 2]
    assert pick_cascade(curve, target_top1=middle.calibration.top1, safety=0) == middle
    assert pick_cascade(curve, target_macs=middle.calibration.mean_macs) == middle
    with pytest.raises(InputError, match=r"no cascade reaches 101 %; the best has"):
        pick_cascade(curve, target_top1=101)
    with pytest.raises(InputError, match="no cascade costs at most 1 MACs; the cheapest"):
        pick_cascade(curve, target_macs=1)
    for targets in ({}, {"target_top1": 1, "target_macs": 1}):
        with pytest.raises(InputError, match="give one of the two"):
            pick_cascade(curve, **targets)


def test_ladders_can_be_given():
    pair = paper_ladder(CONFIG.space)
    curve = calibrate(some_answers(points=pair), CLIMB, ladders=[pair])
    assert {each.ladder.rungs for each in curve} == {pair}
    assert climb_macs(CONFIG, pair)[0] == executed_macs(CONFIG, pair[0])


def test_the_papers_pair_is_found_on_any_menu():
    assert [str(point) for point in paper_ladder(ComplexitySpace())] == ["8@0.5", "14@0.7"]
    assert [str(point) for point in paper_ladder(ComplexitySpace((4, 7), (1.0,)))] == ["4", "7"]


def test_what_cannot_be_calibrated_is_refused(model):
    with pytest.raises(InputError, match="no images to calibrate on"):
        collect_answers(model, [])
    with pytest.raises(InputError, match="1 images must be at least 2"):
        calibrate(some_answers(1), CLIMB)
    with pytest.raises(InputError, match="max_rungs 0"):
        calibrate(some_answers(), CLIMB, max_rungs=0)
