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
    from assets.metadata import loss_curves, plain_metrics
    from pipelines.features.view_bank import image_features_path, open_image_features, resolve_fingerprint
    from pipelines.patches.dataset import open_patch_dataset
    from pipelines.provenance import content_hash
    from pipelines.training.checkpoints import open_run, publish_run, run_folder
    from pipelines.training.run import train

    dataset = open_patch_dataset(workspace.path, config.dataset_version)
    fingerprint = resolve_fingerprint(workspace.path, dataset.version, config.features)
    path = image_features_path(workspace.path, dataset.version, fingerprint)
    features = open_image_features(path, dataset.version, fingerprint)
    settings = TrainingConfig(**config.model_dump(include=set(TrainingConfig.model_fields)))
    name = f"{dataset.version}-{content_hash([settings.model_dump(mode='json'), fingerprint])[:8]}"
    result = train(dataset, features, settings, run_folder(workspace.path, name))
    publish_run(workspace.path, name)
    record = open_run(workspace.path, name).record
    return dg.MaterializeResult(
        metadata={
            "path": dg.MetadataValue.path(result.checkpoint_path),
            "loss_curves": loss_curves(result.history_path),
            "training_places": result.num_training_places,
            "validation_places": result.num_validation_places,
            **plain_metrics({**result.metrics, "seconds": result.seconds}),
            "dataset_version": dataset.version,
            "checkpoint_sha256": record["checkpoint_sha256"],
        },
        data_version=dg.DataVersion(record["checkpoint_sha256"]),
    )
