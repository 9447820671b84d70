"""The report of a workspace: from the embedding files and scores of one checkpoint."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pipelines.drawing import sample_map, save_png
from pipelines.embeddings.export import LocationEmbeddings, read_embeddings
from pipelines.embeddings.grid import GlobalGrid
from pipelines.embeddings.products import LAND_GRID, embeddings_path, open_encoder
from pipelines.evaluation.effective_resolution import Resolution, measure_resolution
from pipelines.evaluation.localization import THRESHOLDS_KM
from pipelines.evaluation.methods import EncoderFeatures
from pipelines.evaluation.stage import FAILURES, MODEL_NAME, read_scores, scores_path
from pipelines.patches.dataset import PatchDataset, open_patch_dataset, replay_manifest_sha256
from pipelines.provenance import file_sha256, git_commit, package_versions
from pipelines.report.encoder_figures import localization_map, resolution_chart, similarity_map
from pipelines.report.figures import (
    choose_gallery,
    embedding_map,
    loss_curves,
    patch_gallery,
    place_captions,
    read_true_color,
    scores_chart,
)
from pipelines.report.localization import LocalizedImages, localize_validation_images
from pipelines.report.model_card import CARD_NAME, CardContent, write_model_card
from pipelines.report.page import LineageStep, ReportContent, write_report
from pipelines.sampling.land import is_land
from pipelines.training.checkpoints import TrainedModel, open_run

GALLERY_SIZE = 24
RESOLUTION_PLACES = 4000
RETRIEVAL_ROWS = (
    ("recall_at_1", "Recall at 1", "share of patches whose own place comes first in a gallery"),
    ("mean_rank", "Mean rank", "of the own place in a gallery"),
    ("median_error_km", "Median error (km)", "great-circle distance of the best match"),
)


def build_report(root: Path, run_name: str, *, synthetic: bool, title: str) -> Path:
    """Writes the report of a training run: one HTML page, its pictures and the model card beside it.

    Raises:
        ArtefactError: scores or embeddings are missing or of another checkpoint.
        DatasetError: the run's dataset is gone or did not pass.
    """
    run = open_run(root, run_name)
    dataset = open_patch_dataset(root, run.record["dataset_version"])
    scores = read_scores(root, run)
    grid = read_embeddings(embeddings_path(root, LAND_GRID), run.record["checkpoint_sha256"])
    method = EncoderFeatures(MODEL_NAME, open_encoder(run).encode, run.record["checkpoint_sha256"])
    resolution = measure_resolution(method, RESOLUTION_PLACES, is_wanted=is_land)
    localized = localize_validation_images(dataset, run)
    figures = _figures(dataset, run, grid, scores) | _encoder_figures(dataset, resolution, localized)
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
        localization=_localization(localized),
        failures=scores.attrs.get(FAILURES, {}),
        **figures,
    )
    write_report(folder / "report.html", content)
    write_model_card(folder / CARD_NAME, _card_content(root, dataset, run, scores, resolution, synthetic=synthetic))
    return folder / "report.html"


def _card_content(
    root: Path,
    dataset: PatchDataset,
    run: TrainedModel,
    scores: pd.DataFrame,
    resolution: Resolution,
    *,
    synthetic: bool,
) -> CardContent:
    sensed = pd.to_datetime(dataset.places.loc[dataset.places["valid"], "datetime"], utc=True)
    plan = root / "sampling" / "plans" / dataset.record.plan_id / "plan.json"
    search = json.loads(plan.read_text()).get("search_config") or {} if plan.is_file() else {}
    return CardContent(
        run=run.record,
        dataset=asdict(dataset.record),
        first_date="" if sensed.isna().all() else f"{sensed.min():%Y-%m-%d}",
        last_date="" if sensed.isna().all() else f"{sensed.max():%Y-%m-%d}",
        scores=scores,
        model_name=MODEL_NAME,
        synthetic=synthetic,
        max_cloud_cover_percent=search.get("max_cloud_cover_percent"),
        resolution=resolution,
        failures=scores.attrs.get(FAILURES, {}),
    )


def _figures(
    dataset: PatchDataset, run: TrainedModel, grid: LocationEmbeddings, scores: pd.DataFrame
) -> dict[str, Any]:
    chosen = choose_gallery(dataset.places, GALLERY_SIZE, np.random.default_rng(0))
    resolution_deg = float(grid.provenance["land_grid_resolution_deg"])
    return {
        "sample_map": sample_map(dataset.places, is_land),
        "gallery": patch_gallery(read_true_color(dataset, chosen), place_captions(dataset.places, chosen)),
        "loss_curves": loss_curves(pd.read_csv(run.history_path)),
        "embedding_map": embedding_map(
            grid.lonlat_deg,
            grid.embeddings,
            GlobalGrid(resolution_deg, tuple(grid.provenance.get("lat_bounds_deg", (-56.0, 84.0)))),
        ),
        "scores_chart": scores_chart(scores, MODEL_NAME),
    }


def _encoder_figures(
    dataset: PatchDataset, resolution: Resolution, localized: LocalizedImages | None
) -> dict[str, Any]:
    figures = {"resolution_chart": resolution_chart(resolution)}
    if localized is not None:
        chosen = localized.typical
        (image,) = read_true_color(dataset, localized.indices[[chosen]])
        taken = localized.localization.lonlat_deg[chosen]
        figures["localization_map"] = localization_map(localized.localization, is_land)
        figures["similarity_map"] = similarity_map(localized.embeddings[chosen], image, taken, localized.gallery)
    return figures


def _localization(localized: LocalizedImages | None) -> list[tuple[float, float, float]]:
    if localized is None:
        return []
    found = localized.localization
    return [(each, found.share_within(each), found.chance_within(each)) for each in THRESHOLDS_KM]


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
