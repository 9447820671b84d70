import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import accuracy_score, f1_score, mean_squared_error, r2_score

from pipelines.errors import TableError
from pipelines.evaluation.methods import EncoderFeatures, SinCosCoordinates
from pipelines.evaluation.scores import (
    COLUMNS,
    bootstrap_intervals,
    evaluate,
    margins,
    markdown_table,
    point_scores,
    score_table,
    summarize,
)
from pipelines.evaluation.splits import SplitConfig
from pipelines.evaluation.tasks import TaskConfig, TaskData, load_task

RANDOM, BLOCKS = SplitConfig(kind="random"), SplitConfig(kind="blocks", cell_deg=10)


def task_of(kind, num_places=240, seed=5):
    rng = np.random.default_rng(seed)
    lonlat_deg = np.column_stack(
        [rng.uniform(-180, 180, num_places), np.rad2deg(np.arcsin(rng.uniform(-0.9, 0.9, num_places)))]
    )
    warmth = 20 * np.cos(np.deg2rad(lonlat_deg[:, 1])) + rng.normal(0, 2, num_places)
    config = TaskConfig(name=f"warmth_{kind}", table="warmth.csv", target="warmth", kind=kind)
    if kind == "regression":
        return TaskData(config, lonlat_deg, warmth, (), {})
    codes = np.digitize(warmth, np.quantile(warmth, [0.3, 0.6])).astype(np.int64)
    return TaskData(config, lonlat_deg, codes, ("cold", "mild", "warm"), {})


def noise(lonlat_deg):
    return np.random.default_rng(9).normal(size=(len(lonlat_deg), 5))


METHODS = [SinCosCoordinates(), EncoderFeatures("noise", noise, "none")]


@pytest.fixture(scope="module")
def scores():
    tasks = [task_of("regression"), task_of("classification")]
    return evaluate(tasks, METHODS, [RANDOM, BLOCKS], seeds=[0, 1], num_resamples=200)


def test_rows_have_the_columns_of_coordbench_and_one_per_combination(scores):
    assert tuple(scores.columns) == COLUMNS
    assert len(scores) == 2 * 2 * 2 * 2 * 2
    keys = ["task", "split", "seed", "model_name", "metric_name"]
    assert not scores.duplicated(keys).any()
    assert set(scores.loc[scores.task_type == "regression", "metric_name"]) == {"r2", "mse"}
    assert set(scores.loc[scores.task_type == "classification", "metric_name"]) == {"accuracy", "macro_f1"}
    first = scores.iloc[0]
    assert (first["dataset"], first["method"], first["n_folds"], first["feature_dim"]) == ("warmth", "ridge", 5, 4)
    assert (first["n_samples"], first["n_test"]) == (240, 240)
    assert scores.loc[scores.split == "random", "cell_deg"].isna().all()
    assert (scores.loc[scores.split == "blocks", "cell_deg"] == 10).all()


def test_a_signal_scores_and_noise_does_not(scores):
    values = summarize(scores).set_index(["model_name", "split", "metric_name"])["metric_value"]
    for split in ("random", "blocks"):
        assert values["sincos", split, "r2"] > 0.7
        assert values["noise", split, "r2"] < 0.05
        assert values["sincos", split, "accuracy"] > 0.6
        assert values["noise", split, "accuracy"] < 0.5
        assert values["sincos", split, "r2"] + values["sincos", split, "mse"] == pytest.approx(1.0)


def test_values_lie_within_their_intervals(scores):
    assert (scores["ci_lower"] < scores["metric_value"]).all()
    assert (scores["metric_value"] < scores["ci_upper"]).all()


def test_equal_input_gives_equal_scores(scores):
    again = evaluate(
        [task_of("regression"), task_of("classification")], METHODS, [RANDOM, BLOCKS], [0, 1], num_resamples=200
    )
    pd.testing.assert_frame_equal(scores, again, check_exact=True)


def test_whole_scores_equal_those_of_scikit_learn():
    rng = np.random.default_rng(0)
    truth, block = rng.normal(3, 2, 90), np.arange(90) % 7
    guess = truth + rng.normal(size=90)
    found = point_scores(truth, guess, np.ones((1, 7)), block, "regression")
    assert found["r2"][0] == pytest.approx(r2_score(truth, guess))
    assert found["mse"][0] == pytest.approx(mean_squared_error(truth / truth.std(), guess / truth.std()))
    codes, guesses = rng.integers(0, 4, 90), rng.integers(0, 6, 90)
    found = point_scores(codes, guesses, np.ones((1, 7)), block, "classification")
    assert found["accuracy"][0] == pytest.approx(accuracy_score(codes, guesses))
    assert found["macro_f1"][0] == pytest.approx(f1_score(codes, guesses, average="macro", zero_division=0))


@pytest.mark.parametrize("kind", ["regression", "classification"])
def test_a_resample_scores_as_if_its_blocks_were_repeated(kind):
    rng = np.random.default_rng(1)
    block = rng.integers(0, 4, 60)
    truth = rng.integers(0, 3, 60) if kind == "classification" else rng.normal(5, 1, 60)
    guess = np.roll(truth, 1)
    weights = np.array([[2.0, 0.0, 1.0, 1.0]])
    rows = np.concatenate([np.flatnonzero(block == index) for index in (0, 0, 2, 3)])
    found = point_scores(truth, guess, weights, block, kind)
    if kind == "regression":
        assert found["r2"][0] == pytest.approx(r2_score(truth[rows], guess[rows]))
    else:
        assert found["accuracy"][0] == pytest.approx(accuracy_score(truth[rows], guess[rows]))
        expected = f1_score(truth[rows], guess[rows], average="macro", zero_division=0)
        assert found["macro_f1"][0] == pytest.approx(expected)


def test_the_interval_of_an_accuracy_has_its_known_width():
    rng = np.random.default_rng(0)
    truth = np.zeros(2000, dtype=np.int64)
    truth[::2] = 1
    guess = np.where(rng.uniform(size=2000) < 0.8, truth, 1 - truth)
    lower, upper = bootstrap_intervals(truth, guess, np.arange(2000), "classification", rng)["accuracy"]
    assert upper - lower == pytest.approx(2 * 1.96 * np.sqrt(0.8 * 0.2 / 2000), rel=0.1)


def test_intervals_widen_when_errors_come_in_blocks():
    rng = np.random.default_rng(2)
    block = np.repeat(np.arange(40), 50)
    truth = rng.normal(size=2000)
    guess = truth + rng.normal(size=40)[block] + 0.1 * rng.normal(size=2000)
    by_block = bootstrap_intervals(truth, guess, block, "regression", np.random.default_rng(0))["r2"]
    by_place = bootstrap_intervals(truth, guess, np.arange(2000), "regression", np.random.default_rng(0))["r2"]
    assert np.diff(by_block)[0] > 3 * np.diff(by_place)[0]


def test_margins_are_positive_where_the_model_is_better(scores):
    ahead = margins(scores, "sincos")
    assert set(ahead["other"]) == {"noise"}
    assert len(ahead) == 8
    assert (ahead["margin"] > 0).all()
    assert (margins(scores, "noise")["margin"] < 0).all()
    with pytest.raises(ValueError, match="no scores of model 'satclip'"):
        margins(scores, "satclip")


def test_the_table_for_people_has_a_row_per_task_and_split(scores):
    table = score_table(scores)
    assert list(table.columns) == ["task", "split", "metric", "sincos", "noise"]
    assert table["split"].tolist() == ["random", "blocks 10°"] * 2
    value = summarize(scores).iloc[0]
    assert table["sincos"][0] == f"{value.metric_value:.3f} [{value.ci_lower:.2f}, {value.ci_upper:.2f}]"
    lines = markdown_table(scores).splitlines()
    assert lines[0] == "| task | split | metric | sincos | noise |"
    assert len(lines) == 6


def test_scores_go_through_csv_and_parquet(scores, tmp_path):
    scores.to_parquet(tmp_path / "scores.parquet")
    scores.to_csv(tmp_path / "scores.csv", index=False)
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "scores.parquet"), scores)
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "scores.csv"), scores)


def test_too_few_blocks_name_the_task():
    task = task_of("regression")
    near = TaskData(task.config, task.lonlat_deg / 100, task.target, (), {})
    with pytest.raises(TableError, match="task warmth_regression: found 4 blocks of 10 degrees"):
        evaluate([near], METHODS, [BLOCKS], [0])


def test_what_cannot_be_scored_is_refused():
    task = task_of("regression")
    with pytest.raises(ValueError, match="each name once"):
        evaluate([task], [SinCosCoordinates(), SinCosCoordinates()], [RANDOM], [0])
    with pytest.raises(ValueError, match="0 seeds"):
        evaluate([task], METHODS, [RANDOM], [])
    broken = EncoderFeatures("broken", lambda lonlat_deg: np.full((len(lonlat_deg), 2), np.nan), "none")
    with pytest.raises(ValueError, match="method broken made features"):
        evaluate([task], [broken], [RANDOM], [0])


@pytest.mark.real_data
def test_sines_and_cosines_explain_the_temperature_of_real_stations_as_published(shared_data):
    """CoordBench publishes R2 0.852 +- 0.004 in random folds and 0.842 +- 0.012 in blocks of 10 degrees."""
    config = TaskConfig(
        name="air_temperature",
        table="air_temperature/stationDataAll.csv",
        lon_column="Lon",
        lat_column="Lat",
        target="meanT",
    )
    task = load_task(config, shared_data)
    assert task.num_places == 3076
    scores = evaluate([task], [SinCosCoordinates()], [RANDOM, BLOCKS], seeds=range(3), num_resamples=200)
    r2 = scores[scores.metric_name == "r2"].groupby("split")["metric_value"].mean()
    assert r2["random"] == pytest.approx(0.852, abs=0.004)
    assert r2["blocks"] == pytest.approx(0.842, abs=0.012)
