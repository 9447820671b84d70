import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.training.shuffling import epoch_order, measure_shuffle, windowed_order

SHARDS = np.arange(4000) // 40


@given(
    sizes=st.lists(st.integers(0, 9), min_size=1, max_size=12).filter(any),
    window_shards=st.integers(1, 14),
    seed=st.integers(0, 99),
    epoch=st.integers(0, 99),
)
def test_an_epoch_visits_every_place_once_window_by_window(
    sizes: list[int], window_shards: int, seed: int, epoch: int
) -> None:
    shards = np.repeat(np.arange(len(sizes)), sizes)
    order = windowed_order(shards, window_shards, seed, epoch)
    assert sorted(order.tolist()) == list(range(len(shards)))
    assert sorted(epoch_order(len(shards), seed, epoch).tolist()) == list(range(len(shards)))
    first, last = np.full(len(sizes), len(shards)), np.full(len(sizes), -1)
    np.minimum.at(first, shards[order], np.arange(len(shards)))
    np.maximum.at(last, shards[order], np.arange(len(shards)))
    at = np.arange(len(shards))[:, None]
    assert ((first <= at) & (at <= last)).sum(axis=1).max() <= window_shards


@pytest.mark.parametrize("window_shards", [0, 8])
def test_seed_and_epoch_decide_the_order(window_shards: int) -> None:
    def order(seed: int, epoch: int) -> list[int]:
        if window_shards:
            return windowed_order(SHARDS, window_shards, seed, epoch).tolist()
        return epoch_order(len(SHARDS), seed, epoch).tolist()

    assert order(3, 5) == order(3, 5)
    assert len({tuple(order(seed, epoch)) for seed in (0, 1) for epoch in (0, 1)}) == 4


def test_a_uniform_order_measures_as_uniform() -> None:
    measured = [measure_shuffle(epoch_order(len(SHARDS), 0, epoch).numpy(), SHARDS, 100) for epoch in range(20)]
    assert np.mean([each.neighbor_ratio for each in measured]) == pytest.approx(1.0, abs=0.02)
    assert np.abs([each.rank_correlation for each in measured]).max() < 4 / np.sqrt(len(SHARDS))


def test_store_order_and_narrow_windows_measure_as_far_from_it() -> None:
    in_order = measure_shuffle(np.arange(len(SHARDS)), SHARDS, 40)
    assert in_order.rank_correlation == pytest.approx(1.0)
    assert in_order.neighbor_ratio == pytest.approx(3999 / 39)
    ratios = [measure_shuffle(windowed_order(SHARDS, each, 0, 0), SHARDS, 40).neighbor_ratio for each in (1, 10, 100)]
    assert ratios[0] == pytest.approx(3999 / 39)
    assert ratios[0] > 5 * ratios[1] > 25 * ratios[2]
    assert ratios[2] == pytest.approx(1.0, abs=0.1)
