"""Training the two towers."""

from typing import TYPE_CHECKING, Any, Literal, Self

import dagster as dg
from pydantic import Field, model_validator

from assets.features import GROUP, image_features
from assets.presets import preset_defaults
from assets.resources import WorkspaceResource
from pipelines.training.config import TrainingConfig

if TYPE_CHECKING:
    from pipelines.training.checkpoints import TrainedModel


@preset_defaults("satclip_checkpoint")
class SatclipCheckpointConfig(TrainingConfig, dg.Config):
    """How the two towers are trained."""

    dataset_version: str = Field(default="latest", description="Which dataset.")
    features: str = Field(
        default="latest", description="Fingerprint of the image features, or latest for those of this dataset."
    )
    run_in: Literal["step", "subprocess"] = Field(
        default="step", description="Where PyTorch runs: in the step's own process, or in processes that it starts."
    )
    num_processes: int = Field(
        default=1, ge=1, le=1024, description="Ranks that share each batch, one per GPU; more than 1 in a subprocess."
    )

    @model_validator(mode="after")
    def _ranks_have_processes(self) -> Self:
        if self.num_processes > 1 and self.run_in == "step":
            raise ValueError(
                f"num_processes is {self.num_processes}, but run_in is 'step', which is one process; set run_in to "
                "'subprocess' or num_processes to 1"
            )
        return self

    @property
    def settings(self) -> TrainingConfig:
        """The settings of the training, without those of where it runs."""
        return TrainingConfig(**self.model_dump(include=set(TrainingConfig.model_fields)))


@dg.asset(group_name=GROUP, kinds={"pytorch", "lightning"}, deps=[image_features], pool="gpu")
def satclip_checkpoint(
    context: dg.AssetExecutionContext,
    config: SatclipCheckpointConfig,
    workspace: WorkspaceResource,
    pipes: dg.PipesSubprocessClient,
) -> dg.MaterializeResult:
    """Location and image towers trained on a dataset that passed its checks, split by place."""
    if config.run_in == "subprocess":
        return _train_in_subprocess(context, config, workspace, pipes)
    from pipelines.training.stage import train_in_workspace

    run, result = train_in_workspace(workspace.path, config.settings, config.dataset_version, config.features)
    return dg.MaterializeResult(
        metadata=_describe(run, result.seconds), data_version=dg.DataVersion(run.record["checkpoint_sha256"])
    )


def _train_in_subprocess(
    context: dg.AssetExecutionContext,
    config: SatclipCheckpointConfig,
    workspace: WorkspaceResource,
    pipes: dg.PipesSubprocessClient,
) -> dg.MaterializeResult:
    from assets.train_process import command
    from pipelines.training.checkpoints import open_run

    extras = {
        "root": str(workspace.path),
        "config": config.settings.model_dump(mode="json"),
        "dataset_version": config.dataset_version,
        "features": config.features,
    }
    done = pipes.run(context=context, command=command(config.num_processes), extras=extras)
    (told,) = done.get_custom_messages()
    metadata = _describe(open_run(workspace.path, told["run"]), told["seconds"])
    return done.get_materialize_result()._replace(metadata=metadata)


def _describe(run: "TrainedModel", seconds: float) -> dict[str, Any]:
    from assets.metadata import loss_curves, plain_metrics, retrieval_curves

    record, split = run.record, run.record["split"]
    metadata: dict[str, Any] = {
        "path": dg.MetadataValue.path(run.checkpoint_path),
        "loss_curves": loss_curves(run.history_path),
        "training_places": split["num_training_places"],
        "validation_places": split["num_validation_places"],
        **plain_metrics({**record["metrics"], "epoch": record["epoch"], "seconds": seconds}),
        "dataset_version": record["dataset_version"],
        "checkpoint_sha256": record["checkpoint_sha256"],
    }
    if split["num_validation_places"] > 1:
        metadata["retrieval_curves"] = retrieval_curves(run.history_path)
    return metadata
