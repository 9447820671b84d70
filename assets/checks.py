"""Checks that block what comes after them in the same run; training also refuses on its own, by reading the dataset."""

import inspect
import re
from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import dagster as dg

from assets.embeddings import location_embeddings
from assets.evaluation import DownstreamScoresConfig, downstream_scores
from assets.metadata import listed
from assets.patches import patch_dataset
from assets.presets import registered_names
from assets.resources import WorkspaceResource
from assets.sampling import sampling_manifest
from assets.training import satclip_checkpoint

if TYPE_CHECKING:
    from pipelines.patches.quality_summary import QualitySummary

MINIMUM_PLANNED_SHARE = 0.5
ENOUGH_FOR_UNIFORMITY = 500
"""Patches below which the discrepancy says next to nothing: chance alone gives 0.06 at 500."""
ENOUGH_FOR_SEASONS = 200
"""Patches below which a season may be missing by chance."""
MINIMUM_ACCEPTED_SHARE = 0.9
"""Share of places with a patch: where more than one in ten has none, what is missing follows the clouds."""
MINIMUM_SEASON_SHARE = 0.05
"""A season holds a quarter where dates are spread; polar night and clouds take some of it, not four fifths."""
MAXIMUM_GUESSED_OFFSET_SHARE = 0.01
"""A wrong offset is 0.1 of reflectance; wrong in one patch of a hundred it moves a band's mean by 0.001."""
GUESSED_OFFSET_SOURCES = ("assumed", "unknown")
MAXIMUM_OVERLAP_RATIO = 2.0
"""Overlapping pairs over those of independent uniform places: more means that places cluster."""
OVERLAPS_BY_CHANCE = 5
"""Pairs allowed on top, where chance gives about one."""


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


def patches_are_uniform(summary: "QualitySummary") -> dg.AssetCheckResult:
    """Accepted patches are as uniform over land as 95 of 100 independent uniform samples; with few it only warns."""
    report = summary.uniformity
    if report is None:
        return _result(passed=False, metadata={"patches": 0})
    metadata = {
        "patches": report.num_places,
        "discrepancy": report.discrepancy,
        "expected_at_most": report.uniform_quantile,
        "uniform_median": report.uniform_median,
        "share_of_uniform_samples_above": report.share_of_draws_above,
        "worst_cap": dg.MetadataValue.json(asdict(report.worst)),
    }
    if summary.original is not None:
        metadata["original_discrepancy"] = summary.original.discrepancy
        metadata["original_expected_at_most"] = summary.original.uniform_quantile
    return _result(passed=report.is_uniform, metadata=metadata, warn=report.num_places < ENOUGH_FOR_UNIFORMITY)


def enough_places_have_patches(summary: "QualitySummary") -> dg.AssetCheckResult:
    """Nine places in ten have a patch; a warning, as the dataset's own minimum is a setting."""
    share = summary.num_accepted / max(summary.num_places, 1)
    metadata = {
        "share_with_patch": share,
        "expected_at_least": MINIMUM_ACCEPTED_SHARE,
        "places_without_patch": dg.MetadataValue.json(summary.rejected_places),
    }
    return _result(passed=share >= MINIMUM_ACCEPTED_SHARE, metadata=metadata, warn=True)


def patches_are_clear(summary: "QualitySummary") -> dg.AssetCheckResult:
    """Every accepted patch keeps the limits it was built under: cloud, shadow and defects, and nodata."""
    if summary.limits is None:
        return _result(passed=True, metadata={"limits": "none recorded: the patches were imported"})
    return _result(
        passed=summary.num_beyond_limits == 0,
        metadata={
            "beyond_limits": summary.num_beyond_limits,
            "max_unclear_fraction": summary.limits.max_unclear_fraction,
            "max_nodata_fraction": summary.limits.max_nodata_fraction,
            "largest_unclear_fraction": summary.unclear_fraction.maximum,
            "clear_fraction_unknown": summary.unclear_fraction.num_unknown,
        },
    )


def seasons_are_covered(summary: "QualitySummary") -> dg.AssetCheckResult:
    """No season of the patches' own hemisphere is all but missing, where there are enough patches; a warning."""
    total = sum(summary.seasons.values())
    shares = {name: count / max(total, 1) for name, count in summary.seasons.items()}
    metadata = {"patches": total, "expected_at_least": MINIMUM_SEASON_SHARE, **shares}
    passed = total < ENOUGH_FOR_SEASONS or min(shares.values()) >= MINIMUM_SEASON_SHARE
    return _result(passed=passed, metadata=metadata, warn=True)


def offsets_are_known(summary: "QualitySummary") -> dg.AssetCheckResult:
    """The radiometric offset of nearly all patches comes from their items, not from an assumption; a warning."""
    guessed = sum(summary.offset_sources.get(name, 0) for name in GUESSED_OFFSET_SOURCES)
    share = guessed / max(summary.num_accepted, 1)
    metadata = {
        "share_guessed": share,
        "expected_at_most": MAXIMUM_GUESSED_OFFSET_SHARE,
        "sources": dg.MetadataValue.json(summary.offset_sources),
    }
    return _result(passed=share <= MAXIMUM_GUESSED_OFFSET_SHARE, metadata=metadata, warn=True)


def no_patch_is_there_twice(summary: "QualitySummary") -> dg.AssetCheckResult:
    """No two accepted patches have the same pixels."""
    return _result(passed=summary.num_duplicates == 0, metadata={"duplicates": summary.num_duplicates})


def patches_hardly_overlap(summary: "QualitySummary") -> dg.AssetCheckResult:
    """Patches overlap no more than twice as often as independent uniform places would; a warning."""
    pairs, expected = summary.overlaps.num_pairs, summary.overlaps.expected_pairs
    most = MAXIMUM_OVERLAP_RATIO * expected + OVERLAPS_BY_CHANCE
    metadata = {"overlapping_pairs": pairs, "expected_at_most": most, "by_chance": expected}
    return _result(passed=pairs <= most, metadata=metadata, warn=True)


def _result(*, passed: bool, metadata: dict[str, Any], warn: bool = False) -> dg.AssetCheckResult:
    told = {name: "unknown" if value is None else value for name, value in metadata.items()}
    severity = dg.AssetCheckSeverity.WARN if warn else dg.AssetCheckSeverity.ERROR
    return dg.AssetCheckResult(passed=passed, severity=severity, metadata=told)


QUALITY_CHECKS: dict[str, Callable[["QualitySummary"], dg.AssetCheckResult]] = {
    each.__name__: each
    for each in (
        patches_are_uniform,
        enough_places_have_patches,
        patches_are_clear,
        seasons_are_covered,
        offsets_are_known,
        no_patch_is_there_twice,
        patches_hardly_overlap,
    )
}


@dg.multi_asset_check(
    specs=[
        dg.AssetCheckSpec(name, asset=patch_dataset, description=inspect.getdoc(check))
        for name, check in QUALITY_CHECKS.items()
    ]
)
def quality_of_patches(workspace: WorkspaceResource) -> Iterator[dg.AssetCheckResult]:
    """Judges the dataset's `quality.json`: one step for all, as reading it is what takes time."""
    from pipelines.errors import DatasetError
    from pipelines.patches.quality_summary import read_quality
    from pipelines.patches.store import dataset_folder
    from pipelines.sampling.manifest import read_sampling_manifest

    manifest = read_sampling_manifest(workspace.path / "sampling")
    try:
        summary = read_quality(dataset_folder(workspace.path, manifest.plan_id))
    except DatasetError as error:
        verdicts = {name: _result(passed=False, metadata={"problem": str(error)}, warn=True) for name in QUALITY_CHECKS}
    else:
        verdicts = {name: check(summary) for name, check in QUALITY_CHECKS.items()}
    for name, verdict in verdicts.items():
        yield verdict._replace(check_name=name, asset_key=patch_dataset.key)


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

    from pipelines.evaluation.intervals import LEADING_METRICS
    from pipelines.evaluation.stage import MODEL_NAME, scores_path
    from pipelines.evaluation.summaries import margins

    rows = margins(pd.read_parquet(scores_path(workspace.path)), MODEL_NAME)
    rows = rows[(rows["split"] != "random") & rows["metric_name"].isin(LEADING_METRICS)]
    rows = rows[rows["other"] == "sincos"]
    better = int((rows["margin"] > 0).sum())
    return dg.AssetCheckResult(
        passed=better * 2 > len(rows),
        severity=dg.AssetCheckSeverity.WARN,
        metadata={"tasks_better": better, "tasks": len(rows)},
    )


def task_check_names() -> dict[str, str]:
    """Names of the checks of the preset's tasks, and the tasks."""
    config = DownstreamScoresConfig()
    names = [each.name for each in config.tasks]
    if config.registered:
        names += registered_names(None if config.registered == ["all"] else set(config.registered))
    return {f"{re.sub(r'[^0-9A-Za-z_]', '_', name)}_is_sound": name for name in names}


def _task_checks() -> list[dg.AssetChecksDefinition]:
    """One check per task of the preset; none where it has no tasks."""
    tasks = task_check_names()
    if not tasks:
        return []
    told = "finite, beside all baselines, from folds that share neither block nor place"
    specs = [
        dg.AssetCheckSpec(check, asset=downstream_scores, description=f"Scores of {task}: {told}.")
        for check, task in tasks.items()
    ]

    @dg.multi_asset_check(name="scores_are_sound", specs=specs)
    def scores_are_sound(workspace: WorkspaceResource) -> Iterator[dg.AssetCheckResult]:
        from pipelines.evaluation.soundness import faults_of_task
        from pipelines.evaluation.stage import MODEL_NAME

        for check, task in tasks.items():
            faults, evaluated = faults_of_task(workspace.path, task, MODEL_NAME)
            yield dg.AssetCheckResult(
                passed=not faults,
                check_name=check,
                asset_key=downstream_scores.key,
                metadata={"faults": dg.MetadataValue.json(faults), "evaluated": evaluated},
            )

    return [scores_are_sound]


CHECKS = [
    most_places_have_candidates,
    every_shard_is_verified,
    reflectance_is_plausible,
    quality_of_patches,
    training_beats_chance,
    embeddings_are_unit_length,
    embeddings_beat_coordinates,
    *_task_checks(),
]
