import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from pipelines.errors import TableError
from pipelines.evaluation.splits import SplitConfig, block_folds, random_folds

PLACES = st.lists(st.tuples(st.floats(-180, 180, width=32), st.floats(-90, 90, width=32)), min_size=5, max_size=60).map(
    np.array
)


def divided(lonlat_deg, cell_deg, seed):
    try:
        if cell_deg is None:
            return random_folds(lonlat_deg, 3, seed)
        return block_folds(lonlat_deg, cell_deg, 3, seed)
    except TableError:
        return None


@given(PLACES, st.sampled_from([None, 1.0, 7.0, 10.0, 50.0]), st.integers(0, 9))
@settings(max_examples=60)
def test_every_place_is_tested_once_and_no_block_twice(lonlat_deg, cell_deg, seed):
    folds = divided(lonlat_deg, cell_deg, seed)
    if folds is None:
        return
    tested = np.concatenate([test for _, test in folds.train_test()])
    np.testing.assert_array_equal(np.sort(tested), np.arange(len(lonlat_deg)))
    for train, test in folds.train_test():
        assert len(test) > 0
        assert len(train) + len(test) == len(lonlat_deg)
        assert not set(folds.block[train]) & set(folds.block[test])


@given(PLACES, st.sampled_from([None, 1.0, 10.0]), st.integers(0, 9), st.randoms(use_true_random=False))
@settings(max_examples=60)
def test_folds_follow_the_place_not_its_row(lonlat_deg, cell_deg, seed, random):
    folds = divided(lonlat_deg, cell_deg, seed)
    order = list(range(len(lonlat_deg)))
    random.shuffle(order)
    shuffled = divided(lonlat_deg[order], cell_deg, seed)
    if folds is None:
        assert shuffled is None
        return
    np.testing.assert_array_equal(shuffled.fold, folds.fold[order])


@given(PLACES, st.sampled_from([3.0, 10.0]))
def test_places_of_one_cell_share_a_block_and_others_do_not(lonlat_deg, cell_deg):
    folds = divided(lonlat_deg, cell_deg, 0)
    if folds is None:
        return
    lon_deg = np.where((lonlat_deg[:, 0] == 180) | (np.abs(lonlat_deg[:, 1]) == 90), -180.0, lonlat_deg[:, 0])
    lat_deg = np.minimum(lonlat_deg[:, 1], np.nextafter(90.0, 0))
    cells = list(zip((lon_deg + 180) // cell_deg, (lat_deg + 90) // cell_deg, strict=True))
    same_cell = np.array([[one == other for other in cells] for one in cells])
    np.testing.assert_array_equal(folds.block[:, None] == folds.block[None, :], same_cell)


def test_the_antimeridian_is_one_meridian_and_a_pole_one_place():
    lonlat_deg = np.array(
        [[-180.0, 5.0], [180.0, 5.0], [-179.0, 5.0], [179.0, 5.0], [20.0, 90.0], [-77.0, 90.0], [0.0, 0.0], [50.0, 0.0]]
    )
    block = block_folds(lonlat_deg, 10.0, 3, 0).block
    assert block[0] == block[1] == block[2] != block[3]
    assert block[4] == block[5]
    place = random_folds(lonlat_deg, 3, 0).block
    assert place[0] == place[1] != place[2]
    assert place[4] == place[5]


def test_rows_of_one_place_are_never_parted():
    rng = np.random.default_rng(0)
    lonlat_deg = np.repeat(rng.uniform(-90, 90, (20, 2)), 5, axis=0)
    folds = random_folds(lonlat_deg, 4, 1)
    assert (folds.fold.reshape(20, 5) == folds.fold[::5, None]).all()


@pytest.mark.parametrize("seed", range(4))
def test_folds_are_balanced_though_blocks_are_not(seed):
    rng = np.random.default_rng(seed)
    clusters = rng.uniform((-180, -50), (180, 80), (40, 2)).repeat(rng.integers(5, 80, 40), axis=0)
    lonlat_deg = np.clip(clusters + rng.normal(0, 6, clusters.shape), (-180, -90), (180, 90))
    for folds in (block_folds(lonlat_deg, 10.0, 5, seed), random_folds(lonlat_deg, 5, seed)):
        assert np.ptp(np.bincount(folds.fold)) <= 0.1 * len(lonlat_deg) / 5


def test_a_seed_repeats_its_folds_and_another_differs():
    lonlat_deg = np.random.default_rng(2).uniform(-90, 90, (200, 2))
    for cell_deg in (None, 10.0):
        folds = divided(lonlat_deg, cell_deg, 4).fold
        np.testing.assert_array_equal(folds, divided(lonlat_deg, cell_deg, 4).fold)
        assert (folds != divided(lonlat_deg, cell_deg, 5).fold).mean() > 0.3


def test_fewer_blocks_than_folds_are_refused():
    lonlat_deg = np.random.default_rng(2).uniform(1, 9, (200, 2))
    with pytest.raises(TableError, match="found 1 blocks of 10 degrees with places, but 5 folds need as many"):
        block_folds(lonlat_deg, 10.0, 5, 0)
    with pytest.raises(TableError, match="found 1 distinct places"):
        random_folds(np.ones((30, 2)), 5, 0)


@pytest.mark.parametrize(
    "settings_",
    [{"kind": "blocks"}, {"kind": "random", "cell_deg": 1}, {"kind": "random", "num_folds": 2}, {"kind": "x"}],
)
def test_an_impossible_split_is_refused(settings_):
    with pytest.raises(ValidationError):
        SplitConfig(**settings_)


def test_a_split_draws_the_folds_of_its_kind():
    lonlat_deg = np.random.default_rng(2).uniform(-90, 90, (200, 2))
    np.testing.assert_array_equal(
        SplitConfig(kind="blocks", num_folds=4, cell_deg=20).assign(lonlat_deg, 3).fold,
        block_folds(lonlat_deg, 20.0, 4, 3).fold,
    )
    np.testing.assert_array_equal(
        SplitConfig(kind="random").assign(lonlat_deg, 3).fold, random_folds(lonlat_deg, 5, 3).fold
    )
