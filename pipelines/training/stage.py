"""Training on what a workspace holds."""

from pathlib import Path

from pipelines.errors import ArtefactError
from pipelines.features.backbones import open_backbone
from pipelines.features.view_bank import image_features_path, open_image_features, resolve_fingerprint
from pipelines.patches.dataset import LATEST, PatchDataset, open_patch_dataset
from pipelines.provenance import content_hash
from pipelines.training.checkpoints import TrainedModel, open_run, publish_run, run_folder
from pipelines.training.config import PixelSettings, TrainingConfig
from pipelines.training.ranks import current_ranks
from pipelines.training.records import describe_pixels
from pipelines.training.run import TrainingResult, train, train_from_pixels
from satclip_model.errors import CheckpointError


def train_in_workspace(
    root: Path,
    config: TrainingConfig,
    dataset_version: str = LATEST,
    features: str = LATEST,
    pixels: PixelSettings | None = None,
) -> tuple[TrainedModel, TrainingResult]:
    """Trains on a dataset and its bank, or its pixels, and makes the run the latest; see `pipelines.training.run`.

    Several ranks need the workspace under the same path.

    The folder of the run is named after dataset, bank and settings, so that the same call goes on with a training that
    was stopped, and another call leaves it alone.

    Args:
        root: The workspace.
        config: All settings.
        dataset_version: A dataset that passed its checks, or ``latest``.
        features: Fingerprint of the bank, or ``latest`` for that of the dataset; not looked at with ``pixels``.
        pixels: How to train from pixels, for which there need not be a bank; None trains on the bank.

    Raises:
        ArtefactError: There is no such bank, or no such weights of the backbone; or as for `train`.
        ConfigurationError: As for `train`.
        DatasetError: The dataset is missing or did not pass its checks; or as for `train`.
        StoreError: As for `train_from_pixels`.
    """
    dataset = open_patch_dataset(root, dataset_version)
    if pixels is None:
        name, result = _train_on_bank(root, dataset, config, features)
    else:
        name, result = _train_from_pixels(root, dataset, config, pixels)
    if current_ranks().is_first:
        publish_run(root, name)
    return open_run(root, name), result


def _train_on_bank(
    root: Path, dataset: PatchDataset, config: TrainingConfig, features: str
) -> tuple[str, TrainingResult]:
    fingerprint = resolve_fingerprint(root, dataset.version, features)
    bank = open_image_features(image_features_path(root, dataset.version, fingerprint), dataset.version, fingerprint)
    name = _run_name(dataset, config, fingerprint)
    return name, train(dataset, bank, config, run_folder(root, name))


def _train_from_pixels(
    root: Path, dataset: PatchDataset, config: TrainingConfig, pixels: PixelSettings
) -> tuple[str, TrainingResult]:
    try:
        backbone = open_backbone(pixels.backbone, trainable=pixels.trainable_backbone)
    except CheckpointError as error:
        raise ArtefactError(f"weights of the image backbone: {error}") from error
    images = describe_pixels(dataset, backbone, pixels.views, pixels.loader)
    name = _run_name(dataset, config, images["fingerprint"])
    result = train_from_pixels(
        dataset, backbone, config, run_folder(root, name),
        views=pixels.views, loader=pixels.loader, settings=pixels.backbone,
    )  # fmt: skip
    return name, result


def _run_name(dataset: PatchDataset, config: TrainingConfig, fingerprint: str) -> str:
    return f"{dataset.version}-{content_hash([config.model_dump(mode='json'), fingerprint])[:8]}"
