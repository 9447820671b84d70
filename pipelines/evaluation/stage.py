"""Scores of a workspace: from the embedding files of one checkpoint."""

import logging
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from pipelines.atomic import replacing
from pipelines.embeddings.export import read_provenance
from pipelines.embeddings.products import embeddings_path
from pipelines.errors import ArtefactError, MissingWeightsError
from pipelines.evaluation.embedded import open_exported
from pipelines.evaluation.methods import BASELINES, open_method
from pipelines.evaluation.run import Evaluation, EvaluationProtocol, evaluate_tasks
from pipelines.evaluation.scores import Method
from pipelines.evaluation.tasks import TaskConfig, TaskData
from pipelines.training.checkpoints import TrainedModel
from satclip_model.checkpoint.native import read_checkpoint

logger = logging.getLogger(__name__)

MODEL_NAME = "satclip"
CHECKPOINT = "checkpoint_sha256"
PROTOCOL = "evaluation_protocol"
FAILURES = "not_scored"


def scores_path(root: Path) -> Path:
    """Where the scores live; a CSV of the same rows lies beside it."""
    return root / "evaluation" / "downstream_scores.parquet"


def score_embeddings(
    root: Path,
    run: TrainedModel,
    tasks: Sequence[TaskConfig],
    protocol: EvaluationProtocol,
    tables_root: str | None,
) -> Evaluation:
    """Evaluates the exported embeddings of each task beside every baseline, and writes the scores of all.

    A task that cannot be evaluated is noted, the others go on; what a call before has evaluated is taken from there.

    Args:
        root: The workspace.
        run: Whose embeddings; files of another checkpoint are refused.
        tasks: Each task's embeddings are the file of its own name.
        protocol: How they are evaluated; the untrained twin has the training run's seed.
        tables_root: Where relative table names are looked up.

    Raises:
        ArtefactError: Embeddings are of another checkpoint, or no task could be evaluated.
    """
    _require_own_embeddings(root, run, tasks)
    model, _ = read_checkpoint(run.checkpoint_path)
    location = model.config.location
    seed = int(run.record["config"]["seed"])
    baselines: list[Method] = []
    for name in BASELINES:
        try:
            baselines.append(open_method(name, reference=location, seed=seed))
        except MissingWeightsError as error:
            logger.warning("baseline %s is left out: %s", name, error)

    def methods_of(data: TaskData) -> list[Method]:
        path = embeddings_path(root, data.config.name)
        return [open_exported(path, run.record["checkpoint_sha256"]), *baselines]

    evaluation = evaluate_tasks(
        tasks, methods_of, protocol, scores_path(root).parent / "tasks", tables_root=tables_root
    )
    if evaluation.scores.empty:
        told = "; ".join(f"{name}: {reason}" for name, reason in evaluation.failures.items())
        raise ArtefactError(f"{root}: no task could be evaluated: {told}")
    scores = evaluation.scores
    scores.attrs.update(
        {
            CHECKPOINT: run.record["checkpoint_sha256"],
            PROTOCOL: protocol.model_dump_json(),
            FAILURES: evaluation.failures,
        }
    )
    path = scores_path(root)
    with replacing(path) as partial:
        scores.to_parquet(partial, index=False)
    with replacing(path.with_suffix(".csv")) as partial:
        scores.to_csv(partial, index=False)
    return evaluation


def _require_own_embeddings(root: Path, run: TrainedModel, tasks: Sequence[TaskConfig]) -> None:
    expected = run.record["checkpoint_sha256"]
    for path in (embeddings_path(root, task.name) for task in tasks):
        if path.is_file() and (found := read_provenance(path)["checkpoint_sha256"]) != expected:
            raise ArtefactError(
                f"{path}: was made by checkpoint {found}, but run {run.name} has {expected}; materialize "
                "location_embeddings"
            )


def read_scores(root: Path, run: TrainedModel) -> pd.DataFrame:
    """The scores of a training run.

    Raises:
        ArtefactError: there are none, or they are of another checkpoint.
    """
    path = scores_path(root)
    if not path.is_file():
        raise ArtefactError(f"{path}: no scores yet; materialize downstream_scores")
    scores = pd.read_parquet(path)
    found, expected = scores.attrs.get(CHECKPOINT), run.record["checkpoint_sha256"]
    if found != expected:
        raise ArtefactError(
            f"{path}: was made by checkpoint {found}, but run {run.name} has {expected}; materialize downstream_scores"
        )
    return scores
