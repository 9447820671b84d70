import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.evaluation.splits import block_cells
from pipelines.training.splits import is_validation_block, is_validation_place


@given(
    ids=st.lists(st.integers(0, 10**9), unique=True, max_size=40),
    added=st.lists(st.integers(0, 10**9), unique=True, max_size=40),
    seed=st.integers(0, 2**31),
)
def test_split_is_unchanged_when_locations_are_added(ids: list[int], added: list[int], seed: int) -> None:
    alone = dict(zip(ids, is_validation_place(ids, seed, 0.25), strict=True))
    everything = sorted({*ids, *added}, reverse=True)
    together = dict(zip(everything, is_validation_place(everything, seed, 0.25), strict=True))
    assert all(together[each] == alone[each] for each in ids)


def test_split_has_the_asked_share_and_depends_on_the_seed() -> None:
    ids = np.arange(20_000)
    split = is_validation_place(ids, seed=0, fraction=0.25)
    assert split.mean() == pytest.approx(0.25, abs=0.01)
    assert 0.3 < (split != is_validation_place(ids, seed=1, fraction=0.25)).mean() < 0.45
    assert not is_validation_place(ids, seed=0, fraction=0.0).any()


def test_split_is_the_one_recorded_in_checkpoints() -> None:
    assert np.flatnonzero(is_validation_place(range(20), seed=0, fraction=0.25)).tolist() == [3, 7, 8, 9, 11, 12, 18]


def test_a_larger_fraction_keeps_the_validation_places() -> None:
    ids = np.arange(1000)
    assert (is_validation_place(ids, 3, 0.4) >= is_validation_place(ids, 3, 0.2)).all()


def scattered(num: int) -> np.ndarray:
    rng = np.random.default_rng(num)
    return np.stack([rng.uniform(-180, 180, num), np.degrees(np.arcsin(rng.uniform(-1, 1, num)))], axis=1)


@pytest.mark.parametrize("blocks_deg", [7.0, 10.0, 45.0])
def test_blocks_are_held_out_whole(blocks_deg: float) -> None:
    lonlat_deg = scattered(3000)
    held_out = is_validation_block(lonlat_deg, blocks_deg, seed=2, fraction=0.3)
    cells = [tuple(cell) for cell in block_cells(lonlat_deg, blocks_deg)]
    validation = {cell for cell, held in zip(cells, held_out, strict=True) if held}
    training = {cell for cell, held in zip(cells, held_out, strict=True) if not held}
    assert validation
    assert training
    assert not validation & training


def test_blocks_are_unchanged_when_places_are_added() -> None:
    lonlat_deg = scattered(500)
    together = is_validation_block(np.concatenate([scattered(99), lonlat_deg]), 5.0, 0, 0.2)
    np.testing.assert_array_equal(together[99:], is_validation_block(lonlat_deg, 5.0, 0, 0.2))


def test_share_of_blocks_is_the_asked_one_and_depends_on_the_seed() -> None:
    lonlat_deg = scattered(40_000)
    held_out = is_validation_block(lonlat_deg, 2.0, seed=0, fraction=0.2)
    assert held_out.mean() == pytest.approx(0.2, abs=0.01)
    assert (held_out != is_validation_block(lonlat_deg, 2.0, seed=1, fraction=0.2)).mean() > 0.25


def test_both_sides_of_the_antimeridian_are_one_meridian() -> None:
    lonlat_deg = np.array([[180.0, 12.0], [-180.0, 12.0], [-175.5, 14.9]])
    assert len({tuple(each) for each in block_cells(lonlat_deg, 5.0)}) == 1
    drawn = [is_validation_block(lonlat_deg, 5.0, seed, 0.5) for seed in range(20)]
    assert all(each.all() or not each.any() for each in drawn)
    assert any(each.all() for each in drawn)
