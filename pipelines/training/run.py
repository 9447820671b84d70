"""One call trains."""

import logging
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import nn

from pipelines.atomic import write_json
from pipelines.errors import ConfigurationError, DatasetError
from pipelines.features.view_bank import ImageFeatures, PatchSource
from pipelines.provenance import content_hash, file_sha256, git_commit, package_versions
from pipelines.training.config import TrainingConfig
from pipelines.training.datamodule import PlaceDataModule, PlaceTensors
from pipelines.training.fitting import choose_accelerator, fit
from pipelines.training.history import History
from pipelines.training.interruption import deferred_interruption
from pipelines.training.ranks import Ranks, current_ranks, joined_ranks
from pipelines.training.retrieval import score_retrieval
from pipelines.training.splits import MIN_PLACES, describe_split, split_places
from pipelines.training.state import STATE_NAME, TrainingState, read_state, write_state
from pipelines.training.supervision import Run, Supervisor, TrainingStopped
from pipelines.training.towers import build_module, build_towers
from pipelines.training.validation import VALIDATION_STREAM
from satclip_model.checkpoint.native import write_checkpoint
from satclip_model.satclip import SatCLIP

logger = logging.getLogger(__name__)

CHECKPOINT_NAME: Final = "satclip.ckpt"
RECORD_NAME: Final = "record.json"
_CPU: Final = torch.device("cpu")
_LOGGED: Final = ("train_loss", "val_loss", "temperature")
_TOLD_METRICS: Final = ("train_loss", "val_loss", "train_recall_at_1", "val_recall_at_1")
_BANK: Final = ("content_sha256", "fingerprint", "backbone_fingerprint", "encoder", "views", "feature_dim")


@dataclass(frozen=True)
class TrainingResult:
    """What a training left behind.

    Attributes:
        checkpoint_path: The two towers and their record.
        history_path: CSV with `history.HISTORY_COLUMNS`; what validation measures is empty without validation places.
        record_path: The record as JSON.
        metrics: Losses and temperature of the epoch whose weights these are, and retrieval scores prefixed ``train_``
            and ``val_``.
        num_training_places: Places trained on.
        num_validation_places: Places kept apart.
        epoch: The epoch whose weights these are, counted from 1: the last, or the best where early stopping is on.
        seconds: Wall-clock seconds of the training, over all calls.
    """

    checkpoint_path: Path
    history_path: Path
    record_path: Path
    metrics: dict[str, float]
    num_training_places: int
    num_validation_places: int
    epoch: int
    seconds: float


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
    device = torch.device("cuda", ranks.local_rank) if choose_accelerator(config.accelerator) == "gpu" else _CPU
    training, validation = split_places(dataset, image_features, config)
    if config.early_stopping_patience and len(validation) < MIN_PLACES:
        raise DatasetError(
            f"dataset {dataset.version}: {len(validation)} validation places, too few for early stopping; raise "
            "validation_fraction or set early_stopping_patience to 0"
        )
    towers = build_towers(image_features, config, training, backbone)
    record = _describe(dataset, image_features, config, (training, validation), ranks)
    state_path = output_dir / STATE_NAME
    resumed = read_state(state_path, towers, record) if state_path.is_file() else None
    first_step = resumed.progress.step if resumed else 0
    data = PlaceDataModule(
        _on_device(training, device),
        _on_device(validation, device),
        batch_size=config.batch_size,
        seed=config.seed,
        num_epochs=config.epochs,
        first_step=first_step,
        ranks=ranks,
    )
    rows = resumed.progress.rows if resumed else []
    is_silent = not ranks.is_first
    history = History(output_dir, rows, config.epochs, tensorboard=config.tensorboard, is_silent=is_silent)
    jitter = torch.Generator(device).manual_seed(ranks.seed(config.seed))
    module = build_module(towers, config, config.epochs * data.steps_per_epoch, jitter)
    logger.log(
        ranks.log_level,
        "training on %d places, %d kept for validation: %d epochs of %d steps with %d places on %s, %d ranks, from "
        "step %d",
        len(training), len(validation), config.epochs, data.steps_per_epoch, data.batch_size, device.type,
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
                result = _finish(output_dir, towers, record, supervisor, history, (training, validation))
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


def _describe(
    dataset: PatchSource,
    image_features: ImageFeatures,
    config: TrainingConfig,
    places: tuple[PlaceTensors, PlaceTensors],
    ranks: Ranks,
) -> dict[str, Any]:
    settings = config.model_dump(mode="json")
    return {
        "dataset_version": dataset.version,
        "image_features": {name: image_features.record[name] for name in _BANK},
        "config": settings,
        "config_sha256": content_hash(settings),
        "split": describe_split(config, *places),
        "num_ranks": ranks.world_size,
        "packages": package_versions(),
        "commit": git_commit(),
    }


def _on_device(places: PlaceTensors, device: torch.device) -> PlaceTensors:
    try:
        return places.to(device)
    except torch.OutOfMemoryError as error:
        gigabytes = places.features.nbytes / 1e9
        raise ConfigurationError(
            f"the features of {len(places)} places with {places.num_views} views take {gigabytes:.1f} GB, more than "
            "the memory of the GPU has left; make a bank with fewer views or set accelerator to cpu"
        ) from error


def _finish(
    output_dir: Path,
    towers: SatCLIP,
    record: dict[str, Any],
    supervisor: Supervisor,
    history: History,
    places: tuple[PlaceTensors, PlaceTensors],
) -> TrainingResult:
    """Chooses the weights, scores them, writes checkpoint and record, and removes the state."""
    if supervisor.best_weights:
        towers.load_state_dict({**towers.state_dict(), **supervisor.best_weights})
    epoch = supervisor.best.epoch if supervisor.best_weights else supervisor.epoch
    towers.to("cpu").eval()
    (row,) = (each for each in history.rows if each["epoch"] == epoch)
    logged = {str(name): row[name] for name in _LOGGED if name in row}
    metrics = logged | _retrieval_metrics(towers, places, record["config"]["seed"])
    progress = {"epoch": epoch, "num_epochs": supervisor.epoch, "num_steps": supervisor.step}
    record = {**record, **progress, "metrics": metrics}
    checkpoint_path, record_path = output_dir / CHECKPOINT_NAME, output_dir / RECORD_NAME
    write_checkpoint(checkpoint_path, towers, record)
    write_json(record_path, {**record, "checkpoint_sha256": file_sha256(checkpoint_path)})
    (output_dir / STATE_NAME).unlink(missing_ok=True)
    told = [f"{name} {metrics[name]:.3f}" for name in _TOLD_METRICS if name in metrics]
    logger.info("trained in %.1f s: epoch %d, %s; %s", supervisor.elapsed_s, epoch, ", ".join(told), checkpoint_path)
    return TrainingResult(
        checkpoint_path=checkpoint_path,
        history_path=history.path,
        record_path=record_path,
        metrics=metrics,
        num_training_places=len(places[0]),
        num_validation_places=len(places[1]),
        epoch=epoch,
        seconds=supervisor.elapsed_s,
    )


def _retrieval_metrics(towers: SatCLIP, places: tuple[PlaceTensors, PlaceTensors], seed: int) -> dict[str, float]:
    metrics: dict[str, float] = {}
    for stream, name, part in ((0, "train", places[0]), (VALIDATION_STREAM, "val", places[1])):
        if len(part) < MIN_PLACES:
            continue
        with torch.no_grad():
            images = towers.encode_image_features(part.plain).numpy()
            locations = towers.encode_location(part.lonlat_deg).numpy()
        scores = score_retrieval(images, locations, part.lonlat_deg.numpy(), np.random.default_rng([seed, stream]))
        metrics |= {f"{name}_{key}": float(value) for key, value in asdict(scores).items()}
    return metrics
