"""Intervals against statsmodels and known answers; weighted and clustered samples are no surer than they are."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.satlas.validation.proportions import (
    clustered_proportion,
    proportion,
    stratified_proportion,
    wilson_interval,
)

STATSMODELS = [
    (57, 100, 0.05, 0.4721538955, 0.6626670148),
    (0, 10, 0.05, 0.0, 0.2775327999),
    (10, 10, 0.05, 0.7224672001, 1.0),
    (97, 100, 0.10, 0.9272896567, 0.9879481858),
    (1, 3, 0.01, 0.0404266293, 0.8557839850),
]
"""statsmodels.stats.proportion.proportion_confint(successes, trials, alpha, method="wilson"), version 0.15.0."""


@pytest.mark.parametrize(("successes", "trials", "alpha", "low", "high"), STATSMODELS)
def test_wilson_is_statsmodels_recorded(successes: int, trials: int, alpha: float, low: float, high: float) -> None:
    assert wilson_interval(successes, trials, 1 - alpha) == pytest.approx((low, high), abs=1e-9)


def test_wilson_is_statsmodels_for_all_small_counts() -> None:
    confint = pytest.importorskip("statsmodels.stats.proportion").proportion_confint
    for trials in (1, 2, 7, 30, 100, 5000):
        for successes in sorted({0, 1, trials // 3, trials - 1, trials}):
            for alpha in (0.01, 0.05, 0.2):
                expected = confint(successes, trials, alpha=alpha, method="wilson")
                found = wilson_interval(successes, trials, 1 - alpha)
                assert found == pytest.approx(expected, abs=1e-12), (successes, trials, alpha)


@given(st.integers(1, 500), st.data())
def test_an_interval_holds_its_share_mirrors_and_narrows(trials: int, data: st.DataObject) -> None:
    successes = data.draw(st.integers(0, trials))
    low, high = wilson_interval(successes, trials)
    assert 0 <= low <= successes / trials <= high <= 1
    assert low < high
    assert wilson_interval(trials - successes, trials) == pytest.approx((1 - high, 1 - low), abs=1e-12)
    more = wilson_interval(4 * successes, 4 * trials)
    assert more[1] - more[0] < high - low


@pytest.mark.parametrize(
    ("successes", "trials", "confidence"), [(1, 0, 0.95), (3, 2, 0.95), (-1, 2, 0.95), (1, 2, 1.0)]
)
def test_counts_that_cannot_be_are_refused(successes: int, trials: int, confidence: float) -> None:
    with pytest.raises(ValueError, match="expected 0 <= successes"):
        wilson_interval(successes, trials, confidence)


def test_strata_sampled_in_proportion_are_one_sample_and_others_count_less() -> None:
    even = stratified_proportion([30, 60], [50, 100], [500, 1000])
    for name in ("value", "low", "high", "trials"):
        assert getattr(even, name) == pytest.approx(getattr(proportion(90, 150), name))
    uneven = stratified_proportion([57, 97], [100, 100], [1_051, 87_197])
    assert uneven.value == pytest.approx((57 * 1_051 + 97 * 87_197) / 100 / 88_248)
    assert 100 < uneven.trials < 103
    assert stratified_proportion([57, 0], [100, 0], [10, 99]).value == 0.57
    with pytest.raises(ValueError, match="no stratum"):
        stratified_proportion([0], [0], [5])


def test_pixels_of_farms_are_no_surer_than_farms() -> None:
    hits, totals = np.array([100.0, 0.0, 100.0, 100.0]), np.full(4, 100.0)
    found = clustered_proportion(hits, totals)
    assert found.value == 0.75
    # Four farms hit as wholes tell as much as three independent trials: n - 1 by the unbiased variance.
    assert found.trials == pytest.approx(3)
    single = clustered_proportion(np.ones(400), np.ones(400))
    assert (single.value, single.trials) == (1.0, 400)
    rng = np.random.default_rng(2)
    pixels = (rng.random(2000) < 0.3).astype(float)
    assert clustered_proportion(pixels, np.ones(2000)).trials == pytest.approx(2000, rel=0.01)
    with pytest.raises(ValueError, match="no more hits"):
        clustered_proportion(np.array([2.0]), np.array([1.0]))
