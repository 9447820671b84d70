"""What becomes of Satlas predictions: monthly products, their index, their validation."""

import dagster as dg
from pydantic import Field

from assets.partitions import SATLAS_MONTHS
from assets.resources import WorkspaceResource
from assets.satlas import satlas_predictions

GROUP = "satlas"
TASKS = ["solar_farm", "wind_turbine", "marine_infrastructure", "tree_cover"]


class SatlasProductsConfig(dg.Config):
    """How predictions become products."""

    tasks: list[str] = Field(default=TASKS, description="Tasks to publish; one without predictions is noted.")
    min_score: float | None = Field(
        default=None,
        ge=0,
        le=1,
        description="Objects with a lower score are left out; default: the training's, or 0.5.",
    )
    merge_distance_m: float = Field(default=50.0, gt=0, description="Points of a month nearer than this are one.")
    gap_m: float = Field(default=10.0, ge=0, description="Widest gap closed between polygons, about a pixel.")
    min_area_m2: float = Field(default=800.0, ge=0, description="Smaller polygons are left out.")
    track_distance_m: float = Field(default=200.0, gt=0, description="Furthest a point moves between months.")
    construction_probability: float = Field(default=0.1, gt=0, lt=1, description="Absent one month, present the next.")
    removal_probability: float = Field(default=0.02, gt=0, lt=1, description="Present one month, absent the next.")
    detection_probability: float = Field(default=0.75, gt=0, lt=1, description="Detected where present.")
    false_detection_probability: float = Field(default=0.05, gt=0, lt=1, description="Detected where absent.")
    tree_cover_bounds: list[float] = Field(
        default=[0.1, 0.3, 0.6, 0.9], description="Shares under trees from which low, medium, high and full begin."
    )


class SatlasValidationConfig(dg.Config):
    """How products are validated."""

    tasks: list[str] = Field(default=TASKS[:3], description="Tasks to validate; one that is not indexed is noted.")
    month: str = Field(default="latest", description="YYYY-MM or latest.")
    samples_per_continent: int = Field(default=100, ge=1, description="Most objects judged per continent.")
    seed: int = Field(default=0, description="Of the order of samples.")
    confidence: float = Field(default=0.95, gt=0, lt=1, description="Of the Wilson intervals.")
    recall_distance_m: float = Field(default=200.0, gt=0, description="How near a known object one must lie.")
    by_continent: bool = Field(default=True, description="Whether samples are drawn per continent.")
    countries: str = Field(default="", description="Natural Earth's countries; empty: the user's cache.")
    download_countries: bool = Field(default=False, description="Whether they are fetched where they are not there.")
    references: dict[str, str] = Field(default={}, description="Files of known objects by task, for recall.")


@dg.asset(
    group_name=GROUP,
    kinds={"geoparquet", "geojson", "geotiff"},
    partitions_def=SATLAS_MONTHS,
    deps=[satlas_predictions],
    pool="satlas_products",
)
def satlas_products(
    context: dg.AssetExecutionContext, config: SatlasProductsConfig, workspace: WorkspaceResource
) -> dg.MaterializeResult:
    """Turbines, platforms, solar farms and tree cover of a month, merged across tiles and smoothed through months.

    Other months whose verdicts this one changes get a new version, and an event of their own here.
    """
    from assets.satlas_settings import product_settings
    from pipelines.provenance import content_hash
    from pipelines.satlas.stage import publish_month, summary

    products = publish_month(workspace.path, context.partition_key, config.tasks, *product_settings(config))
    for month, tasks in products.other_months.items():
        context.log_event(
            dg.AssetMaterialization(
                asset_key=context.asset_key,
                partition=month,
                metadata={"made_by": context.partition_key, "tasks": dg.MetadataValue.json(list(tasks))},
            )
        )
    return dg.MaterializeResult(
        metadata={
            "dagster/row_count": sum(each.num_objects for each in products.tasks),
            **{name: dg.MetadataValue.json(value) for name, value in summary(products).items()},
            "path": dg.MetadataValue.path(workspace.path / "satlas" / "products"),
        },
        data_version=dg.DataVersion(content_hash(products.versions_of(context.partition_key))),
    )


@dg.asset(
    group_name=GROUP,
    kinds={"json"},
    deps=[dg.AssetDep(satlas_products, partition_mapping=dg.AllPartitionMapping())],
)
def satlas_index(workspace: WorkspaceResource) -> dg.MaterializeResult:
    """Every published file with its SHA-256 and time, and which months were revised."""
    from pipelines.satlas.index import build_index, index_path

    index = build_index(workspace.path)
    return dg.MaterializeResult(
        metadata={
            "dagster/row_count": len(index.entries),
            "path": dg.MetadataValue.path(index_path(workspace.path)),
            "revised": dg.MetadataValue.json(index.revised),
            "changed": index.changed,
        },
        data_version=dg.DataVersion(index.content_sha256),
    )


@dg.asset(group_name=GROUP, kinds={"markdown", "csv"}, deps=[satlas_index])
def satlas_validation(config: SatlasValidationConfig, workspace: WorkspaceResource) -> dg.MaterializeResult:
    """Precision and recall per continent with Wilson intervals; draws the samples that people judge."""
    from assets.satlas_settings import validation_settings
    from pipelines.satlas.validation.report import estimates_table
    from pipelines.satlas.validation.stage import validate_tasks

    found, failures = validate_tasks(workspace.path, config.tasks, validation_settings(config), config.references)
    estimates = [estimate for each in found for estimate in each.estimates]
    return dg.MaterializeResult(
        metadata={
            "estimates": dg.MetadataValue.md(estimates_table(estimates, config.confidence)),
            "samples": sum(each.num_samples for each in found),
            "judged": sum(each.num_judged for each in found),
            "reports": dg.MetadataValue.json({each.task: str(each.report) for each in found}),
            "not_validated": dg.MetadataValue.json(failures),
        }
    )


@dg.asset_check(asset=satlas_index)
def every_published_file_is_intact(workspace: WorkspaceResource) -> dg.AssetCheckResult:
    """Every published file is there and has the hash that the index names."""
    from pipelines.satlas.index import damaged_files

    damaged = damaged_files(workspace.path)
    return dg.AssetCheckResult(passed=not damaged, metadata={"damaged": dg.MetadataValue.json(damaged)})


@dg.asset_check(asset=satlas_index)
def months_are_consecutive(workspace: WorkspaceResource) -> dg.AssetCheckResult:
    """No month is missing between the first and the last of a task; what is missing counts as never looked at."""
    from pipelines.satlas.index import missing_months

    missing = missing_months(workspace.path)
    return dg.AssetCheckResult(
        passed=not missing,
        severity=dg.AssetCheckSeverity.WARN,
        metadata={"missing": dg.MetadataValue.json(missing)},
    )


SATLAS_PRODUCT_ASSETS = [satlas_products, satlas_index, satlas_validation]
SATLAS_PRODUCT_CHECKS = [every_published_file_is_intact, months_are_consecutive]
