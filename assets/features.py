"""The view bank: features of the frozen image backbone, computed once."""

from typing import Literal

import dagster as dg
from pydantic import Field

from assets.patches import patch_dataset
from assets.presets import preset_defaults
from assets.resources import WorkspaceResource
from pipelines.features.config import ImageBackboneSettings, ViewsConfig

GROUP = "model"


class BankViewsConfig(ViewsConfig, dg.Config):
    """Views of every patch: view 0 is the patch itself, the others are augmented."""


@preset_defaults("image_features")
class ImageFeaturesConfig(ImageBackboneSettings, dg.Config):
    """The frozen image backbone, and the views it sees."""

    dataset_version: str = Field(default="latest", description="Which dataset.")
    views: BankViewsConfig = Field(default=BankViewsConfig(), description="Views of every patch.")
    batch_size: int = Field(default=0, ge=0, description="Patches encoded at a time; 0 keeps memory bounded.")
    device: Literal["auto", "cuda", "cpu"] = Field(
        default="auto", description="cuda asks for a GPU and fails without; auto takes one where it is."
    )


@dg.asset(group_name=GROUP, kinds={"pytorch", "zarr"}, deps=[patch_dataset], pool="gpu")
def image_features(config: ImageFeaturesConfig, workspace: WorkspaceResource) -> dg.MaterializeResult:
    """Features of all views of every patch under the frozen image backbone; what is there and fits is kept."""
    from pipelines.features.backbones import open_backbone
    from pipelines.features.view_bank import (
        bank_fingerprint,
        build_image_features,
        image_features_path,
        publish_image_features,
    )
    from pipelines.patches.dataset import open_patch_dataset
    from pipelines.provenance import content_hash

    dataset = open_patch_dataset(workspace.path, config.dataset_version)
    settings = ImageBackboneSettings(**config.model_dump(include=set(ImageBackboneSettings.model_fields)))
    views = ViewsConfig(**config.views.model_dump())
    backbone = open_backbone(settings)
    fingerprint = bank_fingerprint(backbone, views)
    path = image_features_path(workspace.path, dataset.version, fingerprint)
    record = build_image_features(
        dataset, backbone, path, views, settings=settings, batch_size=config.batch_size, device=config.device
    )
    publish_image_features(workspace.path, dataset.version, fingerprint)
    return dg.MaterializeResult(
        metadata={
            "dagster/row_count": int(record["num_valid"]),
            "path": dg.MetadataValue.path(path),
            "dataset_version": dataset.version,
            "fingerprint": fingerprint,
            "backbone": settings.kind,
            "backbone_fingerprint": backbone.fingerprint,
            "weights": settings.weights or f"random, seed {settings.seed}",
            "views": dg.MetadataValue.json(record["views"]),
            "num_views": views.num_views,
            "feature_dim": backbone.feature_dim,
            "computed_shards": int(record["num_computed_shards"]),
            "copied_patches": int(record["num_copied_patches"]),
            "computed_patches": int(record["num_computed_patches"]),
        },
        data_version=dg.DataVersion(content_hash([dataset.record.content_sha256, fingerprint])),
    )
