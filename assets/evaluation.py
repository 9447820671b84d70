"""Downstream scores of the embeddings."""

from typing import TYPE_CHECKING

import dagster as dg
from pydantic import Field

from assets.embeddings import GROUP, location_embeddings
from assets.presets import preset_defaults
from assets.resources import TablesResource, WorkspaceResource

if TYPE_CHECKING:
    from pipelines.evaluation.run import EvaluationProtocol


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
    tasks: list[TaskSettings] = Field(default=[], description="Downstream tasks.")
    registered: list[str] = Field(
        default=[],
        description="Registered tasks or data sets beside them, as in location_embeddings; 'all' takes all.",
    )
    probes: list[str] = Field(default=["ridge"], description="ridge, knn, mlp.")
    interpolation: bool = Field(
        default=True, description="Whether inverse-distance interpolation is among the baselines."
    )
    cell_deg: float = Field(default=10.0, gt=0, le=90, description="Side of the spatial blocks in degrees.")
    seeds: list[int] = Field(default=[0, 1, 2], description="Seeds of the folds.")


def protocol_of(config: DownstreamScoresConfig) -> "EvaluationProtocol":
    """Random folds and blocks, by the settings of the asset."""
    from pipelines.evaluation.run import EvaluationProtocol

    splits = [{"kind": "random"}, {"kind": "blocks", "cell_deg": config.cell_deg}]
    return EvaluationProtocol.model_validate(
        {
            "splits": splits,
            "seeds": config.seeds,
            "probes": config.probes,
            "interpolation": config.interpolation,
        }
    )


@dg.asset(group_name=GROUP, kinds={"scikitlearn", "parquet"}, deps=[location_embeddings])
def downstream_scores(
    config: DownstreamScoresConfig, workspace: WorkspaceResource, tables: TablesResource
) -> dg.MaterializeResult:
    """Scores of the embeddings beside coordinates, harmonics alone, the untrained encoder, GeoCLIP and interpolation.

    Random folds and spatial blocks, with bootstrap intervals over out-of-fold predictions. A task that is finished is
    not evaluated again, one that cannot be is noted.
    """
    from assets.metadata import score_chart, score_metrics
    from pipelines.evaluation.stage import score_embeddings, scores_path
    from pipelines.evaluation.summaries import markdown_table
    from pipelines.evaluation.tasks import TaskConfig, find_tasks, registered_tasks
    from pipelines.provenance import file_sha256
    from pipelines.training.checkpoints import open_run

    run = open_run(workspace.path, config.run)
    tasks = [TaskConfig(**each.model_dump()) for each in config.tasks]
    tasks += list(registered_tasks().values()) if config.registered == ["all"] else find_tasks(config.registered)
    evaluation = score_embeddings(workspace.path, run, tasks, protocol_of(config), tables.location)
    scores, path = evaluation.scores, scores_path(workspace.path)
    return dg.MaterializeResult(
        metadata={
            "dagster/row_count": len(scores),
            "path": dg.MetadataValue.path(path),
            "chart": score_chart(scores),
            **score_metrics(scores),
            "scores": dg.MetadataValue.md(markdown_table(scores)),
            "not_scored": dg.MetadataValue.json(evaluation.failures),
            "tasks_taken_from_before": evaluation.num_reused,
            "run": run.name,
            "checkpoint_sha256": run.record["checkpoint_sha256"],
        },
        data_version=dg.DataVersion(file_sha256(path)),
    )
