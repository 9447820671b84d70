"""Downstream scores of the embeddings."""

import dagster as dg
from pydantic import Field

from assets.embeddings import GROUP, location_embeddings
from assets.presets import preset_defaults
from assets.resources import TablesResource, WorkspaceResource


class TaskSettings(dg.Config):
    """One downstream task; its embeddings are the file of the same name."""

    name: str = Field(description="Name of the task and of its table in location_embeddings.")
    table: str = Field(description="CSV or GeoParquet: path, http address, or name below the tables resource's root.")
    target: str = Field(description="Column of the target.")
    kind: str = Field(default="regression", description="regression or classification.")
    transform: str = Field(default="none", description="none, log1p or standardise.")
    lon_column: str = Field(default="lon", description="Column of longitudes in degrees.")
    lat_column: str = Field(default="lat", description="Column of latitudes in degrees.")


@preset_defaults("downstream_scores")
class DownstreamScoresConfig(dg.Config):
    """What is evaluated, and how places are divided."""

    run: str = Field(default="latest", description="Which training run.")
    tasks: list[TaskSettings] = Field(description="Downstream tasks.")
    cell_deg: float = Field(default=10.0, gt=0, le=90, description="Side of the spatial blocks in degrees.")
    seeds: list[int] = Field(default=[0, 1, 2], description="Seeds of the folds.")


@dg.asset(group_name=GROUP, kinds={"scikitlearn", "parquet"}, deps=[location_embeddings])
def downstream_scores(
    config: DownstreamScoresConfig, workspace: WorkspaceResource, tables: TablesResource
) -> dg.MaterializeResult:
    """Ridge on the embeddings against ridge on coordinates, harmonics alone and the untrained encoder.

    Random folds and spatial blocks, with bootstrap intervals over out-of-fold predictions.
    """
    from assets.metadata import score_chart, score_metrics
    from pipelines.evaluation.scores import markdown_table
    from pipelines.evaluation.stage import score_embeddings, scores_path
    from pipelines.evaluation.tasks import TaskConfig
    from pipelines.provenance import file_sha256
    from pipelines.training.checkpoints import open_run

    run = open_run(workspace.path, config.run)
    tasks = [TaskConfig(**each.model_dump()) for each in config.tasks]
    scores = score_embeddings(workspace.path, run, tasks, config.cell_deg, config.seeds, tables.location)
    path = scores_path(workspace.path)
    return dg.MaterializeResult(
        metadata={
            "dagster/row_count": len(scores),
            "path": dg.MetadataValue.path(path),
            "chart": score_chart(scores),
            **score_metrics(scores),
            "scores": dg.MetadataValue.md(markdown_table(scores)),
            "run": run.name,
            "checkpoint_sha256": run.record["checkpoint_sha256"],
        },
        data_version=dg.DataVersion(file_sha256(path)),
    )
