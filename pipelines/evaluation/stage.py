"""Scores and report of a workspace: from the embedding files of one checkpoint."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pipelines.atomic import replacing
from pipelines.drawing import sample_map, save_png
from pipelines.embeddings.export import LocationEmbeddings, read_embeddings
from pipelines.embeddings.grid import GlobalGrid
from pipelines.embeddings.products import LAND_GRID, embeddings_path
from pipelines.errors import ArtefactError
from pipelines.evaluation.baselines import (
    EncodingAlone,
    LocationFeatures,
    SinCosCoordinates,
    UntrainedEncoder,
)
from pipelines.evaluation.embedded import open_exported
from pipelines.evaluation.figures import (
    choose_gallery,
    embedding_map,
    loss_curves,
    patch_gallery,
    place_captions,
    read_true_color,
    scores_chart,
)
from pipelines.evaluation.report import LineageStep, ReportContent, write_report
from pipelines.evaluation.scores import evaluate
from pipelines.evaluation.splits import SplitConfig
from pipelines.evaluation.tasks import TaskConfig, load_task
from pipelines.patches.dataset import PatchDataset, open_patch_dataset, replay_manifest_sha256
from pipelines.provenance import file_sha256, git_commit, package_versions
from pipelines.sampling.land import is_land
from pipelines.training.checkpoints import TrainedModel, open_run
from satclip_model.checkpoint.native import read_checkpoint

MODEL_NAME = "satclip"
CHECKPOINT = "checkpoint_sha256"
GALLERY_SIZE = 24
RETRIEVAL_ROWS = (
    ("recall_at_1", "Recall at 1", "share of patches whose own place comes first in a gallery"),
    ("mean_rank", "Mean rank", "of the own place in a gallery"),
    ("median_error_km", "Median error (km)", "great-circle distance of the best match"),
)


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


def build_report(root: Path, run_name: str, *, synthetic: bool, title: str) -> Path:
    """Writes the report of a training run: one HTML page, and its pictures beside it.

    Raises:
        ArtefactError: scores or embeddings are missing or of another checkpoint.
        DatasetError: the run's dataset is gone or did not pass.
    """
    run = open_run(root, run_name)
    dataset = open_patch_dataset(root, run.record["dataset_version"])
    scores = read_scores(root, run)
    grid = read_embeddings(embeddings_path(root, LAND_GRID), run.record["checkpoint_sha256"])
    figures = _figures(dataset, run, grid, scores)
    folder = root / "report"
    for name, figure in figures.items():
        save_png(folder / f"{name}.png", figure)
    invalid = dataset.places.loc[~dataset.places["valid"], "reason"]
    content = ReportContent(
        title=title,
        synthetic=synthetic,
        facts={
            "Dataset": dataset.version,
            "Source": dataset.record.source,
            "Training run": run.name,
            "Checkpoint (SHA-256)": run.record["checkpoint_sha256"][:16],
            "Training places": str(run.record["split"]["num_training_places"]),
            "Validation places": str(run.record["split"]["num_validation_places"]),
            "Commit": git_commit() or "not a checkout",
        },
        package_versions=package_versions(),
        num_valid=dataset.record.num_valid,
        rejected={str(k): int(v) for k, v in invalid.value_counts().items()},
        scores=scores,
        model_name=MODEL_NAME,
        retrieval=_retrieval(run.record["metrics"]),
        lineage=_lineage(root, dataset, run, scores),
        **figures,
    )
    write_report(folder / "report.html", content)
    return folder / "report.html"


def _figures(
    dataset: PatchDataset, run: TrainedModel, grid: LocationEmbeddings, scores: pd.DataFrame
) -> dict[str, Any]:
    chosen = choose_gallery(dataset.places, GALLERY_SIZE, np.random.default_rng(0))
    resolution_deg = float(grid.provenance["land_grid_resolution_deg"])
    return {
        "sample_map": sample_map(dataset.places, is_land),
        "gallery": patch_gallery(read_true_color(dataset, chosen), place_captions(dataset.places, chosen)),
        "loss_curves": loss_curves(pd.read_csv(run.history_path)),
        "embedding_map": embedding_map(grid.lonlat_deg, grid.embeddings, GlobalGrid(resolution_deg, (-56.0, 84.0))),
        "scores_chart": scores_chart(scores, MODEL_NAME),
    }


def _retrieval(metrics: dict[str, float]) -> list[tuple[str, str, str]]:
    rows = []
    for part, label in (("train", "training"), ("val", "validation")):
        for key, name, meaning in RETRIEVAL_ROWS:
            value = metrics.get(f"{part}_{key}")
            if value is not None:
                rows.append((f"{name}, {label} places", f"{value:,.0f}" if value >= 100 else f"{value:.3g}", meaning))
    return rows


def _lineage(root: Path, dataset: PatchDataset, run: TrainedModel, scores: pd.DataFrame) -> list[LineageStep]:
    record = dataset.record
    features = run.record["image_features"]
    return [
        LineageStep("sampling_manifest", f"the plan of {record.num_places} places", record.plan_id),
        LineageStep(
            "patch_dataset",
            f"{record.num_valid} patches of {len(record.bands)} bands in {record.num_shards} shards",
            record.content_sha256[:12],
        ),
        LineageStep("replay_manifest", "what was actually used", replay_manifest_sha256(dataset.path)[:12]),
        LineageStep(
            "image_features", f"{features['feature_dim']} features per patch", str(features["fingerprint"])[:12]
        ),
        LineageStep("satclip_checkpoint", f"run {run.name}", run.record["checkpoint_sha256"][:12]),
        LineageStep(
            "location_embeddings",
            "land grid and task tables",
            file_sha256(embeddings_path(root, LAND_GRID))[:12],
        ),
        LineageStep("downstream_scores", f"{len(scores)} rows", file_sha256(scores_path(root))[:12]),
    ]
