"""What must hold of a task's scores before anyone believes them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipelines.embeddings.export import read_embeddings
from pipelines.embeddings.products import embeddings_path
from pipelines.errors import ArtefactError, TableError
from pipelines.evaluation.run import EvaluationProtocol
from pipelines.evaluation.stage import FAILURES, PROTOCOL, scores_path

REQUIRED_BASELINES: Final = ("sincos", "harmonics", "untrained")


def faults_of_task(root: Path, task: str, model_name: str) -> tuple[list[str], bool]:
    """What is wrong with the scores of a task of a workspace, see `find_faults`, and whether it was to be evaluated.

    Raises:
        ArtefactError: There are no scores, or no embeddings of the task.
    """
    path = scores_path(root)
    if not path.is_file():
        raise ArtefactError(f"{path}: no scores yet; materialize downstream_scores")
    scores = pd.read_parquet(path)
    failures: dict[str, str] = scores.attrs.get(FAILURES, {})
    if task in failures:
        return [f"could not be evaluated: {failures[task]}"], True
    own = scores[scores["task"] == task]
    if own.empty:
        return [], False
    protocol = EvaluationProtocol.model_validate_json(scores.attrs[PROTOCOL])
    places = read_embeddings(embeddings_path(root, task)).lonlat_deg
    return find_faults(own, places, protocol, model_name), True


def find_faults(
    scores: pd.DataFrame,
    lonlat_deg: NDArray[np.float64],
    protocol: EvaluationProtocol,
    model_name: str,
    required: Sequence[str] = REQUIRED_BASELINES,
) -> list[str]:
    """What is wrong with the scores of one task, in words; empty where nothing is.

    Every value and interval of the model and of the baselines is finite and in order, the baselines are there, and the
    folds, made again, share neither a block nor a place between training and testing.

    Args:
        scores: Rows of one task.
        lonlat_deg: Its places, shape (n, 2), longitude first.
        protocol: How it was evaluated.
        model_name: The model in question.
        required: Baselines that must be there.
    """
    faults = []
    wanted = [model_name, *required, *(["idw"] if protocol.interpolation else [])]
    for name in wanted:
        rows = scores[scores["model_name"] == name]
        if rows.empty:
            faults.append(f"no rows of {name}")
            continue
        values = rows[["ci_lower", "metric_value", "ci_upper"]].to_numpy(dtype=np.float64)
        if not np.isfinite(values).all():
            notes = sorted(set(rows.loc[rows["metric_value"].isna(), "note"]))
            faults.append(f"{name} has {int((~np.isfinite(values)).any(axis=1).sum())} rows without a value: {notes}")
        elif (values[:, 0] > values[:, 2]).any():
            faults.append(f"{name} has an interval whose bounds are exchanged")
    return faults + _leaks(lonlat_deg, protocol)


def _leaks(lonlat_deg: NDArray[np.float64], protocol: EvaluationProtocol) -> list[str]:
    faults = []
    _, place = np.unique(lonlat_deg, axis=0, return_inverse=True)
    for split in protocol.splits:
        for seed in protocol.seeds:
            try:
                folds = split.assign(lonlat_deg, seed)
            except TableError:
                continue
            for index, (train, test) in enumerate(folds.train_test()):
                for what, label in (("blocks", folds.block), ("places", place.ravel())):
                    shared = np.intersect1d(label[train], label[test])
                    if len(shared):
                        faults.append(
                            f"fold {index} of {split.kind}, seed {seed}, is trained on {len(shared)} of its {what}"
                        )
    return faults
