import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.sampling.sequence import MAX_POINTS, scrambled_points

SEEDS = st.integers(0, 2**80)


@settings(max_examples=40, deadline=None)
@given(seed=SEEDS, log_count=st.integers(0, 12), run=st.integers(0, 50), data=st.data())
def test_every_elementary_interval_holds_one_point(seed: int, log_count: int, run: int, data: st.DataObject) -> None:
    log_width = data.draw(st.integers(0, log_count))
    cells = np.array([2**log_width, 2 ** (log_count - log_width)])
    points = scrambled_points(run * 2**log_count, 2**log_count, seed)
    column, row = np.floor(points * cells).astype(int).T
    assert sorted(column * cells[1] + row) == list(range(2**log_count))


@settings(max_examples=25, deadline=None)
@given(seed=SEEDS, first=st.integers(0, 10_000), count=st.integers(0, 300), skipped=st.integers(0, 300))
def test_a_point_depends_on_its_number_and_the_seed_alone(seed: int, first: int, count: int, skipped: int) -> None:
    whole = scrambled_points(first, skipped + count, seed)
    np.testing.assert_array_equal(scrambled_points(first + skipped, count, seed), whole[skipped:])


def test_other_seeds_and_axes_are_scrambled_independently() -> None:
    """At every level, half of the bits of two sequences agree, give or take the chance of that many nodes."""
    planes = np.column_stack([scrambled_points(0, 2**14, seed) for seed in (*range(40), 2**32, 2**64 + 1)])
    bits = [(planes * 2.0**level).astype(np.int64) & 1 for level in range(7, 14)]
    for axis in range(2):
        for level, plane in enumerate(bits, start=7):
            agreement = [
                (plane[:, first] == plane[:, second]).mean()
                for first in range(axis, 84, 2)
                for second in range(first + 2, 84, 2)
            ]
            assert np.abs(np.array(agreement) - 0.5).max() < 3.0 / np.sqrt(2.0 ** (level - 1))


def test_the_first_points_without_scrambling_are_sobols(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipelines.sampling.sequence._scramble", lambda plane, _: plane)
    expected = [[0, 0], [1 / 2, 1 / 2], [1 / 4, 3 / 4], [3 / 4, 1 / 4], [1 / 8, 5 / 8], [5 / 8, 1 / 8]]
    np.testing.assert_allclose(scrambled_points(0, 6, 0), expected, atol=1e-9)


def test_the_last_points_exist_and_no_more() -> None:
    last = scrambled_points(MAX_POINTS - 2, 2, 5)
    assert ((last > 0) & (last < 1)).all()
    with pytest.raises(ValueError, match="expected numbers from 0 to 4294967296"):
        scrambled_points(MAX_POINTS - 1, 2, 5)
