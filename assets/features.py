"""Features of the frozen image backbone, computed once."""

import dagster as dg
from pydantic import Field

from assets.patches import patch_dataset
from assets.presets import preset_defaults
from assets.resources import WorkspaceResource

GROUP = "model"


@preset_defaults("image_features")
class ImageFeaturesConfig(dg.Config):
    """The frozen image backbone."""

    dataset_version: str = Field(default="latest", description="Which dataset.")
    seed: int = Field(default=0, ge=0, description="Seed of the random filters.")
    num_filters: int = Field(default=64, ge=1, le=1024, description="Filters per scale.")


@dg.asset(group_name=GROUP, kinds={"pytorch", "zarr"}, deps=[patch_dataset])
def image_features(config: ImageFeaturesConfig, workspace: WorkspaceResource) -> dg.MaterializeResult:
    """Features of every patch under the frozen image backbone; finished shards are skipped."""
    from pipelines.features.view_bank import build_image_features, image_features_path
    from pipelines.patches.dataset import open_patch_dataset
    from pipelines.provenance import content_hash
    from satclip_model.config import RandomFeaturesConfig
    from satclip_model.image_encoder import RandomConvolutionalFeatures

    dataset = open_patch_dataset(workspace.path, config.dataset_version)
    backbone = RandomConvolutionalFeatures(RandomFeaturesConfig(seed=config.seed, num_filters=config.num_filters))
    path = image_features_path(workspace.path, dataset.version, backbone.fingerprint)
    record = build_image_features(dataset, backbone, path)
    return dg.MaterializeResult(
        metadata={
            "dagster/row_count": int(record["num_valid"]),
            "path": dg.MetadataValue.path(path),
            "dataset_version": dataset.version,
            "fingerprint": backbone.fingerprint,
            "feature_dim": backbone.feature_dim,
            "computed_shards": int(record["num_computed_shards"]),
        },
        data_version=dg.DataVersion(content_hash([dataset.record.content_sha256, backbone.fingerprint])),
    )
