"""Scores of features on tasks, with intervals, in the columns of CoordBench."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from pipelines.errors import SatclipError, TableError
from pipelines.evaluation.intervals import METRICS, NUM_RESAMPLES, bootstrap_intervals, point_scores
from pipelines.evaluation.methods import LocationFeatures
from pipelines.evaluation.probes import InverseDistance, Probe, RidgeProbe, Target
from pipelines.evaluation.splits import Folds, SplitConfig
from pipelines.evaluation.tasks import TaskData
from pipelines.progress import Progress

logger = logging.getLogger(__name__)

COORDBENCH_COLUMNS: Final = (
    "dataset", "task", "task_type", "method", "split", "metric_name", "metric_value", "ci_lower", "ci_upper", "n_folds",
    "cell_deg", "feature_dim", "n_samples", "n_test", "seed", "model_name", "model_target",
)  # fmt: skip
COLUMNS: Final = (*COORDBENCH_COLUMNS, "fold_name", "buffer_km", "target_scaling", "note")
"""CoordBench's, then: the held-out continent; the buffer; what was done to the target, of which ``mse`` is always that
of the standardised one; and why a value is missing, or what was left out of the table."""


@dataclass(frozen=True)
class MissingMethod:
    """A method that cannot be scored, so that its rows say why.

    Attributes:
        name: Short name in the rows of scores.
        reason: Why, and how to mend it.
    """

    name: str
    reason: str

    @property
    def target(self) -> str:
        """What would compute the features: nothing."""
        return ""


Method = LocationFeatures | MissingMethod


def evaluate(
    tasks: Sequence[TaskData],
    methods: Sequence[Method],
    splits: Sequence[SplitConfig],
    seeds: Sequence[int],
    num_resamples: int = NUM_RESAMPLES,
    *,
    probes: Sequence[Probe] = (RidgeProbe(),),
    interpolation: InverseDistance | None = None,
    continents: Path | None = None,
) -> pd.DataFrame:
    """Scores of every method by every probe on every task, split and seed, in CoordBench's columns and four more.

    A seed draws the folds and the resamples of the intervals; all methods see the same of both. A score is taken over
    the out-of-fold predictions of all places at once, or of one continent where continents are held out: ``r2`` and
    ``mse`` (of the standardised target, so that predicting the mean scores 1); ``accuracy`` and ``macro_f1``;
    ``micro_f1`` and ``macro_f1`` of several labels. Intervals are the 2.5 and 97.5 percentiles of a bootstrap over
    these predictions that draws whole blocks (places, for random folds).

    What cannot be scored - a method without weights or whose features are not finite, a split with too few blocks or
    continents - has a row without a value whose ``note`` says why; all else goes on. Neighbouring tasks at the same
    places share features, folds, decompositions and neighbours.

    Args:
        tasks: Tasks with their data; names must differ.
        methods: What makes features of places; names must differ.
        splits: How to divide the places.
        seeds: Seeds of the folds.
        num_resamples: Resamples per interval.
        probes: What predicts the target from features.
        interpolation: The baseline that needs no features; None leaves it out.
        continents: Polygons of continents, for splits by continents.

    Returns:
        Rows by task, split, seed, method, probe, continent and metric, in this order.

    Raises:
        ValueError: Nothing to do, or a name used twice.
    """
    _require_distinct("tasks", [task.config.name for task in tasks])
    _require_distinct("methods", [method.name for method in methods])
    if not splits or not seeds or not probes:
        raise ValueError(
            f"there are {len(splits)} splits, {len(seeds)} seeds and {len(probes)} probes; expected at least one of "
            "each"
        )
    rows: dict[str, list[dict[str, Any]]] = {task.config.name: [] for task in tasks}
    progress = Progress(logger, "downstream scores", len(tasks) * len(methods) * len(splits) * len(seeds), "fits")
    for group in _same_places(tasks):
        features = {method.name: _features(method, group[0]) for method in methods}
        for split in splits:
            # Continents are not drawn: another seed would give the same folds.
            for seed in seeds[:1] if split.kind == "continents" else seeds:
                context = _Context(group, split, _assign(split, group[0], seed, continents), seed, num_resamples)
                if interpolation is not None:
                    own_name, places = _own_name(interpolation), group[0].lonlat_deg
                    context.add_rows(rows, interpolation, interpolation.name, own_name, places)
                for method in methods:
                    for probe in probes:
                        context.add_rows(rows, probe, method.name, method.target, features[method.name])
                    progress.advance(len(group))
    return pd.DataFrame([row for name in rows for row in rows[name]], columns=list(COLUMNS))


def _same_places(tasks: Sequence[TaskData]) -> list[list[TaskData]]:
    """Neighbouring tasks that have their places in common, so that work on features is done once."""
    groups: list[list[TaskData]] = []
    for task in tasks:
        if groups and np.array_equal(groups[-1][0].lonlat_deg, task.lonlat_deg):
            groups[-1].append(task)
        else:
            groups.append([task])
    return groups


@dataclass(frozen=True)
class _Context:
    """Tasks at the same places, divided by one seed; ``folds`` is the reason where they cannot be divided."""

    tasks: list[TaskData]
    split: SplitConfig
    folds: Folds | str
    seed: int
    num_resamples: int

    def add_rows(
        self,
        rows: dict[str, list[dict[str, Any]]],
        probe: Probe,
        model_name: str,
        model_target: str,
        features: NDArray[Any] | str,
    ) -> None:
        """Adds the rows of one model under one probe to those of each task."""
        shared = [self._shared(task, probe.name, model_name, model_target) for task in self.tasks]
        if isinstance(features, str) or isinstance(self.folds, str):
            note = features if isinstance(features, str) else str(self.folds)
            for task, columns in zip(self.tasks, shared, strict=True):
                missing = [columns | {"metric_name": name, "note": note} for name in METRICS[task.config.kind]]
                rows[task.config.name] += missing
            return
        targets = [Target(task.target, task.config.kind) for task in self.tasks]
        found = probe.out_of_fold_each(features, targets, self.folds, self.seed)
        for task, columns, out_of_fold in zip(self.tasks, shared, found, strict=True):
            columns["feature_dim"] = features.shape[1]
            rows[task.config.name] += self._parts_scored(task, columns, out_of_fold.prediction, self.folds)

    def _parts_scored(
        self, task: TaskData, shared: dict[str, Any], prediction: NDArray[Any], folds: Folds
    ) -> list[dict[str, Any]]:
        parts = [(name, folds.fold == index) for index, name in enumerate(folds.names)] or [("", folds.fold >= 0)]
        scored: list[dict[str, Any]] = []
        for fold_name, tested in parts:
            scored += self._scored(task, shared | {"fold_name": fold_name}, prediction, tested, folds)
        return scored

    def _scored(
        self,
        task: TaskData,
        shared: dict[str, Any],
        prediction: NDArray[Any],
        tested: NDArray[np.bool_],
        folds: Folds,
    ) -> list[dict[str, Any]]:
        kind, truth, given = task.config.kind, task.target[tested], prediction[tested]
        block = np.unique(folds.block[tested], return_inverse=True)[1].astype(np.int64)
        whole = np.ones((1, int(block.max()) + 1))
        if kind == "regression" and truth.min() == truth.max():
            note = f"the target is {truth[0]:g} at all {len(truth)} tested places; nothing to explain"
            return [shared | {"metric_name": name, "n_test": len(truth), "note": note} for name in METRICS[kind]]
        with threadpool_limits(limits=1, user_api="blas"):
            values = point_scores(truth, given, whole, block, kind)
            rng = np.random.default_rng(self.seed)
            intervals = bootstrap_intervals(truth, given, block, kind, rng, self.num_resamples)
        return [
            shared
            | {
                "metric_name": name,
                "metric_value": float(values[name][0]),
                "ci_lower": intervals[name][0],
                "ci_upper": intervals[name][1],
                "n_test": len(truth),
            }
            for name in METRICS[kind]
        ]

    def _shared(self, task: TaskData, method: str, model_name: str, model_target: str) -> dict[str, Any]:
        config, split = task.config, self.split
        return {
            "dataset": config.dataset_name,
            "task": config.name,
            "task_type": config.kind,
            "method": method,
            "split": split.kind,
            "metric_value": np.nan,
            "ci_lower": np.nan,
            "ci_upper": np.nan,
            "n_folds": split.num_folds if isinstance(self.folds, str) else self.folds.num_folds,
            "cell_deg": np.nan if split.cell_deg is None else split.cell_deg,
            "feature_dim": 0,
            "n_samples": task.num_places,
            "n_test": 0,
            "seed": self.seed,
            "model_name": model_name,
            "model_target": model_target,
            "fold_name": "",
            "buffer_km": split.buffer_km,
            "target_scaling": config.transform if config.kind == "regression" else "none",
            "note": "; ".join(task.notes),
        }


def _features(method: Method, task: TaskData) -> NDArray[Any] | str:
    """Features of a task's places, or why there are none."""
    if isinstance(method, MissingMethod):
        return method.reason
    try:
        features = np.asarray(method.features(task.lonlat_deg))
    except SatclipError as error:
        logger.warning("task %s: method %s is left out: %s", task.config.name, method.name, error)
        return str(error)
    if features.ndim != 2 or len(features) != task.num_places or not np.isfinite(features).all():
        reason = (
            f"method {method.name} made features of shape {features.shape} for {task.num_places} places; expected one "
            "row of finite numbers per place"
        )
        logger.warning("task %s: %s", task.config.name, reason)
        return reason
    return features


def _assign(split: SplitConfig, task: TaskData, seed: int, continents: Path | None) -> Folds | str:
    """Folds of a task's places, or why there are none."""
    try:
        return split.assign(task.lonlat_deg, seed, continents)
    except TableError as error:
        logger.warning("task %s: split %s is left out: %s", task.config.name, split.kind, error)
        return str(error)


def _own_name(method: object) -> str:
    return f"{type(method).__module__}.{type(method).__qualname__}"


def _require_distinct(what: str, names: list[str]) -> None:
    repeated = sorted({name for name in names if names.count(name) > 1})
    if not names or repeated:
        raise ValueError(f"{what} are {names}; expected at least one, each name once")
