"""Location embeddings of a land grid and of tables of points."""

import dagster as dg
from pydantic import Field

from assets.presets import preset_defaults
from assets.resources import TablesResource, WorkspaceResource
from assets.training import satclip_checkpoint

GROUP = "products"


class PointTableConfig(dg.Config):
    """A table of points to embed."""

    name: str = Field(description="Name of the embedding file, and of the table in downstream_scores.")
    table: str = Field(description="CSV or GeoParquet: path, http address, or name below the tables resource's root.")
    lon_column: str = Field(default="lon", description="Column of longitudes in degrees.")
    lat_column: str = Field(default="lat", description="Column of latitudes in degrees.")


@preset_defaults("location_embeddings")
class LocationEmbeddingsConfig(dg.Config):
    """What is embedded."""

    run: str = Field(default="latest", description="Which training run.")
    resolution_deg: float = Field(default=1.0, gt=0, le=10, description="Cell size of the grid; must divide 180.")
    land_only: bool = Field(default=True, description="Only cells on land, 56 S to 84 N; else the whole globe.")
    formats: list[str] = Field(
        default=["parquet", "zarr", "int8", "cog"],
        description="Formats of the grid: GeoParquet (always written), Zarr, eight-bit Zarr, GeoTIFF of components.",
    )
    tables: list[PointTableConfig] = Field(default=[], description="Tables of points.")
    registered: list[str] = Field(
        default=[],
        description="Registered tasks or data sets (satclip evaluate --list) whose places are embedded, 'all' for all; "
        "those whose table is not there are left out.",
    )


@dg.asset(group_name=GROUP, kinds={"pytorch", "geoparquet"}, deps=[satclip_checkpoint])
def location_embeddings(
    config: LocationEmbeddingsConfig, workspace: WorkspaceResource, tables: TablesResource
) -> dg.MaterializeResult:
    """Unit-length embeddings of a grid and of tables of points that name their checkpoint, listed in coverage.json."""
    from dataclasses import asdict

    from assets.metadata import embedding_map
    from pipelines.embeddings.products import LAND_GRID, GridProducts, PointTable, build_embeddings, embeddings_path
    from pipelines.evaluation.tasks import find_tasks, registered_tasks
    from pipelines.provenance import content_hash
    from pipelines.training.checkpoints import open_run

    run = open_run(workspace.path, config.run)
    wanted = [PointTable(**each.model_dump()) for each in config.tables]
    tasks = list(registered_tasks().values()) if config.registered == ["all"] else find_tasks(config.registered)
    grid = GridProducts(config.resolution_deg, config.land_only, tuple(config.formats))
    built = build_embeddings(workspace.path, run, grid, wanted, tables.location, tasks)
    grid_file = embeddings_path(workspace.path, LAND_GRID)
    error = {} if built.quantization_error is None else asdict(built.quantization_error)
    return dg.MaterializeResult(
        metadata={
            "dagster/row_count": sum(built.counts.values()),
            "path": dg.MetadataValue.path(grid_file.parent),
            "map": embedding_map(grid_file, config.resolution_deg, grid.grid.lat_bounds_deg),
            "points": dg.MetadataValue.json(built.counts),
            "tables_not_there": dg.MetadataValue.json(built.skipped),
            "files": dg.MetadataValue.json({each.path: each.sha256 for each in built.products}),
            "int8_error": dg.MetadataValue.json(error),
            "run": run.name,
            "checkpoint_sha256": run.record["checkpoint_sha256"],
        },
        data_version=dg.DataVersion(content_hash([each.sha256 for each in built.products])),
    )
