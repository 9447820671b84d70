import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from pipelines.errors import TableError
from pipelines.evaluation.sphere import EARTH_RADIUS_KM, unit_vectors
from pipelines.evaluation.splits import SplitConfig, block_folds, continent_folds, random_folds, with_buffer

PLACES = st.lists(
    st.tuples(
        st.one_of(st.floats(-180, 180), st.sampled_from([-180.0, 180.0, 179.99])),
        st.one_of(st.floats(-90, 90), st.sampled_from([-90.0, 90.0, 0.0])),
    ),
    min_size=12,
    max_size=60,
)


def distance_km(one, other):
    cosine = unit_vectors(one) @ unit_vectors(other).T
    return EARTH_RADIUS_KM * np.arccos(np.clip(cosine, -1, 1))


@settings(max_examples=60, deadline=None)
@given(PLACES, st.sampled_from([0.0, 1.0, 300.0, 2500.0]), st.sampled_from([None, 5.0, 20.0]))
def test_no_block_and_no_place_within_the_buffer_is_trained_on(drawn, buffer_km, cell_deg):
    places = np.array(drawn)
    try:
        folds = random_folds(places, 3, 0) if cell_deg is None else block_folds(places, cell_deg, 3, 0)
        folds = with_buffer(folds, places, buffer_km) if buffer_km else folds
    except TableError:
        assume(False)
    for train, test in folds.train_test():
        assert not set(folds.block[train]) & set(folds.block[test])
        if buffer_km:
            assert distance_km(places[train], places[test]).min() > buffer_km * (1 - 1e-6) - 1e-3


def test_a_buffer_reaches_over_the_antimeridian_and_the_pole():
    places = np.array([[179.9, 10.0], [-179.9, 10.0], [0.0, 89.9], [180.0, 89.9], [20.0, 0.0], [40.0, 0.0]])
    folds = with_buffer(random_folds(places, 3, 0), places, 50.0)
    for one, other in ((0, 1), (2, 3)):
        if folds.fold[one] != folds.fold[other]:
            assert other in folds.excluded[folds.fold[one]]
            assert one in folds.excluded[folds.fold[other]]
    assert any(len(each) for each in folds.excluded)


def test_a_buffer_that_leaves_nothing_is_refused():
    places = np.column_stack([np.linspace(0, 1, 30), np.zeros(30)])
    with pytest.raises(TableError, match="use a smaller buffer"):
        SplitConfig(kind="random", buffer_km=5000).assign(places, 0)


def test_each_continent_is_a_fold_and_small_ones_are_left_out():
    names = np.array(["Africa"] * 40 + ["Asia"] * 30 + ["Europe"] * 25 + ["Oceania"] * 3 + ["none"] * 10)
    places = np.random.default_rng(0).uniform(-80, 80, (len(names), 2))
    folds = continent_folds(places, names)
    assert folds.names == ("Africa", "Asia", "Europe")
    assert (folds.fold[names == "Oceania"] == -1).all()
    for (train, test), name in zip(folds.train_test(), folds.names, strict=True):
        assert set(names[test]) == {name}
        assert name not in set(names[train])
        assert set(names[train]) <= set(folds.names)
        assert not set(folds.block[train]) & set(folds.block[test])
    with pytest.raises(TableError, match=r"found 2 continents .*Africa, Asia"):
        continent_folds(places[:73], np.where(names[:73] == "Europe", "none", names[:73]))


def test_settings_that_contradict_each_other_are_refused():
    with pytest.raises(ValueError, match="blocks need it"):
        SplitConfig(kind="continents", cell_deg=10.0)
