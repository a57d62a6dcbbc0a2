from dataclasses import replace
from itertools import product

import numpy as np
import pytest

from cxr.methods.detector import search
from cxr.methods.detector.records import Candidates, Params, detect
from cxr.methods.detector.search import AXES, Case, Grid, Part, Tally
from cxr.metrics.kaggle_map import image_score, kaggle_map
from cxr.metrics.means import mean_score

GATE = (0.0, 0.1, 1.0)
SMALL = Grid(
    (-0.5, 1.6),
    (1.0, 0.8),
    ("nms", "wbf"),
    (False, True),
    (False, True),
    (0.1, 0.6, 1.0, 1.5, 2.0, 3.0),
)


def make_case(i, positive, fold=0, test_like=False, group="", n=30):
    """Candidates scattered about the true boxes, or about nothing."""
    generator = np.random.default_rng(i)
    centre, size = generator.uniform(200, 800, (2, 2)), generator.uniform(100, 300, (2, 2))
    which = generator.integers(2, size=n)
    size20 = size[which] * generator.uniform(0.8, 1.1, (n, 2))
    candidates = Candidates(
        f"image{i}",
        1024,
        1024,
        generator.dirichlet([1, 1, 1]).astype(np.float32),
        (centre[which] + generator.normal(0, 25, (n, 2))).astype(np.float32),
        size20.astype(np.float32),
        (size20 * generator.uniform(1, 1.2, (n, 2))).astype(np.float32),
        np.sort(generator.beta(1, 2, n))[::-1].astype(np.float32),
        np.zeros(n, int),
    )
    true = (
        np.concatenate([centre - size / 2, centre + size / 2], axis=1)
        if positive
        else np.zeros((0, 4))
    )
    return Case(candidates, true, fold, test_like, group)


@pytest.fixture(scope="module")
def cases():
    empty = make_case(100, True, fold=1, n=0), make_case(101, False, fold=1, n=0)
    return [make_case(i, i % 3 == 0, fold=i % 3, test_like=i % 4 == 0) for i in range(12)] + list(
        empty
    )


@pytest.fixture(scope="module")
def tally(cases):
    return search.search(iter(cases), SMALL, GATE)


def naive(cases, params):
    return kaggle_map(
        {case.candidates.image_id: case.boxes for case in cases},
        {case.candidates.image_id: detect(case.candidates, params, GATE)[0] for case in cases},
    )


def test_every_combination_equals_detect_and_metric(cases, tally):
    means = tally.means()
    for index in product(*map(range, SMALL.shape)):
        assert means[index] == pytest.approx(naive(cases, SMALL.params(index)), abs=1e-9), (
            SMALL.params(index)
        )
    assert (
        means.max() > 0.2 and len(np.unique(means.round(6))) > 20
    )  # the comparison is of something


def test_combinations_of_some_parts_only(cases, tally):
    params = Params(threshold=1.0)
    some = [case for case in cases if case.fold == 1 and case.test_like]
    means = tally.means(lambda part: part.fold == 1 and part.test_like)
    assert len(some) == 1 and means[SMALL.index(params)] == pytest.approx(naive(some, params))


def test_base_reaches_the_detection(cases):
    grid = replace(SMALL, base=Params(nms_iou=0.6, score_floor=0.3, wbf_iou=0.7))
    means = search.search(cases, grid, GATE).means()
    for index in ((0, 0, 0, 0, 0, 0), (1, 1, 1, 1, 1, 2), (0, 1, 1, 0, 0, 1)):
        params = grid.params(index)
        assert params.nms_iou == 0.6 and means[index] == pytest.approx(
            naive(cases, params), abs=1e-9
        )


def test_default_grid_is_the_promised_one():
    grid = Grid()
    assert len(grid.threshold) == 80 and grid.threshold[0] == 0.05 and grid.threshold[-1] == 4.0
    assert np.prod(grid.shape) >= 500
    assert grid.params((0,) * 6) == Params(threshold=0.05)
    for index in ((0,) * 6, (4, 5, 1, 1, 1, 39), (2, 3, 0, 1, 0, 17)):
        assert grid.index(grid.params(index)) == index
    with pytest.raises(ValueError):
        grid.index(Params(threshold=0.51))


def flat_grid(thresholds):
    return Grid((-0.5, 1.6), (1.0,), ("nms",), (False,), (False,), thresholds)


def hand_tally(values, count=10):
    """Tally of a grid of two shrinks with these mean scores; `values` is {Part: (2, T)}."""
    values = {
        part: np.array(value, float).reshape(2, 1, 1, 1, 1, -1) for part, value in values.items()
    }
    thresholds = tuple(
        1.15 ** np.arange(next(iter(values.values())).shape[-1])
    )  # each is near its neighbours only
    parts = {
        part: np.stack([value * count, np.full(value.shape, count)])
        for part, value in values.items()
    }
    return Tally(flat_grid(thresholds), parts)


def test_fit_prefers_a_plateau_to_a_lone_peak():
    found = search.fit(
        hand_tally({Part(0, 0, False): [[0, 0, 0.9, 0, 0, 0], [0, 0, 0.5, 0.6, 0.5, 0]]})
    )
    assert (found.percentile_shrink, found.threshold) == (1.6, 1.15**3)


def test_fit_breaks_ties_by_the_plainest_and_the_middle():
    found = search.fit(hand_tally({Part(0, 0, False): [[0.5] * 5, [0.5] * 5]}))
    assert (found.percentile_shrink, found.threshold) == (-0.5, 1.15**2)
    found = search.fit(
        hand_tally({Part(0, 0, False): [[0.1] * 9, [0, 0, 0.5, 0.5, 0.5, 0.5, 0.5, 0, 0]]})
    )
    assert (found.percentile_shrink, found.threshold) == (1.6, 1.15**4)


def test_the_end_of_the_thresholds_is_no_worse_than_their_middle():
    found = search.fit(
        hand_tally({Part(0, 0, False): [[0.6, 0.6, 0, 0, 0], [0, 0.5, 0.5, 0.5, 0]]})
    )
    assert (found.percentile_shrink, found.threshold) == (-0.5, 1)


def test_a_score_equal_to_the_threshold_is_not_kept():
    grid = Grid((-0.5,), (1.0,), ("nms",), (False, True), (False, True), (1.25, 2.5, 3.75))
    counts = search.kept_counts(np.array([0.75, 0.5, 0.25]), 0.75, grid)
    np.testing.assert_array_equal(counts[0], [[2, 1, 0], [2, 1, 0]])
    np.testing.assert_array_equal(
        counts[1], [[3, 2, 0], [2, 2, 0]]
    )  # 5 * sqrt(score * 0.75) = 3.75, 3.06, 2.17


def test_fit_on_nothing_is_the_plainest():
    nothing = search.search([], SMALL, GATE)
    assert search.fit(nothing) == SMALL.params((0, 0, 0, 0, 0, 3))
    result = search.nested(nothing)
    assert (result.score, result.counted, result.held_out) == (0.0, 0, {})


def test_fit_weighs_parts_by_their_images():
    many, few = Part(0, 0, False), Part(1, 0, False)
    tally = hand_tally({many: [[1, 1, 1], [0, 0, 0]], few: [[0, 0, 0], [1, 1, 1]]})
    tally.parts[many] *= 3
    assert search.fit(tally).percentile_shrink == -0.5
    tally.parts[few] *= 9
    assert search.fit(tally).percentile_shrink == 1.6


def test_nested_does_not_look_at_the_fold_it_scores():
    # Each fold alone would choose what suits only itself; the other folds choose the opposite.
    plain, shrunk = [[0.9] * 3, [0.1] * 3], [[0.2] * 3, [0.8] * 3]
    tally = hand_tally(
        {Part(0, 0, False): plain, Part(1, 0, False): shrunk, Part(1, 1, True): shrunk}
    )
    result = search.nested(tally)
    assert result.held_out[Part(0, 0, False)].percentile_shrink == 1.6
    assert result.held_out[Part(1, 0, False)].percentile_shrink == -0.5
    assert result.held_out[Part(1, 1, True)] == result.held_out[Part(1, 0, False)]
    assert result.score == pytest.approx((0.1 + 0.2 + 0.2) / 3) and result.counted == 30
    assert result.score_test_like == pytest.approx(0.2)
    assert result.final.percentile_shrink == 1.6  # 0.2 + 0.2 + 0.9 against 0.8 + 0.8 + 0.1


def test_nested_score_is_that_of_detection_image_by_image(cases, tally):
    result = search.nested(tally)
    boxes = [detect(case.candidates, result.params_for(case), GATE)[0] for case in cases]
    scores = [image_score(case.boxes, found) for case, found in zip(cases, boxes)]
    assert result.score == pytest.approx(mean_score(scores)) and result.score > 0
    assert result.counted == np.sum(~np.isnan(scores))
    like = [score for case, score in zip(cases, scores) if case.test_like]
    assert result.score_test_like == pytest.approx(mean_score(like))
    assert result.final == search.fit(tally)


def test_one_fold_is_split_in_halves_by_group():
    cases = [make_case(i, True, group=f"patient{i // 2}") for i in range(12)]
    assert all(a.part == b.part for a, b in zip(cases[::2], cases[1::2]))
    tally = search.search(cases, SMALL, GATE)
    assert set(tally.parts) == {Part(0, 0, False), Part(0, 1, False)}
    result = search.nested(tally)
    for half in (0, 1):
        assert result.held_out[Part(0, half, False)] == search.fit(
            tally, lambda part: part.half != half
        )


def test_halves_do_not_depend_on_the_process():
    for i in range(4):
        assert make_case(i, True).part == make_case(i, True, group=f"image{i}").part
    assert {make_case(0, True, group=group).part.half for group in ("a", "b", "c", "d")} == {0, 1}
    assert make_case(0, True, group="a").part.half == 0xE8B7BE43 % 2  # CRC-32 of "a"


def test_one_image():
    result = search.nested(search.search([make_case(0, True)], SMALL, GATE))
    assert result.counted == 1 and 0 <= result.score <= 1


def test_transfer_fits_on_test_like_images_and_scores_the_others():
    tally = hand_tally(
        {Part(0, 0, True): [[0.1] * 3, [0.5] * 3], Part(0, 0, False): [[0.9] * 3, [0.3] * 3]}
    )
    result = search.transfer(tally)
    assert (
        result.final.percentile_shrink == 1.6
        and result.score == pytest.approx(0.3)
        and result.counted == 10
    )
    assert set(result.held_out) == {Part(0, 0, False)} and result.score_test_like == 0
    assert result.params_for(make_case(0, True, test_like=True)) is None
    with pytest.raises(ValueError, match="test_like"):
        search.transfer(hand_tally({Part(0, 0, False): [[1], [1]]}))


def test_a_restricted_tally_is_the_tally_of_the_smaller_grid(cases, tally):
    smaller = tally.only(gate=(False,), percentile_shrink=(-0.5,), threshold=(0.6, 2.0))
    again = search.search(
        cases, replace(SMALL, gate=(False,), percentile_shrink=(-0.5,), threshold=(0.6, 2.0)), GATE
    )
    assert smaller.grid == again.grid and smaller.parts.keys() == again.parts.keys()
    for part, table in smaller.parts.items():
        np.testing.assert_allclose(table, again.parts[part])
    assert search.fit(tally.only(gate=(True,))).gate and not search.fit(smaller).gate
    with pytest.raises(ValueError, match="gates"):
        tally.only(gates=(False,))
    with pytest.raises(ValueError):
        tally.only(scale=(0.5,))


def test_sensitivity_moves_one_parameter_at_a_time(cases, tally):
    best = search.fit(tally)
    lines = search.sensitivity(tally, best)
    assert list(lines) == list(AXES) and [len(line) for line in lines.values()] == list(SMALL.shape)
    for axis, line in lines.items():
        for value, score in line:
            assert score == pytest.approx(naive(cases, replace(best, **{axis: value})), abs=1e-9)


def test_constant_guess():
    true = [np.array([[0, 0, 10, 10]]), np.zeros((0, 4)), np.array([[50, 50, 60, 60]])]
    constant = [(0.4, (0, 0, 10, 8.2)), (0.6, (0, 0, 10, 10))]
    # Sorted by confidence the exact box takes the true one and the other is false.
    np.testing.assert_allclose(search.constant_scores(true, constant), [0.5, 0.0, 0.0])
    assert np.isnan(search.constant_scores([np.zeros((0, 4))], [])).all()
