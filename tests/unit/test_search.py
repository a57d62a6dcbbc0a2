"""Search of the post-processing against detection and metric image by image, and its nested fit."""

import math
from dataclasses import replace
from itertools import product

import numpy as np
import pytest

from cxr.geometry.detections import TrueBoxes
from cxr.methods.detector.records import GATES, BoxCase, Candidates, Params, detect
from cxr.methods.detector.search import (
    AXES,
    FittingUnit,
    Grid,
    Tally,
    constant_scores,
    fit,
    kept_counts,
    nested,
    search,
    sensitivity,
    transfer,
    unit_of,
)
from cxr.metrics.kaggle_map import image_score, kaggle_map
from cxr.metrics.means import mean_score

GATE_WEIGHTS = (0.0, 0.1, 1.0)
SMALL = Grid(
    (-0.5, 1.6),
    (1.0, 0.8),
    ("nms", "wbf"),
    (False, True),
    (False, True),
    (0.1, 0.6, 1.0, 1.5, 2.0, 3.0),
    nms_iou=(0.05, 0.5),
)
PLAIN = FittingUnit(0, 0, False)
MOVED = ("percentile_shrink", "scale", "merge", "gate", "half", "threshold")
PLAINEST = (0,) * len(AXES)


def index_of(*values, other=0):
    """One entry for each axis: these for those of MOVED, `other` for the rest."""
    by_axis = dict(zip(MOVED, values, strict=True))
    return tuple(by_axis.get(axis, other) for axis in AXES)


def make_case(i, positive, fold=0, test_like=False, group="", count=30):
    """Candidates scattered about two true boxes, or about nothing."""
    generator = np.random.default_rng(i)
    centre = generator.uniform(200, 800, (2, 2))
    size = generator.uniform(100, 300, (2, 2))
    about = generator.integers(2, size=count)
    size20 = size[about] * generator.uniform(0.8, 1.1, (count, 2))
    category = generator.dirichlet([1, 1, 1])
    scattered = centre[about] + generator.normal(0, 25, (count, 2))
    size80 = size20 * generator.uniform(1, 1.2, (count, 2))
    score = np.sort(generator.beta(1, 2, count))[::-1]
    candidates = Candidates(
        image_id=f"image{i}",
        width=1024,
        height=1024,
        category=category.astype(np.float32),
        centre=scattered.astype(np.float32),
        size20=size20.astype(np.float32),
        size80=size80.astype(np.float32),
        score=score.astype(np.float32),
        label=np.zeros(count, int),
    )
    true = TrueBoxes.empty()
    if positive:
        boxes = np.concatenate([centre - size / 2, centre + size / 2], axis=1)
        true = TrueBoxes(boxes, np.zeros(2, int))
    return BoxCase(candidates, true, fold, test_like, group)


@pytest.fixture(scope="module")
def cases():
    cases = []
    for i in range(12):
        cases.append(make_case(i, i % 3 == 0, fold=i % 3, test_like=i % 4 == 0))
    cases.append(make_case(100, True, fold=1, count=0))
    cases.append(make_case(101, False, fold=1, count=0))
    return cases


@pytest.fixture(scope="module")
def tally(cases):
    return search(iter(cases), SMALL, GATE_WEIGHTS)


def plain_score(cases, params):
    """The competition's score of what `detect` gives."""
    true = {}
    predicted = {}
    for case in cases:
        image_id = case.candidates.image_id
        true[image_id] = case.true.boxes
        predicted[image_id] = detect(case.candidates, params, GATE_WEIGHTS).boxes
    return kaggle_map(true, predicted)


def test_every_combination_equals_detect_and_metric(cases, tally):
    means = tally.means()
    for index in product(*map(range, SMALL.shape)):
        params = SMALL.params(index)
        assert means[index] == pytest.approx(plain_score(cases, params), abs=1e-9), params
    assert means.max() > 0.2  # the comparison is of something
    assert len(np.unique(means.round(6))) > 20


def test_combinations_of_some_units_only(cases, tally):
    params = Params(threshold=1.0)
    chosen = [case for case in cases if case.fold == 1 and case.test_like]
    units = [unit for unit in tally.tables if unit.fold == 1 and unit.test_like]
    means = tally.means(units)
    assert len(chosen) == 1
    assert means[SMALL.index(params)] == pytest.approx(plain_score(chosen, params))


def test_base_reaches_the_detection(cases):
    grid = replace(SMALL, base=Params(score_floor=0.3, wbf_iou=0.7), nms_iou=(0.6,))
    means = search(cases, grid, GATE_WEIGHTS).means()
    for index in (PLAINEST, index_of(1, 1, 1, 1, 1, 2), index_of(0, 1, 1, 0, 0, 1)):
        params = grid.params(index)
        assert params.nms_iou == 0.6
        assert means[index] == pytest.approx(plain_score(cases, params), abs=1e-9)


def test_default_grid_is_the_promised_one():
    grid = Grid()
    assert len(grid.threshold) == 80
    assert grid.threshold[0] == 0.05
    assert grid.threshold[-1] == 4.0
    assert np.prod(grid.shape) >= 500
    assert grid.params(PLAINEST) == Params(threshold=0.05)
    for index in (PLAINEST, index_of(4, 5, 1, 1, 1, 39), index_of(2, 3, 0, 1, 0, 17)):
        assert grid.index(grid.params(index)) == index
    with pytest.raises(ValueError):
        grid.index(Params(threshold=0.51))


def hand_tally(scores, count=10):
    """Tally of a grid of two shrinks and T thresholds, each near its neighbours only.

    scores: {unit: mean scores (2, T)}; count: images of each unit.
    """
    tables = {}
    for unit, of_unit in scores.items():
        table = np.array(of_unit, float).reshape(*index_of(2, 1, 1, 1, 1, -1, other=1))
        tables[unit] = np.stack([table * count, np.full(table.shape, count)])
        thresholds = tuple(1.15 ** np.arange(table.shape[-1]))
    grid = Grid((-0.5, 1.6), (1.0,), ("nms",), (False,), (False,), thresholds)
    return Tally(grid, tables)


def test_fit_prefers_a_plateau_to_a_lone_peak():
    scores = [[0, 0, 0.9, 0, 0, 0], [0, 0, 0.5, 0.6, 0.5, 0]]
    params = fit(hand_tally({PLAIN: scores}))
    assert params.percentile_shrink == 1.6
    assert params.threshold == 1.15**3


def test_fit_breaks_ties_by_the_plainest_and_the_middle():
    params = fit(hand_tally({PLAIN: [[0.5] * 5, [0.5] * 5]}))
    assert params.percentile_shrink == -0.5
    assert params.threshold == 1.15**2
    scores = [[0.1] * 9, [0, 0, 0.5, 0.5, 0.5, 0.5, 0.5, 0, 0]]
    params = fit(hand_tally({PLAIN: scores}))
    assert params.percentile_shrink == 1.6
    assert params.threshold == 1.15**4


def test_the_end_of_the_thresholds_is_no_worse_than_their_middle():
    scores = [[0.6, 0.6, 0, 0, 0], [0, 0.5, 0.5, 0.5, 0]]
    params = fit(hand_tally({PLAIN: scores}))
    assert params.percentile_shrink == -0.5
    assert params.threshold == 1


def test_a_score_equal_to_the_threshold_is_not_kept():
    grid = Grid((-0.5,), (1.0,), ("nms",), (False, True), (False, True), (1.25, 2.5, 3.75))
    counts = kept_counts(np.array([0.75, 0.5, 0.25]), [0.75], grid)[0]
    np.testing.assert_array_equal(counts[0], [[2, 1, 0], [2, 1, 0]])
    # 5 * sqrt(score * 0.75) = 3.75, 3.06, 2.17
    np.testing.assert_array_equal(counts[1], [[3, 2, 0], [2, 2, 0]])


def test_fit_on_nothing_is_the_plainest():
    nothing = search([], SMALL, GATE_WEIGHTS)
    assert fit(nothing) == SMALL.params(index_of(0, 0, 0, 0, 0, 3))
    outcome = nested(nothing)
    assert outcome.score == 0.0
    assert outcome.counted == 0
    assert outcome.held_out == {}


def test_fit_weighs_units_by_their_images():
    many = FittingUnit(0, 0, False)
    few = FittingUnit(1, 0, False)
    tally = hand_tally({many: [[1, 1, 1], [0, 0, 0]], few: [[0, 0, 0], [1, 1, 1]]})
    tally.tables[many] *= 3
    assert fit(tally).percentile_shrink == -0.5
    tally.tables[few] *= 9
    assert fit(tally).percentile_shrink == 1.6


def test_nested_does_not_look_at_the_fold_it_scores():
    """Each fold alone would choose what suits only itself; the other folds choose the opposite."""
    plain = [[0.9] * 3, [0.1] * 3]
    shrunk = [[0.2] * 3, [0.8] * 3]
    first = FittingUnit(0, 0, False)
    second = FittingUnit(1, 0, False)
    like = FittingUnit(1, 1, True)
    outcome = nested(hand_tally({first: plain, second: shrunk, like: shrunk}))
    assert outcome.held_out[first].percentile_shrink == 1.6
    assert outcome.held_out[second].percentile_shrink == -0.5
    assert outcome.held_out[like] == outcome.held_out[second]
    assert outcome.score == pytest.approx((0.1 + 0.2 + 0.2) / 3)
    assert outcome.counted == 30
    assert outcome.score_test_like == pytest.approx(0.2)
    assert outcome.final.percentile_shrink == 1.6  # 0.2 + 0.2 + 0.9 against 0.8 + 0.8 + 0.1


def test_nested_score_is_that_of_detection_image_by_image(cases, tally):
    outcome = nested(tally)
    scores = []
    for case in cases:
        detections = detect(case.candidates, outcome.params_for(case), GATE_WEIGHTS)
        scores.append(image_score(case.true.boxes, detections.boxes))
    assert outcome.score == pytest.approx(mean_score(scores))
    assert outcome.score > 0
    assert outcome.counted == np.sum(~np.isnan(scores))
    is_like = [case.test_like for case in cases]
    like_scores = np.array(scores)[is_like]
    assert outcome.score_test_like == pytest.approx(mean_score(like_scores))
    assert outcome.final == fit(tally)


def test_one_fold_is_split_in_halves_by_group():
    cases = [make_case(i, True, group=f"patient{i // 2}") for i in range(12)]
    for one, other in zip(cases[::2], cases[1::2], strict=True):
        assert unit_of(one) == unit_of(other)
    tally = search(cases, SMALL, GATE_WEIGHTS)
    halves: dict[int, list[FittingUnit]] = {0: [], 1: []}
    for unit in tally.tables:
        halves[unit.part % 2].append(unit)
    assert halves[0] and halves[1]
    outcome = nested(tally)
    for unit, params in outcome.held_out.items():
        assert params == fit(tally, halves[1 - unit.part % 2])


def test_halves_do_not_depend_on_the_process():
    for i in range(4):
        alone = make_case(i, True)
        assert unit_of(alone) == unit_of(make_case(i, True, group=f"image{i}"))
    halves = [unit_of(make_case(0, True, group=group)).part % 2 for group in "abcd"]
    assert set(halves) == {0, 1}
    assert halves[0] == 0xE8B7BE43 % 2  # CRC-32 of "a"


def test_one_image():
    outcome = nested(search([make_case(0, True)], SMALL, GATE_WEIGHTS))
    assert outcome.counted == 1
    assert 0 <= outcome.score <= 1


def test_transfer_fits_on_test_like_images_and_scores_the_others():
    like = FittingUnit(0, 0, True)
    scores = {like: [[0.1] * 3, [0.5] * 3], PLAIN: [[0.9] * 3, [0.3] * 3]}
    outcome = transfer(hand_tally(scores))
    assert outcome.final.percentile_shrink == 1.6
    assert outcome.score == pytest.approx(0.3)
    assert outcome.counted == 10
    assert set(outcome.held_out) == {PLAIN}
    assert math.isnan(outcome.score_test_like)
    assert outcome.params_for(make_case(0, True, test_like=True)) is None
    with pytest.raises(ValueError, match="test_like"):
        transfer(hand_tally({PLAIN: [[1], [1]]}))


def test_a_restricted_tally_is_the_tally_of_the_smaller_grid(cases, tally):
    fewer = {"gate": (False,), "percentile_shrink": (-0.5,), "threshold": (0.6, 2.0)}
    smaller = tally.only(**fewer)
    again = search(cases, replace(SMALL, **fewer), GATE_WEIGHTS)
    assert smaller.grid == again.grid
    assert smaller.tables.keys() == again.tables.keys()
    for unit, table in smaller.tables.items():
        np.testing.assert_allclose(table, again.tables[unit])
    assert fit(tally.only(gate=(True,))).gate
    assert not fit(smaller).gate
    with pytest.raises(ValueError, match="gates"):
        tally.only(gates=(False,))
    with pytest.raises(ValueError):
        tally.only(scale=(0.5,))


def test_sensitivity_moves_one_parameter_at_a_time(cases, tally):
    best = fit(tally)
    lines = sensitivity(tally, best)
    several = [axis for axis in AXES if len(SMALL.values(axis)) > 1]
    assert list(lines) == several
    assert list(sensitivity(tally.only(merge=("nms",)), replace(best, merge="nms"))) == [
        axis for axis in several if axis != "merge"
    ]
    assert [len(line) for line in lines.values()] == [len(SMALL.values(axis)) for axis in several]
    for axis, line in lines.items():
        for value, score in line:
            expected = plain_score(cases, replace(best, **{axis: value}))
            assert score == pytest.approx(expected, abs=1e-9)


def test_constant_guess():
    """Sorted by confidence the exact box takes the true one and the other is false."""
    true = [np.array([[0, 0, 10, 10]]), np.zeros((0, 4)), np.array([[50, 50, 60, 60]])]
    guess = [(0.4, (0, 0, 10, 8.2)), (0.6, (0, 0, 10, 10))]
    np.testing.assert_allclose(constant_scores(true, guess), [0.5, 0.0, 0.0])
    assert np.isnan(constant_scores([np.zeros((0, 4))], [])).all()


def with_votes(case, seed):
    """The case with shares of votes in quarters, and classes by a run that gates."""
    generator = np.random.default_rng(seed)
    candidates = replace(
        case.candidates,
        votes=generator.integers(5, size=len(case.candidates.score)) / 4,
        gate_category=generator.dirichlet([1, 1, 1]),
    )
    return replace(case, candidates=candidates)


def test_rules_that_are_only_tried_where_asked(cases):
    """Vote counts, lone boxes and the gate by a run, against detection image by image."""
    grid = Grid(
        percentile_shrink=(-0.5,),
        scale=(0.875,),
        merge=("nms",),
        half=(False,),
        threshold=(0.6, 1.5),
        votes=(0.0, 0.5, 1.0),
        lone=(1.0, 3.0),
        gate_by=GATES,
    )
    voted = [with_votes(case, seed) for seed, case in enumerate(cases[:7])]
    means = search(voted, grid, GATE_WEIGHTS).means()
    for index in product(*map(range, grid.shape)):
        params = grid.params(index)
        assert means[index] == pytest.approx(plain_score(voted, params), abs=1e-9), params
    for axis in ("votes", "lone", "gate_by"):
        moved = np.moveaxis(means, AXES.index(axis), 0)
        assert not np.allclose(moved[0], moved[1])


def test_a_run_that_knows_the_classes_gates():
    """The detector's own classes are drawn at random, the run's are right."""
    cases = []
    for i in range(8):
        case = make_case(i, i % 2 == 0, fold=i // 2 % 2)
        classes = np.eye(3)[2 if i % 2 == 0 else 0]
        cases.append(replace(case, candidates=replace(case.candidates, gate_category=classes)))
    grid = Grid(merge=("nms",), gate_by=GATES, base=Params(gate_run="c"))
    outcome = nested(search(cases, grid, GATE_WEIGHTS))
    record = outcome.final.record()
    assert (record["gate"], record["gate_by"], record["gate_run"]) == (True, "run", "c")
    assert outcome.counted == 4  # nothing is predicted where nothing is
