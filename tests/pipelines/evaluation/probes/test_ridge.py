import numpy as np
import pytest
from sklearn.linear_model import Ridge
from sklearn.model_selection import GridSearchCV, PredefinedSplit
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from pipelines.evaluation.probes import ALPHAS, RidgeProbe
from pipelines.evaluation.splits import Folds


@pytest.fixture
def rng():
    return np.random.default_rng(7)


def ridge(features, target, fold, kind, alphas=ALPHAS):
    num_folds = int(fold.max()) + 1 if fold.size else 0
    return RidgeProbe(alphas).out_of_fold(features, target, Folds(fold, np.arange(len(fold)), num_folds), kind, 0)


def r2(target, prediction):
    return 1 - np.square(target - prediction).sum() / np.square(target - target.mean()).sum()


def test_the_grid_of_penalties_goes_by_half_decades():
    assert len(ALPHAS) == 21
    np.testing.assert_allclose(np.diff(np.log10(ALPHAS)), 0.5)
    np.testing.assert_allclose([ALPHAS[0], ALPHAS[-1]], [1e-4, 1e6])


def test_a_linear_target_is_found_exactly(rng):
    features = rng.normal(3.0, 5.0, (300, 4))
    target = features @ [1.0, -2.0, 0.5, 0.0] + 100.0
    result = ridge(features, target, rng.integers(0, 5, 300), "regression")
    assert r2(target, result.prediction) > 1 - 1e-9
    np.testing.assert_array_equal(result.alpha, ALPHAS[0])


@pytest.mark.parametrize("num_features", [6, 90])
def test_predictions_and_penalties_equal_a_nested_search_of_scikit_learn(rng, num_features):
    features = rng.normal(size=(120, num_features)) * rng.uniform(0.1, 50, num_features) + 7.0
    target = features[:, :4] @ [0.3, -1.0, 0.1, 2.0] + rng.normal(0, 20.0, 120)
    fold, alphas = rng.permutation(np.arange(120) % 4), ALPHAS[::4]
    result = ridge(features, target, fold, "regression", alphas)
    for index in range(4):
        train = fold != index
        inner = PredefinedSplit(fold[train])
        search = GridSearchCV(
            make_pipeline(StandardScaler(), Ridge()),
            {"ridge__alpha": alphas},
            cv=inner,
            scoring=lambda model, x, y: -np.square(model.predict(x) - y).sum(),
        ).fit(features[train], target[train])
        assert result.alpha[index] == pytest.approx(search.best_params_["ridge__alpha"])
        np.testing.assert_allclose(result.prediction[~train], search.predict(features[~train]), rtol=1e-6, atol=1e-6)


def test_a_feature_that_only_identifies_the_row_scores_nothing(rng):
    target = rng.normal(size=240)
    fold = rng.permutation(np.arange(240) % 5)
    for features in (np.eye(240), rng.normal(size=(240, 200)), np.arange(240.0)[:, None]):
        assert r2(target, ridge(features, target, fold, "regression").prediction) < 0.02


def test_a_feature_that_identifies_the_block_scores_nothing_across_blocks(rng):
    block = rng.integers(0, 30, 600)
    target = rng.normal(size=30)[block] + 0.1 * rng.normal(size=600)
    features = np.eye(30)[block]
    assert r2(target, ridge(features, target, block % 5, "regression").prediction) < 0.02
    assert r2(target, ridge(features, target, rng.integers(0, 5, 600), "regression").prediction) > 0.9


def test_targets_of_the_test_fold_change_neither_its_penalty_nor_its_predictions(rng):
    features, target = rng.normal(size=(150, 12)), rng.normal(size=150)
    fold = rng.permutation(np.arange(150) % 5)
    altered = np.where(fold == 2, 1e3 * rng.normal(size=150), target)
    before = ridge(features, target, fold, "regression")
    after = ridge(features, altered, fold, "regression")
    assert before.alpha[2] == after.alpha[2]
    np.testing.assert_allclose(before.prediction[fold == 2], after.prediction[fold == 2], atol=1e-12)


def test_scale_shift_and_constants_of_features_do_not_matter(rng):
    features, fold = rng.normal(size=(200, 5)), rng.permutation(np.arange(200) % 4)
    target = features @ rng.normal(size=5) + rng.normal(size=200)
    plain = ridge(features, target, fold, "regression")
    changed = np.column_stack(
        [features * [1e-6, 1, 1e6, -3, 10] + [0, 1e3, 0, 5, -7], np.full(200, 3.3), np.zeros(200)]
    )
    moved = ridge(changed, target, fold, "regression")
    np.testing.assert_allclose(plain.prediction, moved.prediction, rtol=1e-6)
    np.testing.assert_array_equal(plain.alpha, moved.alpha)


def test_useless_features_predict_the_training_mean(rng):
    target, fold = rng.normal(10.0, 1.0, 100), np.arange(100) % 4
    prediction = ridge(np.ones((100, 3)), target, fold, "regression").prediction
    for index in range(4):
        np.testing.assert_allclose(prediction[fold == index], target[fold != index].mean())


def test_classes_apart_are_told_apart_and_a_class_in_one_fold_only_is_missed(rng):
    target = rng.integers(0, 4, 400)
    features = np.eye(4)[target] * 5 + rng.normal(size=(400, 4))
    fold = rng.permutation(np.arange(400) % 5)
    assert (ridge(features, target, fold, "classification").prediction == target).mean() > 0.95
    fold[target == 3] = 4
    alone = ridge(features, target, fold, "classification").prediction
    assert not (alone[target == 3] == 3).any()
    assert (alone[target != 3] == target[target != 3]).mean() > 0.9


def test_rows_may_come_in_any_order(rng):
    features, target = rng.normal(size=(150, 8)), rng.normal(size=150)
    fold, order = rng.permutation(np.arange(150) % 5), rng.permutation(150)
    plain = ridge(features, target, fold, "regression").prediction
    shuffled = ridge(features[order], target[order], fold[order], "regression").prediction
    np.testing.assert_allclose(plain[order], shuffled, atol=1e-9)


@pytest.mark.parametrize(
    ("features", "fold", "message"),
    [
        (np.ones((5, 2)), np.arange(6) % 3, "do not fit together"),
        (np.full((6, 2), np.inf), np.arange(6) % 3, "not finite"),
        (np.ones((6, 2)), np.arange(6) % 2, "expected at least 3 folds"),
        (
            np.ones((6, 2)),
            np.array([0, 1, 3, 0, 1, 3]),
            r"\[2, 2, 0, 2\] places; expected at least 3 folds and none empty",
        ),
    ],
)
def test_what_cannot_be_fitted_is_refused(features, fold, message):
    with pytest.raises(ValueError, match=message):
        ridge(features, np.arange(6.0), fold, "regression")
