"""Training the two towers."""

import dagster as dg
from pydantic import Field

from assets.features import GROUP, image_features
from assets.presets import preset_defaults
from assets.resources import WorkspaceResource
from pipelines.training.config import TrainingConfig


@preset_defaults("satclip_checkpoint")
class SatclipCheckpointConfig(TrainingConfig, dg.Config):
    """How the two towers are trained."""

    dataset_version: str = Field(default="latest", description="Which dataset.")
    features: str = Field(
        default="latest", description="Fingerprint of the image features, or latest for those of this dataset."
    )


@dg.asset(group_name=GROUP, kinds={"pytorch", "lightning"}, deps=[image_features], pool="gpu")
def satclip_checkpoint(config: SatclipCheckpointConfig, workspace: WorkspaceResource) -> dg.MaterializeResult:
    """Location and image towers trained on a dataset that passed its checks, split by place."""
    from assets.metadata import loss_curves, plain_metrics, retrieval_curves
    from pipelines.training.stage import train_in_workspace

    settings = TrainingConfig(**config.model_dump(include=set(TrainingConfig.model_fields)))
    run, result = train_in_workspace(workspace.path, settings, config.dataset_version, config.features)
    return dg.MaterializeResult(
        metadata={
            "path": dg.MetadataValue.path(result.checkpoint_path),
            "loss_curves": loss_curves(result.history_path),
            **({"retrieval_curves": retrieval_curves(result.history_path)} if result.num_validation_places > 1 else {}),
            "training_places": result.num_training_places,
            "validation_places": result.num_validation_places,
            **plain_metrics({**result.metrics, "epoch": result.epoch, "seconds": result.seconds}),
            "dataset_version": run.record["dataset_version"],
            "checkpoint_sha256": run.record["checkpoint_sha256"],
        },
        data_version=dg.DataVersion(run.record["checkpoint_sha256"]),
    )
