"""One call trains: on image features that are there, or from pixels."""

import logging
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pipelines.errors import DatasetError
from pipelines.features.config import ImageBackboneSettings, ViewsConfig
from pipelines.features.patch_source import PatchSource
from pipelines.features.view_bank import ImageFeatures
from pipelines.patches.dataset import PatchDataset
from pipelines.training.config import PixelLoaderConfig, TrainingConfig
from pipelines.training.data import TrainingData
from pipelines.training.datamodule import PlaceDataModule
from pipelines.training.fitting import choose_device, fit, told_memory
from pipelines.training.history import History
from pipelines.training.interruption import deferred_interruption
from pipelines.training.pixel_datamodule import PixelDataModule
from pipelines.training.pixels import open_shard_reader
from pipelines.training.ranks import Ranks, current_ranks, joined_ranks
from pipelines.training.records import describe_bank, describe_pixels, describe_run
from pipelines.training.result import TrainingResult, finish
from pipelines.training.splits import MIN_PLACES, split_pixel_places, split_places
from pipelines.training.standardisation import fit_standardisation
from pipelines.training.state import STATE_NAME, TrainingState, read_state, write_state
from pipelines.training.supervision import Run, Supervisor, TrainingStopped
from pipelines.training.threads import limited_threads
from pipelines.training.towers import build_module, build_towers, build_towers_over
from satclip_model.image_encoder import ImageBackbone
from satclip_model.satclip import SatCLIP

__all__ = ["TrainingResult", "train", "train_from_pixels"]

logger = logging.getLogger(__name__)


def train(
    dataset: PatchSource,
    image_features: ImageFeatures,
    config: TrainingConfig,
    output_dir: Path,
    backbone: nn.Module | None = None,
) -> TrainingResult:
    """Trains the two towers on image features and writes checkpoint, history and record into ``output_dir``.

    On the CPU the same arguments give the same weights, in one call or in several: a call that was stopped or killed
    leaves ``training_state.ckpt`` in the folder, and the same call goes on from there as if nothing had happened. The
    file is written every ``checkpoint_interval_steps``, and after the step at hand when SIGINT or SIGTERM arrive. It is
    a checkpoint that `read_checkpoint` reads, and is removed once the training is complete.

    Called by every process that ``torchrun`` started, it trains with the joint batch of all: ``batch_size`` places, of
    which every rank takes an equal share. The first writes the files; all return the same.

    Args:
        dataset: The patches; only its places are read.
        image_features: Their features.
        config: All settings.
        output_dir: Folder of this run.
        backbone: The image backbone that made the features, whose weights the checkpoint holds; None opens it by the
            settings in the record of the features.

    Raises:
        ArtefactError: The features do not belong to the dataset or to the backbone, or are not finite; or the folder
            holds the state of a training of another dataset, bank or configuration.
        ConfigurationError: A GPU was asked for and none is there, the loss diverged, features or a batch do not fit
            into memory, or TensorBoard was asked for and is not installed.
        DatasetError: Fewer than two training places, or too few for early stopping to watch.
        KeyboardInterrupt: A signal stopped the training, and its own handler let it go on.
    """
    ranks = current_ranks()
    device = choose_device(config, ranks)
    training, validation = split_places(dataset, image_features, config)
    _require_places_to_watch(dataset.version, len(validation), config)
    towers = build_towers(image_features, config, training, backbone)
    training, validation = training.to(device), validation.to(device)
    data = PlaceDataModule(training, validation, config.batch_size, config.seed, config.epochs, ranks=ranks)
    record = describe_run(dataset.version, describe_bank(image_features), config, data, ranks)
    return _train(towers, data, record, config, output_dir, ranks)


def train_from_pixels(
    dataset: PatchDataset,
    backbone: ImageBackbone,
    config: TrainingConfig,
    output_dir: Path,
    *,
    views: ViewsConfig | None = None,
    loader: PixelLoaderConfig | None = None,
    settings: ImageBackboneSettings | None = None,
) -> TrainingResult:
    """As `train`, from the pixels of the patches: the image backbone sees another view of each in every epoch.

    The backbone is trained where its configuration says ``trainable``, and else stays in evaluation mode as it is.
    Split, order and losses are those of a training on a bank of the same backbone without augmentation.

    The head standardises features by their mean and deviation over the training places, measured once before the first
    step. With several ranks each reads all patches for that, and then in every step its share of a batch. Batch
    normalisation of a backbone that is trained takes the statistics of a rank's share; the running statistics of the
    first rank are those of the checkpoint. Validation and retrieval are the first rank's.

    Args:
        dataset: The patches.
        backbone: The image backbone; its weights are copied.
        config: All settings.
        output_dir: Folder of this run.
        views: Augmentations of training; None, or one view, for the patches as they are.
        loader: Worker processes and order.
        settings: How the backbone was opened, kept in the record; None where it was built by hand.

    Raises:
        ArtefactError: The folder holds the state of a training of another dataset, backbone or configuration, of other
            views or another order.
        ConfigurationError: As for `train`; or the workers find too little shared memory, or were killed.
        DatasetError: Fewer than two training places, or too few for early stopping to watch.
        KeyboardInterrupt: As for `train`.
        StoreError: A damaged shard.
    """
    views, loader = views or ViewsConfig(), loader or PixelLoaderConfig()
    ranks = current_ranks()
    device = choose_device(config, ranks)
    training, validation = split_pixel_places(dataset, config)
    _require_places_to_watch(dataset.version, len(validation), config)
    towers = build_towers_over(backbone, config).to(device)
    reader = open_shard_reader(dataset)
    data = PixelDataModule(training, validation, reader, config, loader, device, views=views, ranks=ranks)
    images = describe_pixels(dataset, backbone, views, loader)
    record = describe_run(dataset.version, images, config, data, ranks, settings)
    if not (output_dir / STATE_NAME).is_file():
        with limited_threads(config.num_threads), told_memory(device.type, config, data):
            fit_standardisation(towers, data.plain_dataloader("train"))
    return _train(towers, data, record, config, output_dir, ranks)


def _train(
    towers: SatCLIP,
    data: TrainingData,
    record: dict[str, Any],
    config: TrainingConfig,
    output_dir: Path,
    ranks: Ranks,
) -> TrainingResult:
    state_path = output_dir / STATE_NAME
    resumed = read_state(state_path, towers, record) if state_path.is_file() else None
    first_step = resumed.progress.step if resumed else 0
    data.go_on_at(first_step)
    rows = resumed.progress.rows if resumed else []
    is_silent = not ranks.is_first
    history = History(output_dir, rows, config.epochs, tensorboard=config.tensorboard, is_silent=is_silent)
    device = choose_device(config, ranks)
    jitter = torch.Generator(device).manual_seed(ranks.seed(config.seed))
    module = build_module(towers, config, config.epochs * data.steps_per_epoch, jitter)
    logger.log(
        ranks.log_level,
        "training on %d places, %d kept for validation: %d epochs of %d steps with %d places on %s, %d ranks, from "
        "step %d",
        len(data.training), len(data.validation), config.epochs, data.steps_per_epoch, data.batch_size, device.type,
        ranks.world_size, first_step,
    )  # fmt: skip

    def save(model: SatCLIP, state: TrainingState) -> None:
        write_state(state_path, model, record, state)
        logger.info("checkpoint of step %d: %s", state.progress.step, state_path)

    result = None
    with deferred_interruption() as interruption, joined_ranks(ranks):
        supervisor = Supervisor(Run(config, data, history, jitter, interruption, save, resumed))
        try:
            fit(module, data, supervisor, config, state_path, ranks)
            if ranks.is_first:
                with limited_threads(config.num_threads), told_memory(device.type, config, data):
                    result = finish(output_dir, towers.to(device), data, record, supervisor, history)
            result = ranks.broadcast(result)
        except TrainingStopped:
            told = "training stopped after step %d; the same call goes on from there"
            logger.log(ranks.log_level, told, supervisor.step)
        finally:
            history.close()
    interruption.deliver()
    if result is None:
        raise KeyboardInterrupt("training was stopped by another rank")
    return result


def _require_places_to_watch(version: str, num_validation: int, config: TrainingConfig) -> None:
    if config.early_stopping_patience and num_validation < MIN_PLACES:
        raise DatasetError(
            f"dataset {version}: {num_validation} validation places, too few for early stopping; raise "
            "validation_fraction or set early_stopping_patience to 0"
        )
