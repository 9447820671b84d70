"""Average precision, F1 and the matching of points, against hand calculations and scikit-learn."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, f1_score

from pipelines.satlas.training.metrics import curve_of_histograms, curve_of_matches, match_points


@given(st.lists(st.tuples(st.integers(0, 20), st.booleans()), min_size=1, max_size=60))
def test_average_precision_and_f1_are_those_of_scikit_learn(rows: list[tuple[int, bool]]) -> None:
    scores = np.array([score / 20 for score, _ in rows])
    right = np.array([flag for _, flag in rows])
    curve = curve_of_matches(scores, right, int(right.sum()))
    if right.any():
        assert curve.average_precision == pytest.approx(average_precision_score(right, scores))
        for threshold in np.unique(scores):
            assert curve.f1_at(threshold) == pytest.approx(f1_score(right, scores >= threshold))
        assert curve.best[1] == pytest.approx(max(f1_score(right, scores >= each) for each in np.unique(scores)))
    else:
        assert np.isnan(curve.average_precision)


@given(st.lists(st.tuples(st.integers(0, 9), st.booleans()), min_size=1, max_size=60))
def test_counts_by_score_give_the_same_curve(rows: list[tuple[int, bool]]) -> None:
    bins, right = np.array([each for each, _ in rows]), np.array([flag for _, flag in rows])
    counted = curve_of_histograms(
        np.bincount(bins[right], minlength=10), np.bincount(bins[~right], minlength=10), np.arange(10) / 10
    )
    listed = curve_of_matches(bins / 10, right, int(right.sum()))
    np.testing.assert_allclose(counted.precision, listed.precision)
    np.testing.assert_allclose(counted.recall, listed.recall)
    np.testing.assert_allclose(counted.threshold, listed.threshold)


@given(st.lists(st.tuples(st.integers(0, 20), st.booleans()), min_size=1, max_size=60))
def test_the_separating_threshold_publishes_what_the_best_f1_counts(rows: list[tuple[int, bool]]) -> None:
    scores, right = np.array([score / 20 for score, _ in rows]), np.array([flag for _, flag in rows])
    curve = curve_of_matches(scores, right, int(right.sum()))
    if not right.any():
        assert np.isnan(curve.separating_threshold)
        return
    lower = scores[scores < curve.best[0]]
    assert curve.separating_threshold == pytest.approx(
        (curve.best[0] + lower.max(initial=-1)) / 2 if len(lower) else curve.best[0]
    )
    assert ((scores >= curve.separating_threshold) == (scores >= curve.best[0])).all()


def test_what_was_not_found_lowers_recall() -> None:
    curve = curve_of_matches(np.array([0.9, 0.8, 0.7]), np.array([True, False, True]), 4)
    assert curve.average_precision == pytest.approx(1 / 4 * 1 + 1 / 4 * 2 / 3)
    assert curve.f1_at(0.85) == pytest.approx(2 * 1 * 0.25 / 1.25)
    assert curve.f1_at(0.95) == 0.0


def test_the_best_point_takes_the_known_one_and_a_double_is_wrong() -> None:
    known = np.array([[0.0, 0.0], [100.0, 0.0]])
    predicted = np.array([[3.0, 0.0], [1.0, 0.0], [99.0, 5.0], [300.0, 0.0]])
    right, counts = match_points(predicted, np.array([0.9, 0.8, 0.7, 0.6]), known, 10.0)
    assert right.tolist() == [True, False, True, False]
    assert counts.all()


def test_a_prediction_at_a_difficult_point_does_not_count() -> None:
    known = np.array([[0.0, 0.0], [4.0, 0.0]])
    right, counts = match_points(
        np.array([[1.0, 0.0], [2.0, 0.0]]), np.array([0.9, 0.8]), known, 10.0, np.array([True, False])
    )
    assert right.tolist() == [True, False]
    assert counts.tolist() == [True, False]


def test_nothing_known_and_nothing_predicted() -> None:
    empty = np.zeros((0, 2))
    right, _ = match_points(np.array([[1.0, 1.0]]), np.array([0.5]), empty, 10.0)
    assert right.tolist() == [False]
    assert len(match_points(empty, np.zeros(0), np.array([[1.0, 1.0]]), 10.0)[0]) == 0
    assert curve_of_matches(np.zeros(0), np.zeros(0, dtype=bool), 3).average_precision == 0.0
