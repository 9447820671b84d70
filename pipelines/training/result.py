"""What a training leaves behind: the chosen weights, their scores, and the record."""

import logging
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from pipelines.atomic import write_json
from pipelines.provenance import file_sha256
from pipelines.training.data import Part, TrainingData
from pipelines.training.history import History
from pipelines.training.retrieval import score_retrieval
from pipelines.training.splits import MIN_PLACES
from pipelines.training.state import STATE_NAME
from pipelines.training.supervision import Supervisor
from pipelines.training.validation import VALIDATION_STREAM, embed_places
from satclip_model.checkpoint.native import write_checkpoint
from satclip_model.satclip import SatCLIP

logger = logging.getLogger(__name__)

CHECKPOINT_NAME: Final = "satclip.ckpt"
RECORD_NAME: Final = "record.json"
_LOGGED: Final = ("train_loss", "val_loss", "temperature")
_TOLD_METRICS: Final = ("train_loss", "val_loss", "train_recall_at_1", "val_recall_at_1")
_STREAMS: Final[dict[Part, int]] = {"train": 0, "val": VALIDATION_STREAM}


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


def finish(
    output_dir: Path,
    towers: SatCLIP,
    data: TrainingData,
    record: dict[str, Any],
    supervisor: Supervisor,
    history: History,
) -> TrainingResult:
    """Chooses the weights, scores them, writes checkpoint and record, and removes the state.

    Args:
        output_dir: Folder of the run.
        towers: Trained, on the device of the data; left in evaluation mode.
        data: The places.
        record: What is known of the training before its first step.
        supervisor: The end of the training.
        history: Its log.
    """
    if supervisor.best_weights:
        towers.load_state_dict({**towers.state_dict(), **supervisor.best_weights})
    epoch = supervisor.best.epoch if supervisor.best_weights else supervisor.epoch
    towers.eval()
    (row,) = (each for each in history.rows if each["epoch"] == epoch)
    logged = {str(name): row[name] for name in _LOGGED if name in row}
    progress = {"epoch": epoch, "num_epochs": supervisor.epoch, "num_steps": supervisor.step}
    record = {**record, **progress, "metrics": logged}
    checkpoint_path, record_path = output_dir / CHECKPOINT_NAME, output_dir / RECORD_NAME
    write_checkpoint(checkpoint_path, towers, record)  # whatever happens while pixels are read once more
    metrics = logged | _retrieval_metrics(towers, data, record["config"]["seed"])
    record["metrics"] = metrics
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
        num_training_places=len(data.training),
        num_validation_places=len(data.validation),
        epoch=epoch,
        seconds=supervisor.elapsed_s,
    )


def _retrieval_metrics(towers: SatCLIP, data: TrainingData, seed: int) -> dict[str, float]:
    metrics: dict[str, float] = {}
    for part, stream in _STREAMS.items():
        if len(data.training if part == "train" else data.validation) < MIN_PLACES:
            continue
        embedded = embed_places(towers, data.plain_dataloader(part))
        scores = score_retrieval(*embedded.arrays(), np.random.default_rng([seed, stream]))
        metrics |= {f"{part}_{key}": float(value) for key, value in asdict(scores).items()}
    return metrics
