"""Scores of features on tasks, with intervals, in the columns of CoordBench."""

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from pipelines.errors import TableError
from pipelines.evaluation.methods import LocationFeatures
from pipelines.evaluation.probes import ridge_out_of_fold
from pipelines.evaluation.splits import Folds, SplitConfig
from pipelines.evaluation.tasks import TaskData
from pipelines.progress import Progress

logger = logging.getLogger(__name__)

COLUMNS = (
    "dataset", "task", "task_type", "method", "split", "metric_name", "metric_value", "ci_lower", "ci_upper", "n_folds",
    "cell_deg", "feature_dim", "n_samples", "n_test", "seed", "model_name", "model_target",
)  # fmt: skip
METRICS = {"regression": ("r2", "mse"), "classification": ("accuracy", "macro_f1")}
LEADING_METRICS = tuple(names[0] for names in METRICS.values())
NUM_RESAMPLES = 1000
CONFIDENCE = 0.95
WEIGHTS_AT_ONCE = 4_000_000


def evaluate(
    tasks: Sequence[TaskData],
    methods: Sequence[LocationFeatures],
    splits: Sequence[SplitConfig],
    seeds: Sequence[int],
    num_resamples: int = NUM_RESAMPLES,
) -> pd.DataFrame:
    """Ridge scores of every method on every task, split and seed, in CoordBench's columns.

    A seed draws the folds and the resamples of the intervals; all methods see the same of both. A score is taken over
    the out-of-fold predictions of all places at once: ``r2`` and ``mse`` (of the standardised target, so that
    predicting the mean scores 1), ``accuracy`` and ``macro_f1``. Intervals are the 2.5 and 97.5
    percentiles of a bootstrap over these predictions that draws whole blocks (places, for random folds).

    Args:
        tasks: Tasks with their data; names must differ.
        methods: What makes features of places; names must differ.
        splits: How to divide the places.
        seeds: Seeds of the folds.
        num_resamples: Resamples per interval.

    Returns:
        One row per task, split, seed, method and metric, in this order.

    Raises:
        ValueError: Nothing to do, or a name used twice.
        TableError: A task has too few places or blocks for a split.
    """
    _require_distinct("tasks", [task.config.name for task in tasks])
    _require_distinct("methods", [method.name for method in methods])
    if not splits or not seeds:
        raise ValueError(f"there are {len(splits)} splits and {len(seeds)} seeds; expected at least one of each")
    rows: list[dict[str, Any]] = []
    progress = Progress(logger, "downstream scores", len(tasks) * len(methods) * len(splits) * len(seeds), "fits")
    for task in tasks:
        features = {method.name: _features(method, task) for method in methods}
        for split in splits:
            for seed in seeds:
                folds = _assign(split, task, seed)
                for method in methods:
                    rows += _score_rows(task, method, features[method.name], split, folds, seed, num_resamples)
                    progress.advance()
    return pd.DataFrame(rows, columns=list(COLUMNS))


def point_scores(
    truth: NDArray[Any], prediction: NDArray[Any], weights: NDArray[np.float64], block: NDArray[np.int64], kind: str
) -> dict[str, NDArray[np.float64]]:
    """Metrics of predictions with each block counted ``weights`` times.

    Args:
        truth: Targets, shape (n,).
        prediction: Predictions, shape (n,).
        weights: Shape (r, number of blocks): how often each block counts; ones give the plain score.
        block: Shape (n,), the block of each place.
        kind: ``regression`` or ``classification``.

    Returns:
        Per metric, one value per row of ``weights``, shape (r,); NaN where a resample has no variance.
    """
    if kind == "regression":
        center = truth.mean()
        moments = np.column_stack(
            [np.ones(len(truth)), truth - center, (truth - center) ** 2, (truth - prediction) ** 2]
        )
        count, total, squares, errors = (weights @ _per_block(moments, block)).T
        variation = squares - total**2 / count
        r2 = 1.0 - np.divide(errors, variation, out=np.full_like(errors, np.nan), where=variation > 0)
        return {"r2": r2, "mse": errors / count / truth.var()}
    num_classes = int(max(truth.max(), prediction.max())) + 1
    classes = np.eye(num_classes)
    hits = classes[truth] * (truth == prediction)[:, None]
    counts = _per_block(np.hstack([hits, classes[truth], classes[prediction]]), block)
    hit, actual, predicted = np.split(weights @ counts, 3, axis=1)
    present = actual + predicted > 0
    f1 = np.divide(2 * hit, actual + predicted, out=np.zeros_like(hit), where=present)
    return {"accuracy": hit.sum(axis=1) / actual.sum(axis=1), "macro_f1": f1.sum(axis=1) / present.sum(axis=1)}


def bootstrap_intervals(
    truth: NDArray[Any],
    prediction: NDArray[Any],
    block: NDArray[np.int64],
    kind: str,
    rng: np.random.Generator,
    num_resamples: int = NUM_RESAMPLES,
) -> dict[str, tuple[float, float]]:
    """Lower and upper 95 % bound of each metric when whole blocks are drawn with replacement.

    Args:
        truth: Targets, shape (n,).
        prediction: Predictions, shape (n,).
        block: Shape (n,), the block of each place.
        kind: ``regression`` or ``classification``.
        rng: Draws the resamples.
        num_resamples: Number of resamples.
    """
    num_blocks = int(block.max()) + 1
    at_once = max(1, WEIGHTS_AT_ONCE // num_blocks)
    resampled: dict[str, list[NDArray[np.float64]]] = {name: [] for name in METRICS[kind]}
    for start in range(0, num_resamples, at_once):
        size = min(at_once, num_resamples - start)
        weights = rng.multinomial(num_blocks, np.full(num_blocks, 1 / num_blocks), size=size).astype(np.float64)
        for name, values in point_scores(truth, prediction, weights, block, kind).items():
            resampled[name].append(values)
    tail = 100 * (1 - CONFIDENCE) / 2
    intervals = {}
    for name, parts in resampled.items():
        lower, upper = np.nanpercentile(np.concatenate(parts), [tail, 100 - tail])
        intervals[name] = (float(lower), float(upper))
    return intervals


def summarize(scores: pd.DataFrame) -> pd.DataFrame:
    """Means over seeds of the value and of both bounds; one row per task, split, metric and model."""
    keys = ["dataset", "task", "task_type", "method", "split", "cell_deg", "metric_name", "model_name"]
    columns = {
        "metric_value": ("metric_value", "mean"),
        "ci_lower": ("ci_lower", "mean"),
        "ci_upper": ("ci_upper", "mean"),
        "num_seeds": ("seed", "nunique"),
        "n_samples": ("n_samples", "first"),
        "feature_dim": ("feature_dim", "first"),
    }
    return scores.groupby(keys, sort=False, dropna=False).agg(**columns).reset_index()


def margins(scores: pd.DataFrame, model_name: str) -> pd.DataFrame:
    """By how much one model exceeds every other, means over seeds: a row per task, split, metric and other model.

    Columns ``task``, ``split``, ``metric_name``, ``other``, ``metric_value``, ``other_value``, ``margin``; the margin
    of ``mse`` is turned, so that positive is always better.

    Raises:
        ValueError: The scores hold no rows of that model.
    """
    means = summarize(scores)
    if model_name not in set(means["model_name"]):
        raise ValueError(f"no scores of model {model_name!r}; found {sorted(set(means['model_name']))}")
    keys = ["dataset", "task", "split", "cell_deg", "metric_name"]
    own = means.loc[means["model_name"] == model_name, [*keys, "metric_value"]]
    others = means.loc[means["model_name"] != model_name, [*keys, "model_name", "metric_value"]].rename(
        columns={"model_name": "other", "metric_value": "other_value"}
    )
    paired = own.merge(others, on=keys)
    sign = np.where(paired["metric_name"] == "mse", -1.0, 1.0)
    paired["margin"] = sign * (paired["metric_value"] - paired["other_value"])
    return paired[["task", "split", "cell_deg", "metric_name", "other", "metric_value", "other_value", "margin"]]


def score_table(scores: pd.DataFrame, metric_names: Sequence[str] = LEADING_METRICS) -> pd.DataFrame:
    """The table for people: a row per task and split, a column per model, cells like ``0.71 [0.66, 0.75]``."""
    means = summarize(scores)
    means = means[means["metric_name"].isin(list(metric_names))]
    cells = [
        f"{plain(value, 3)} [{plain(lower, 2)}, {plain(upper, 2)}]"
        for value, lower, upper in zip(means["metric_value"], means["ci_lower"], means["ci_upper"], strict=True)
    ]
    models = list(dict.fromkeys(means["model_name"]))
    keyed = means.assign(
        cell=cells, split=[split_label(*pair) for pair in zip(means["split"], means["cell_deg"], strict=True)]
    )
    keys = ["task", "split", "metric_name"]
    wide = keyed.groupby([*keys, "model_name"], sort=False)["cell"].first().unstack("model_name")
    wide = wide.reindex(keyed[keys].drop_duplicates().apply(tuple, axis="columns"))[models].fillna("")
    wide.columns.name = None
    return wide.reset_index().rename(columns={"metric_name": "metric"})


def markdown_table(scores: pd.DataFrame) -> str:
    """The leading metrics as a Markdown table, means over seeds with 95 % intervals."""
    table = score_table(scores)
    header = "| " + " | ".join(map(str, table.columns)) + " |"
    rule = "|" + "|".join(["---"] * len(table.columns)) + "|"
    rows = ["| " + " | ".join(map(str, row)) + " |" for row in table.itertuples(index=False)]
    return "\n".join([header, rule, *rows]) + "\n"


def split_label(split: str, cell_deg: float) -> str:
    """What a split is called in tables and figures: ``random`` or ``blocks 10°``."""
    return split if np.isnan(cell_deg) else f"{split} {cell_deg:g}°"


def plain(number: float, num_digits: int) -> str:
    """The number with so many digits after the point, never as -0.00."""
    return f"{round(float(number), num_digits) + 0.0:.{num_digits}f}"


def _score_rows(
    task: TaskData,
    method: LocationFeatures,
    features: NDArray[Any],
    split: SplitConfig,
    folds: Folds,
    seed: int,
    num_resamples: int,
) -> list[dict[str, Any]]:
    kind = task.config.kind
    if kind == "multilabel":
        raise TableError(f"task {task.config.name}: {kind} targets have no score; name a single class")
    prediction = ridge_out_of_fold(features, task.target, folds.fold, kind).prediction
    whole = np.ones((1, int(folds.block.max()) + 1))
    rng = np.random.default_rng(seed)
    with threadpool_limits(limits=1, user_api="blas"):
        values = point_scores(task.target, prediction, whole, folds.block, kind)
        intervals = bootstrap_intervals(task.target, prediction, folds.block, kind, rng, num_resamples)
    return [
        {
            "dataset": task.config.dataset_name,
            "task": task.config.name,
            "task_type": kind,
            "method": "ridge",
            "split": split.kind,
            "metric_name": metric_name,
            "metric_value": float(values[metric_name][0]),
            "ci_lower": intervals[metric_name][0],
            "ci_upper": intervals[metric_name][1],
            "n_folds": split.num_folds,
            "cell_deg": np.nan if split.cell_deg is None else split.cell_deg,
            "feature_dim": features.shape[1],
            "n_samples": task.num_places,
            "n_test": len(prediction),
            "seed": seed,
            "model_name": method.name,
            "model_target": method.target,
        }
        for metric_name in METRICS[kind]
    ]


def _features(method: LocationFeatures, task: TaskData) -> NDArray[Any]:
    features = np.asarray(method.features(task.lonlat_deg))
    if features.ndim != 2 or len(features) != task.num_places or not np.isfinite(features).all():
        raise ValueError(
            f"method {method.name} made features of shape {features.shape} for the {task.num_places} places of task "
            f"{task.config.name}; expected one row of finite numbers per place"
        )
    return features


def _assign(split: SplitConfig, task: TaskData, seed: int) -> Folds:
    try:
        return split.assign(task.lonlat_deg, seed)
    except TableError as error:
        raise TableError(f"task {task.config.name}: {error}") from error


def _per_block(values: NDArray[np.float64], block: NDArray[np.int64]) -> NDArray[np.float64]:
    totals = np.zeros((int(block.max()) + 1, values.shape[1]))
    np.add.at(totals, block, values)
    return totals


def _require_distinct(what: str, names: list[str]) -> None:
    repeated = sorted({name for name in names if names.count(name) > 1})
    if not names or repeated:
        raise ValueError(f"{what} are {names}; expected at least one, each name once")
