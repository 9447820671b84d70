"""Checks that block what comes after them in the same run; training also refuses on its own, by reading the dataset."""

import dagster as dg

from assets.embeddings import location_embeddings
from assets.evaluation import downstream_scores
from assets.metadata import listed
from assets.patches import patch_dataset
from assets.resources import WorkspaceResource
from assets.sampling import sampling_manifest
from assets.training import satclip_checkpoint

MINIMUM_PLANNED_SHARE = 0.5


@dg.asset_check(asset=sampling_manifest, blocking=True)
def most_places_have_candidates(workspace: WorkspaceResource) -> dg.AssetCheckResult:
    """At least half of the places have a candidate scene."""
    from pipelines.sampling.manifest import read_sampling_manifest

    manifest = read_sampling_manifest(workspace.path / "sampling")
    share = float((manifest.candidate_counts() > 0).mean())
    return dg.AssetCheckResult(
        passed=share >= MINIMUM_PLANNED_SHARE,
        metadata={"share_with_candidates": share, "expected_at_least": MINIMUM_PLANNED_SHARE},
    )


@dg.asset_check(asset=patch_dataset, blocking=True)
def every_shard_is_verified(workspace: WorkspaceResource) -> dg.AssetCheckResult:
    """All shards are there, their pixels match their records, and enough places have a patch."""
    from pipelines.patches.dataset import read_dataset_record
    from pipelines.patches.store import dataset_folder
    from pipelines.sampling.manifest import read_sampling_manifest

    manifest = read_sampling_manifest(workspace.path / "sampling")
    record = read_dataset_record(dataset_folder(workspace.path, manifest.plan_id))
    return dg.AssetCheckResult(
        passed=record.passed,
        metadata={"problems": listed(record.problems), "shards": record.num_shards},
    )


@dg.asset_check(asset=patch_dataset, blocking=True)
def reflectance_is_plausible(workspace: WorkspaceResource) -> dg.AssetCheckResult:
    """Mean reflectance of every band lies between 0 and 1, and no band is constant."""
    from pipelines.patches.dataset import read_dataset_record
    from pipelines.patches.store import dataset_folder
    from pipelines.sampling.manifest import read_sampling_manifest

    manifest = read_sampling_manifest(workspace.path / "sampling")
    record = read_dataset_record(dataset_folder(workspace.path, manifest.plan_id))
    odd = [each.band for each in record.statistics if not (0 < each.mean < 1 and each.std > 0)]
    return dg.AssetCheckResult(passed=not odd, metadata={"implausible_bands": listed(odd)})


@dg.asset_check(asset=satclip_checkpoint, blocking=True)
def training_beats_chance(workspace: WorkspaceResource) -> dg.AssetCheckResult:
    """Patches find their own training places more often than by chance."""
    from pipelines.training.checkpoints import open_run

    metrics = open_run(workspace.path).record["metrics"]
    found, chance = float(metrics["train_recall_at_1"]), float(metrics["train_chance_recall_at_1"])
    return dg.AssetCheckResult(passed=found > chance, metadata={"recall_at_1": found, "chance": chance})


@dg.asset_check(asset=location_embeddings, blocking=True)
def embeddings_are_unit_length(workspace: WorkspaceResource) -> dg.AssetCheckResult:
    """Every embedding of the land grid is finite and of length one, and they differ."""
    import numpy as np

    from pipelines.embeddings.export import read_embeddings
    from pipelines.embeddings.products import LAND_GRID, embeddings_path

    embeddings = read_embeddings(embeddings_path(workspace.path, LAND_GRID)).embeddings
    error = float(np.abs(np.linalg.norm(embeddings, axis=1) - 1).max())
    spread = float(embeddings.std(axis=0).mean())
    return dg.AssetCheckResult(
        passed=bool(error < 1e-3 and spread > 0), metadata={"largest_length_error": error, "mean_spread": spread}
    )


@dg.asset_check(asset=downstream_scores)
def embeddings_beat_coordinates(workspace: WorkspaceResource) -> dg.AssetCheckResult:
    """Under spatial blocks the embeddings exceed sin/cos coordinates on most tasks; a warning, not a gate."""
    import pandas as pd

    from pipelines.evaluation.scores import LEADING_METRICS, margins
    from pipelines.evaluation.stage import MODEL_NAME, scores_path

    rows = margins(pd.read_parquet(scores_path(workspace.path)), MODEL_NAME)
    rows = rows[(rows["split"] != "random") & rows["metric_name"].isin(LEADING_METRICS)]
    rows = rows[rows["other"] == "sincos"]
    better = int((rows["margin"] > 0).sum())
    return dg.AssetCheckResult(
        passed=better * 2 > len(rows),
        severity=dg.AssetCheckSeverity.WARN,
        metadata={"tasks_better": better, "tasks": len(rows)},
    )


CHECKS = [
    most_places_have_candidates,
    every_shard_is_verified,
    reflectance_is_plausible,
    training_beats_chance,
    embeddings_are_unit_length,
    embeddings_beat_coordinates,
]
