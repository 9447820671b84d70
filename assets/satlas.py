"""Satlas up to predictions: the images of an area's tiles, and what models see in them."""

from typing import TYPE_CHECKING

import dagster as dg
from pydantic import Field

from assets.partitions import SATLAS_MONTHS
from assets.presets import preset_defaults
from assets.resources import CatalogResource, WorkspaceResource

if TYPE_CHECKING:
    from pipelines.satlas.prediction_stage import PredictionRun

GROUP = "satlas"
MINIMUM_OBSERVED_SHARE = 0.5
"""Share of a month's tiles that need an image, or what the month says is of few places."""


@preset_defaults("satlas_windows")
class SatlasWindowsConfig(dg.Config):
    """Which tiles are looked at, and with which images."""

    boxes: list[list[float]] = Field(
        default=[], description="West, south, east, north in degrees; west above east crosses the antimeridian."
    )
    area: str = Field(default="", description="GeoJSON of polygons instead of, or beside, the boxes.")
    tile_px: int = Field(default=2048, ge=32, le=8192, description="Side of a tile, a multiple of 32.")
    margin_px: int = Field(
        default=64, ge=0, le=1024, description="Pixels around a tile that models see and predict nothing in."
    )
    cell_px: int | None = Field(
        default=None, ge=32, le=8192, description="Side of the squares that choose images; default: of a tile."
    )
    grid_shift_px: int = Field(default=0, ge=0, description="Moves the grid of tiles east and south.")
    num_periods: int = Field(default=4, ge=1, le=24, description="Periods that a month looks back on.")
    period_days: int = Field(default=30, ge=1, le=366, description="Length of a period; the last ends with the month.")
    max_images: int = Field(default=3, ge=1, le=16, description="Most images of a period's mosaic.")
    max_candidates: int = Field(
        default=12, ge=1, le=200, description="Most images of a period whose scene classification is read."
    )
    min_clear: float = Field(default=0.05, gt=0, le=1, description="Share of a tile that a mosaic must cover.")
    collection: str = Field(default="sentinel-2-l2a", description="Of the catalog; empty: the profile's.")
    num_workers: int = Field(default=4, ge=1, le=64, description="Tiles at the same time.")
    max_attempts: int = Field(default=5, ge=1, le=20, description="Attempts at one file before the tile gives up.")
    backoff_s: float = Field(default=0.5, ge=0, le=60, description="Wait after the first failed attempt; doubles.")


@preset_defaults("satlas_predictions")
class SatlasPredictionsConfig(dg.Config):
    """Which models look, and how."""

    weights: dict[str, str] = Field(
        default={},
        description="By task (solar_farm, wind_turbine, marine_infrastructure, tree_cover): a file of published "
        "weights, the unpacked published archive, or the folder of a training. A task without weights is noted.",
    )
    window_px: int = Field(default=512, ge=32, le=4096, description="Side of a window, a multiple of 32.")
    overlap_px: int = Field(default=128, ge=0, description="Shared by neighbouring windows, an even number.")
    batch_size: int | None = Field(default=None, ge=1, description="Windows at a time; default: by device.")
    min_score: float = Field(default=0.1, ge=0, le=1, description="Points below are left out.")
    threshold: float = Field(default=0.5, gt=0, lt=1, description="Pixels above belong to a polygon.")
    min_area_px: int = Field(default=8, ge=1, description="Smaller polygons are left out.")
    merge_distance_m: float = Field(default=50.0, gt=0, description="Points no further apart are one.")
    min_present: float = Field(default=0.25, gt=0, le=1, description="Share of a window that an image must cover.")
    precision: str = Field(
        default="auto", pattern="^(auto|float32|bfloat16)$", description="auto: bfloat16 on a GPU, else float32."
    )
    accelerator: str = Field(default="auto", pattern="^(auto|cuda|cpu)$", description="Where the models run.")


@dg.asset(group_name=GROUP, kinds={"sentinel2", "geotiff"}, partitions_def=SATLAS_MONTHS, pool="satlas_windows")
def satlas_windows(
    context: dg.AssetExecutionContext,
    config: SatlasWindowsConfig,
    workspace: WorkspaceResource,
    catalog: CatalogResource,
) -> dg.MaterializeResult:
    """The clearest images of every tile in the periods before the end of a month, one mosaic per period.

    Which periods have no image is recorded with the cause. Finished tiles are kept, and images shared by months.
    """
    from pipelines.errors import ArtefactError
    from pipelines.provenance import content_hash
    from pipelines.satlas.window_stage import build_windows
    from pipelines.satlas.windows import list_windows, read_windows_record, windows_sha256
    from pipelines.satlas.windows_config import WindowsConfig

    month = context.partition_key
    settings = WindowsConfig.model_validate(config.model_dump())
    run = build_windows(workspace.path, month, settings, catalog.open(config.collection))
    records = {folder.name: read_windows_record(folder) for folder in list_windows(workspace.path, month)}
    if run.failures and not run.made and not run.kept:
        name, cause = next(iter(run.failures.items()))
        raise ArtefactError(f"{month}: none of {len(run.failures)} tiles has a window; {name}: {cause}")
    return dg.MaterializeResult(
        metadata={
            "dagster/row_count": len(records),
            "made": len(run.made),
            "kept": len(run.kept),
            "without_image": dg.MetadataValue.json(run.without_image),
            "failures": dg.MetadataValue.json(run.failures),
            "path": dg.MetadataValue.path(workspace.path / "satlas" / "windows" / month),
        },
        data_version=dg.DataVersion(content_hash({name: windows_sha256(record) for name, record in records.items()})),
    )


@dg.asset(
    group_name=GROUP,
    kinds={"pytorch", "geoparquet"},
    partitions_def=SATLAS_MONTHS,
    deps=[satlas_windows],
    pool="satlas_predictions",
)
def satlas_predictions(
    context: dg.AssetExecutionContext, config: SatlasPredictionsConfig, workspace: WorkspaceResource
) -> dg.MaterializeResult:
    """What the models of the tasks see in every tile of a month; finished tiles of the same images are kept."""
    from pipelines.errors import ConfigurationError
    from pipelines.provenance import content_hash
    from pipelines.satlas.predictions import TASK_KINDS, list_predictions, read_record

    unknown = sorted(set(config.weights) - set(TASK_KINDS))
    if unknown or not config.weights:
        found = f"weights are given for {', '.join(unknown)}" if unknown else "no weights are given"
        raise ConfigurationError(
            f"{found}; expected weights of one or more of {', '.join(TASK_KINDS)}: published files, or the folders "
            "that satclip satlas train leaves"
        )
    month = context.partition_key
    runs = {task: _predict_task(config, workspace, month, task) for task in config.weights}
    hashes = {
        task: [read_record(folder)["files"] for folder in list_predictions(workspace.path, task, month)]
        for task in runs
    }
    return dg.MaterializeResult(
        metadata={
            "dagster/row_count": sum(len(run.made) + len(run.kept) for run in runs.values()),
            "made": dg.MetadataValue.json({task: len(run.made) for task, run in runs.items()}),
            "kept": dg.MetadataValue.json({task: len(run.kept) for task, run in runs.items()}),
            "failures": dg.MetadataValue.json({task: run.failures for task, run in runs.items() if run.failures}),
            "without_weights": dg.MetadataValue.json([task for task in TASK_KINDS if task not in runs]),
            "path": dg.MetadataValue.path(workspace.path / "satlas" / "predictions"),
        },
        data_version=dg.DataVersion(content_hash(hashes)),
    )


def _predict_task(
    config: SatlasPredictionsConfig, workspace: WorkspaceResource, month: str, task: str
) -> "PredictionRun":
    from pathlib import Path

    from pipelines.features.encoding import choose_device
    from pipelines.provenance import file_sha256
    from pipelines.satlas.inference_config import InferenceConfig
    from pipelines.satlas.prediction_stage import predict_windows
    from pipelines.satlas.task_weights import find_satlas_weights, open_satlas_model, read_score_thresholds

    settings = config.model_dump(include=set(InferenceConfig.model_fields))
    weights = Path(config.weights[task]).expanduser()
    model = open_satlas_model(task, weights, choose_device(config.accelerator))
    return predict_windows(
        workspace.path,
        model,
        task,
        month,
        weights_sha256=file_sha256(find_satlas_weights(task, weights)[0]),
        config=InferenceConfig.model_validate(settings),
        score_thresholds=read_score_thresholds(weights),
    )


@dg.asset_check(asset=satlas_windows)
def tiles_have_images(workspace: WorkspaceResource) -> dg.AssetCheckResult:
    """At least half of the tiles of every month made so far have an image; a warning."""
    from pipelines.satlas.windows import image_shares

    shares = image_shares(workspace.path)
    lacking = {month: share for month, share in shares.items() if share < MINIMUM_OBSERVED_SHARE}
    return dg.AssetCheckResult(
        passed=not lacking,
        severity=dg.AssetCheckSeverity.WARN,
        metadata={
            "share_with_image": dg.MetadataValue.json(shares),
            "expected_at_least": MINIMUM_OBSERVED_SHARE,
        },
    )


SATLAS_ASSETS = [satlas_windows, satlas_predictions]
SATLAS_CHECKS = [tiles_have_images]
