"""Scores of a workspace: from the embedding files of one checkpoint."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from pipelines.atomic import replacing
from pipelines.embeddings.products import embeddings_path
from pipelines.errors import ArtefactError
from pipelines.evaluation.embedded import open_exported
from pipelines.evaluation.methods import (
    EncodingAlone,
    LocationFeatures,
    SinCosCoordinates,
    UntrainedEncoder,
)
from pipelines.evaluation.scores import evaluate
from pipelines.evaluation.splits import SplitConfig
from pipelines.evaluation.tasks import TaskConfig, load_task
from pipelines.training.checkpoints import TrainedModel
from satclip_model.checkpoint.native import read_checkpoint

MODEL_NAME = "satclip"
CHECKPOINT = "checkpoint_sha256"


def scores_path(root: Path) -> Path:
    """Where the scores live; a CSV of the same rows lies beside it."""
    return root / "evaluation" / "downstream_scores.parquet"


def score_embeddings(
    root: Path,
    run: TrainedModel,
    tasks: Sequence[TaskConfig],
    cell_deg: float,
    seeds: Sequence[int],
    tables_root: str | None,
) -> pd.DataFrame:
    """Evaluates the exported embeddings of each task against sin/cos, harmonics alone and the untrained encoder.

    Args:
        root: The workspace.
        run: Whose embeddings; files of another checkpoint are refused.
        tasks: Each task's embeddings are the file of its own name.
        cell_deg: Side of the spatial blocks.
        seeds: Of the folds; the untrained twin has the training run's seed.
        tables_root: Where relative table names are looked up.

    Raises:
        ArtefactError: embeddings are missing or of another checkpoint.
        TableError: a task's table cannot be used.
    """
    model, _ = read_checkpoint(run.checkpoint_path)
    location = model.config.location
    splits = [SplitConfig(kind="random"), SplitConfig(kind="blocks", cell_deg=cell_deg)]
    frames = []
    for task in tasks:
        exported = open_exported(embeddings_path(root, task.name), run.record["checkpoint_sha256"])
        methods: list[LocationFeatures] = [
            exported,
            SinCosCoordinates(),
            EncodingAlone(location.positional_encoding),
            UntrainedEncoder(location, seed=int(run.record["config"]["seed"])),
        ]
        frames.append(evaluate([load_task(task, tables_root)], methods, splits, seeds))
    scores = pd.concat(frames, ignore_index=True)
    scores.attrs[CHECKPOINT] = run.record["checkpoint_sha256"]
    path = scores_path(root)
    with replacing(path) as partial:
        scores.to_parquet(partial, index=False)
    with replacing(path.with_suffix(".csv")) as partial:
        scores.to_csv(partial, index=False)
    return scores


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
