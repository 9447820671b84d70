"""Training on what a workspace holds."""

from pathlib import Path

from pipelines.features.view_bank import image_features_path, open_image_features, resolve_fingerprint
from pipelines.patches.dataset import LATEST, open_patch_dataset
from pipelines.provenance import content_hash
from pipelines.training.checkpoints import TrainedModel, open_run, publish_run, run_folder
from pipelines.training.config import TrainingConfig
from pipelines.training.ranks import current_ranks
from pipelines.training.run import TrainingResult, train


def train_in_workspace(
    root: Path, config: TrainingConfig, dataset_version: str = LATEST, features: str = LATEST
) -> tuple[TrainedModel, TrainingResult]:
    """Trains on a dataset and its bank, and makes the run the latest; see `pipelines.training.run.train`.

    Several ranks need the workspace under the same path.

    The folder of the run is named after dataset, bank and settings, so that the same call goes on with a training that
    was stopped, and another call leaves it alone.

    Args:
        root: The workspace.
        config: All settings.
        dataset_version: A dataset that passed its checks, or ``latest``.
        features: Fingerprint of the bank, or ``latest`` for that of the dataset.

    Raises:
        ArtefactError: There is no such bank; or as for `train`.
        ConfigurationError: As for `train`.
        DatasetError: The dataset is missing or did not pass its checks; or as for `train`.
    """
    dataset = open_patch_dataset(root, dataset_version)
    fingerprint = resolve_fingerprint(root, dataset.version, features)
    bank = open_image_features(image_features_path(root, dataset.version, fingerprint), dataset.version, fingerprint)
    name = f"{dataset.version}-{content_hash([config.model_dump(mode='json'), fingerprint])[:8]}"
    result = train(dataset, bank, config, run_folder(root, name))
    if current_ranks().is_first:
        publish_run(root, name)
    return open_run(root, name), result
