import numpy as np
import pytest

from pipelines.evaluation.methods import SinCosCoordinates
from pipelines.evaluation.probes import InverseDistance, NearestNeighbors, RidgeProbe, SmallMLP
from pipelines.evaluation.splits import Folds, block_folds, random_folds


@pytest.fixture(scope="module")
def places():
    z = np.random.default_rng(3).uniform(-1, 1, (500, 2))
    return np.column_stack([180 * z[:, 0], np.rad2deg(np.arcsin(z[:, 1]))])


@pytest.fixture(scope="module")
def folds(places):
    return random_folds(places, 5, 0)


def r2(target, prediction):
    return 1 - np.square(target - prediction).sum() / np.square(target - target.mean()).sum()


def test_neighbors_are_those_of_the_largest_cosine_among_training_places(folds):
    rng = np.random.default_rng(0)
    features, target = rng.normal(size=(500, 6)), rng.normal(size=500)
    found = NearestNeighbors(k=3).out_of_fold(features, target, folds, "regression", 0).prediction
    units = features / np.linalg.norm(features, axis=1, keepdims=True)
    for row in range(0, 500, 37):
        train = np.flatnonzero(folds.fold != folds.fold[row])
        nearest = train[np.argsort(-(units[train] @ units[row]))[:3]]
        assert found[row] == pytest.approx(target[nearest].mean())


def test_a_tie_of_votes_goes_to_the_nearer_neighbor():
    features = np.array([[1.0, 0.0], [1.0, 0.1], [1.0, -0.5], [1.0, 0.02], [1.0, 0.3], [0.0, 1.0]])
    fold = np.array([0, 1, 2, 1, 2, 1])
    target = np.array([0, 1, 0, 2, 1, 0])
    found = NearestNeighbors(k=2).out_of_fold(features, target, Folds(fold, np.arange(6), 3), "classification", 0)
    assert found.prediction[0] == 2


def test_interpolation_meets_smooth_fields_and_knows_the_antimeridian(places, folds):
    field = np.cos(np.deg2rad(places[:, 0])) * np.cos(np.deg2rad(places[:, 1]))
    assert r2(field, InverseDistance().out_of_fold(places, field, folds, "regression", 0).prediction) > 0.95
    near = np.array([[179.9, 0.0], [-179.9, 0.0], [170.0, 0.0], [0.0, 0.0]])
    near_folds = Folds(np.array([0, 1, 2, 1]), np.arange(4), 3)
    values = np.array([0.0, 5.0, 1.0, 9.0])
    assert InverseDistance(k=1).out_of_fold(near, values, near_folds, "regression", 0).prediction[0] == 5.0


@pytest.mark.parametrize("kind", ["regression", "classification", "multilabel"])
def test_a_small_network_learns_and_is_decided_by_its_seed(places, folds, kind):
    features = SinCosCoordinates().features(places)
    north = places[:, 1] > 0
    target = {
        "regression": 40 * features[:, 2] + 7,
        "classification": north.astype(np.int64),
        "multilabel": np.column_stack([north, ~north]),
    }[kind]
    probe = SmallMLP(max_epochs=40)
    first, again = (probe.out_of_fold(features, target, folds, kind, 1).prediction for _ in range(2))
    np.testing.assert_array_equal(first, again)
    if kind == "regression":
        assert r2(target, first) > 0.9
    else:
        assert (first == target).mean() > 0.93


@pytest.mark.parametrize("probe", [NearestNeighbors(), SmallMLP(max_epochs=3)], ids=lambda probe: probe.name)
def test_a_tested_target_never_reaches_its_own_prediction(places, folds, probe):
    features, target = SinCosCoordinates().features(places), places[:, 1].copy()
    before = probe.out_of_fold(features, target, folds, "regression", 0).prediction
    tested = folds.fold == 0
    target[tested] += 1000.0
    after = probe.out_of_fold(features, target, folds, "regression", 0).prediction
    np.testing.assert_array_equal(before[tested], after[tested])


def test_excluded_places_never_reach_a_prediction(places):
    blocks = block_folds(places, 10.0, 5, 0)
    rng = np.random.default_rng(1)
    excluded = tuple(rng.choice(np.flatnonzero(blocks.fold != index), 60, replace=False) for index in range(5))
    folds = Folds(blocks.fold, blocks.block, 5, excluded)
    features, target = rng.normal(size=(500, 5)), rng.normal(size=500)
    before = RidgeProbe().out_of_fold(features, target, folds, "regression", 0)
    target[excluded[2]] += 1e4
    after = RidgeProbe().out_of_fold(features, target, folds, "regression", 0)
    tested = blocks.fold == 2
    np.testing.assert_allclose(before.prediction[tested], after.prediction[tested], rtol=1e-9)
    assert before.alpha[2] == after.alpha[2]


def test_a_buffer_of_nothing_changes_nothing(places):
    folds = block_folds(places, 10.0, 5, 0)
    empty = Folds(folds.fold, folds.block, 5, (np.empty(0, dtype=np.intp),) * 5)
    features, target = SinCosCoordinates().features(places), places[:, 1]
    plain, buffered = (RidgeProbe().out_of_fold(features, target, each, "regression", 0) for each in (folds, empty))
    np.testing.assert_allclose(buffered.prediction, plain.prediction, rtol=1e-6, atol=1e-8)
