import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, f1_score

from pipelines.ground_cover.metrics import (
    average_precision,
    calibration_error,
    classification_metrics,
    confusion_matrix,
    lift_intervals,
    precision_lift,
)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), num=st.integers(2, 40), levels=st.integers(1, 8))
def test_average_precision_is_that_of_scikit_learn_ties_included(seed, num, levels):
    rng = np.random.default_rng(seed)
    relevant, score = rng.random(num) < 0.4, rng.integers(0, levels, num).astype(float)
    relevant[0] = True
    weight = rng.integers(0, 3, num).astype(float)
    weight[0] = 1
    assert average_precision(relevant, score) == pytest.approx(average_precision_score(relevant, score))
    expected = average_precision_score(relevant, score, sample_weight=weight)
    assert average_precision(relevant, score, weight) == pytest.approx(expected)


def test_average_precision_without_any_relevant_is_not_a_number():
    assert np.isnan(average_precision(np.zeros(3, dtype=bool), np.arange(3.0)))
    assert np.isnan(precision_lift(np.zeros(3, dtype=bool), np.arange(3.0)))


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), num=st.integers(1, 40))
def test_macro_f1_is_that_of_scikit_learn(seed, num):
    rng = np.random.default_rng(seed)
    probabilities = rng.dirichlet(np.ones(5), num)
    truth = rng.integers(0, 4, num)
    found = classification_metrics(probabilities, truth)
    predicted = probabilities.argmax(axis=1)
    assert found["macro_f1"] == pytest.approx(f1_score(truth, predicted, average="macro", zero_division=0))
    assert found["accuracy"] == pytest.approx((truth == predicted).mean())


def test_confusion_counts_true_classes_in_rows():
    found = confusion_matrix(np.array([0, 0, 2]), np.array([1, 0, 2]), 3)
    assert found.tolist() == [[1, 1, 0], [0, 0, 0], [0, 0, 1]]


def test_calibration_error_is_the_gap_of_confidence_and_accuracy():
    sure = np.tile([0.9, 0.1], (10, 1))
    assert calibration_error(sure, np.array([0] * 9 + [1])) == pytest.approx(0.0)
    assert calibration_error(sure, np.array([0] * 5 + [1] * 5)) == pytest.approx(0.4)
    assert calibration_error(np.array([[1.0, 0.0]]), np.array([0])) == 0.0


def test_a_perfect_ranking_lifts_by_one_over_the_share():
    relevant = np.array([True, False, False, False])
    assert precision_lift(relevant, np.array([4.0, 3, 2, 1])) == pytest.approx(4.0)


def test_bounds_enclose_the_value_and_a_class_without_patches_is_left_out_of_the_mean():
    rng = np.random.default_rng(0)
    relevant = np.zeros((60, 3), dtype=bool)
    relevant[:20, 0], relevant[20:30, 1] = True, True
    scores = relevant + rng.normal(0, 0.6, relevant.shape)
    per_class, mean = lift_intervals(relevant, scores, np.arange(60) % 12, np.random.default_rng(1), 200)
    assert [each.lower < each.value < each.upper for each in per_class[:2]] == [True, True]
    assert np.isnan(per_class[2].value)
    assert mean.value == pytest.approx((per_class[0].value + per_class[1].value) / 2)
    assert mean.lower < mean.value < mean.upper
