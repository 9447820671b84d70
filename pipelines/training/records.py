"""What the record of a training says of its parents."""

from typing import Any, Final

from pipelines.features.config import ImageBackboneSettings, ViewsConfig
from pipelines.features.patch_source import PatchSource
from pipelines.features.view_bank import ImageFeatures, dataset_content
from pipelines.provenance import content_hash, git_commit, package_versions
from pipelines.training.config import PixelLoaderConfig, TrainingConfig
from pipelines.training.data import TrainingData
from pipelines.training.ranks import Ranks
from pipelines.training.splits import describe_split
from satclip_model.image_encoder import ImageBackbone

_BANK: Final = ("content_sha256", "fingerprint", "backbone_fingerprint", "encoder", "views", "feature_dim")
_FINGERPRINT_DIGITS: Final = 16


def describe_bank(image_features: ImageFeatures) -> dict[str, Any]:
    """The entry ``image_features`` of a training on a bank."""
    return {"source": "bank", **{name: image_features.record[name] for name in _BANK}}


def describe_pixels(
    dataset: PatchSource, backbone: ImageBackbone, views: ViewsConfig, loader: PixelLoaderConfig
) -> dict[str, Any]:
    """The entry ``image_features`` of a training from pixels: names as of a bank's, and what decides the order.

    How many workers read, and how much at a time, changes nothing and is left out.
    """
    images = {
        "source": "pixels",
        "backbone_fingerprint": backbone.fingerprint,
        "encoder": backbone.config.model_dump(mode="json"),
        "views": views.model_dump(mode="json") if views.num_views > 1 else {"num_views": 1},
        "window_shards": loader.window_shards,
        "feature_dim": backbone.feature_dim,
    }
    fingerprint = content_hash(images)[:_FINGERPRINT_DIGITS]
    return {**images, "fingerprint": fingerprint, "content_sha256": dataset_content(dataset)}


def describe_run(
    dataset_version: str,
    image_features: dict[str, Any],
    config: TrainingConfig,
    data: TrainingData,
    ranks: Ranks,
    backbone: ImageBackboneSettings | None = None,
) -> dict[str, Any]:
    """The record of a training before its first step.

    Args:
        dataset_version: Id of the dataset.
        image_features: The entry of that name.
        config: All settings.
        data: The places.
        ranks: How many share a batch.
        backbone: How the image backbone was opened, where that is not in the record of a bank.
    """
    settings = config.model_dump(mode="json")
    opened = {} if backbone is None else {"backbone": backbone.model_dump(mode="json")}
    return {
        "dataset_version": dataset_version,
        "image_features": image_features,
        **opened,
        "config": settings,
        "config_sha256": content_hash(settings),
        "split": describe_split(config, data.training, data.validation),
        "num_ranks": ranks.world_size,
        "packages": package_versions(),
        "commit": git_commit(),
    }
