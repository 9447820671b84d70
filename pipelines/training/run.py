"""One call trains."""

import csv
import logging
import time
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import lightning
import numpy as np
import torch
from pydantic import TypeAdapter
from torch import Tensor

from pipelines.atomic import replacing, write_json
from pipelines.errors import ArtefactError, ConfigurationError, DatasetError
from pipelines.features.view_bank import ImageFeatures, PatchSource, dataset_content
from pipelines.provenance import content_hash, file_sha256, git_commit, package_versions
from pipelines.training.config import TrainingConfig
from pipelines.training.coordinate_jitter import jitter_lonlat
from pipelines.training.datamodule import PlaceDataModule, PlaceTensors, is_validation_place
from pipelines.training.retrieval import score_retrieval
from satclip_model.checkpoint.native import write_checkpoint
from satclip_model.config import ImageBackboneConfig
from satclip_model.errors import DivergenceError
from satclip_model.image_encoder import ImageProjection
from satclip_model.lightning_module import OptimizationSettings, SatCLIPLightningModule
from satclip_model.satclip import SatCLIP, build_satclip

logger = logging.getLogger(__name__)

CHECKPOINT_NAME: Final = "satclip.ckpt"
HISTORY_NAME: Final = "training_log.csv"
RECORD_NAME: Final = "record.json"
HISTORY_COLUMNS: Final = ("epoch", "step", "train_loss", "val_loss", "temperature", "learning_rate", "samples_per_s")
_MIN_PLACES: Final = 2
_LOGGED: Final = ("train_loss", "val_loss", "temperature")
_TOLD_METRICS: Final = ("train_loss", "val_loss", "train_recall_at_1", "val_recall_at_1")


@dataclass(frozen=True)
class TrainingResult:
    """What a training left behind.

    Attributes:
        checkpoint_path: The two towers and their record.
        history_path: CSV with ``HISTORY_COLUMNS``; val_loss is empty without validation places.
        record_path: The record as JSON.
        metrics: Final losses, temperature, and retrieval scores prefixed ``train_`` and ``val_``.
        num_training_places: Places trained on.
        num_validation_places: Places kept apart.
        seconds: Wall-clock seconds of the training.
    """

    checkpoint_path: Path
    history_path: Path
    record_path: Path
    metrics: dict[str, float]
    num_training_places: int
    num_validation_places: int
    seconds: float


def train(
    dataset: PatchSource, image_features: ImageFeatures, config: TrainingConfig, output_dir: Path
) -> TrainingResult:
    """Trains the two towers on image features and writes checkpoint, history and record into ``output_dir``.

    On the CPU the same arguments give the same weights.

    Args:
        dataset: The patches; only its places are read.
        image_features: Their features.
        config: All settings.
        output_dir: Folder of this run.

    Raises:
        ArtefactError: The features do not belong to the dataset, or are not finite.
        ConfigurationError: A GPU was asked for and none is there, or the loss diverged.
        DatasetError: Fewer than two training places.
    """
    backbone_config: ImageBackboneConfig = TypeAdapter(ImageBackboneConfig).validate_python(
        image_features.record["encoder"]
    )
    accelerator = choose_accelerator(config.accelerator)
    training, validation = split_places(dataset, image_features, config)
    device = torch.device("cuda" if accelerator == "gpu" else "cpu")
    model = build_satclip(config.model_settings(backbone_config), config.seed)
    if model.image_backbone.fingerprint != image_features.record["backbone_fingerprint"]:
        raise ArtefactError(
            f"image features are of encoder {image_features.record['backbone_fingerprint']}, but its settings give "
            f"{model.image_backbone.fingerprint}; materialize image_features again"
        )
    if isinstance(model.image_projection, ImageProjection):
        model.image_projection.fit_standardisation(training.features)
    model.image_backbone.requires_grad_(False)
    data = PlaceDataModule(training.to(device), validation.to(device), config.batch_size, config.seed)
    steps_per_epoch = len(data.train_dataloader())
    total_steps = steps_per_epoch * config.epochs
    settings = OptimizationSettings(
        learning_rate=config.learning_rate,
        weight_decay=config.weight_decay,
        warmup_steps=round(config.warmup_fraction * total_steps),
        total_steps=total_steps,
    )
    generator = torch.Generator(device).manual_seed(config.seed)

    def jitter(lonlat_deg: Tensor) -> Tensor:
        return jitter_lonlat(lonlat_deg, config.coordinate_jitter_m, generator)

    module = SatCLIPLightningModule(model, settings, jitter if config.coordinate_jitter_m > 0 else None)
    history = _History(config, steps_per_epoch * data.batch_size)
    trainer = lightning.Trainer(
        accelerator=accelerator,
        devices=1,
        precision=config.precision,
        max_epochs=config.epochs,
        check_val_every_n_epoch=min(config.validation_interval_epochs, config.epochs),
        gradient_clip_val=config.gradient_clip_norm or None,
        callbacks=[history],
        default_root_dir=str(output_dir),
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        limit_val_batches=None if len(validation) >= _MIN_PLACES else 0,
    )
    logger.info(
        "training on %d places, %d kept for validation: %d epochs of %d steps with %d places on %s",
        len(training), len(validation), config.epochs, steps_per_epoch, data.batch_size, accelerator,
    )  # fmt: skip
    started = time.monotonic()
    with _threads(config.num_threads), torch.random.fork_rng(devices=[0] if accelerator == "gpu" else []):
        torch.manual_seed(config.seed)
        try:
            _fit(trainer, module, data)
        except DivergenceError as error:
            raise ConfigurationError(
                f"training diverged: {error}; no checkpoint was written. Lower learning_rate "
                f"(now {config.learning_rate:g}) or raise warmup_fraction (now {config.warmup_fraction:g})"
            ) from error
    seconds = time.monotonic() - started
    model.to("cpu").eval()
    metrics = history.last_metrics() | _retrieval_metrics(model, training, validation, config.seed)

    output_dir.mkdir(parents=True, exist_ok=True)
    history_path = output_dir / HISTORY_NAME
    history.write(history_path)
    record = {
        "dataset_version": dataset.version,
        "image_features": {
            name: image_features.record[name]
            for name in ("content_sha256", "fingerprint", "backbone_fingerprint", "encoder", "views", "feature_dim")
        },
        "config": config.model_dump(mode="json"),
        "config_sha256": content_hash(config.model_dump(mode="json")),
        "split": {
            "rule": "blake2b(seed:place_id) / 2**64 < validation_fraction",
            "seed": config.seed,
            "validation_fraction": config.validation_fraction,
            "num_training_places": len(training),
            "num_validation_places": len(validation),
            "validation_places_sha256": content_hash([int(each) for each in validation.place_ids]),
        },
        "metrics": metrics,
        "packages": package_versions(),
        "commit": git_commit(),
    }
    checkpoint_path = output_dir / CHECKPOINT_NAME
    write_checkpoint(checkpoint_path, model, record)
    record_path = output_dir / RECORD_NAME
    write_json(record_path, {**record, "checkpoint_sha256": file_sha256(checkpoint_path)})
    told = [f"{name} {metrics[name]:.3f}" for name in _TOLD_METRICS if name in metrics]
    logger.info("trained in %.1f s: %s; %s", seconds, ", ".join(told), checkpoint_path)
    return TrainingResult(
        checkpoint_path=checkpoint_path,
        history_path=history_path,
        record_path=record_path,
        metrics=metrics,
        num_training_places=len(training),
        num_validation_places=len(validation),
        seconds=seconds,
    )


def split_places(
    dataset: PatchSource, image_features: ImageFeatures, config: TrainingConfig
) -> tuple[PlaceTensors, PlaceTensors]:
    """Training and validation places of a dataset: its valid places, divided by place id and seed.

    Raises:
        ArtefactError: The features do not belong to the dataset, or are not finite.
        DatasetError: Fewer than two training places.
    """
    version = image_features.record.get("dataset_version")
    if version != dataset.version or len(image_features.features) != len(dataset.places):
        raise ArtefactError(
            f"image features are of dataset {version!r} with {len(image_features.features)} places; expected "
            f"{dataset.version!r} with {len(dataset.places)}; materialize image_features"
        )
    if image_features.record.get("content_sha256") != dataset_content(dataset):
        raise ArtefactError(
            f"image features of dataset {dataset.version} were made from other patches than it holds now; materialize "
            "image_features"
        )
    valid = image_features.valid
    places = dataset.places[valid]
    features = image_features.plain[valid]
    if not np.isfinite(features).all():
        raise ArtefactError(
            f"image features of dataset {dataset.version} are not finite at valid places; materialize "
            "image_features again"
        )
    place_ids = places["place_id"].to_numpy(dtype=np.int64)
    everything = PlaceTensors(
        features=torch.tensor(features, dtype=torch.float32),
        lonlat_deg=torch.tensor(places[["lon_deg", "lat_deg"]].to_numpy(dtype=np.float64)),
        place_ids=place_ids,
    )
    held_out = is_validation_place(place_ids, config.seed, config.validation_fraction)
    training, validation = everything.rows(~held_out), everything.rows(held_out)
    if len(training) < _MIN_PLACES:
        raise DatasetError(
            f"dataset {dataset.version}: {int(valid.sum())} valid places, of which {len(training)} for training; "
            f"contrastive training needs at least {_MIN_PLACES}. Sample more places or lower validation_fraction"
        )
    return training, validation


def choose_accelerator(wanted: str) -> str:
    """``gpu`` or ``cpu``, by what is wanted (``auto``, ``gpu``, ``cpu``) and what is there.

    Raises:
        ConfigurationError: A GPU is wanted and PyTorch finds none.
    """
    if wanted == "cpu" or (wanted == "auto" and not torch.cuda.is_available()):
        return "cpu"
    if not torch.cuda.is_available():
        built_for = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "built without CUDA"
        raise ConfigurationError(
            f"accelerator is 'gpu', but PyTorch {torch.__version__} ({built_for}) finds no CUDA device; set "
            "accelerator to 'auto' or 'cpu', or run where a GPU and its driver are visible"
        )
    return "gpu"


def _retrieval_metrics(model: SatCLIP, training: PlaceTensors, validation: PlaceTensors, seed: int) -> dict[str, float]:
    metrics: dict[str, float] = {}
    for index, (name, places) in enumerate((("train", training), ("val", validation))):
        if len(places) < _MIN_PLACES:
            continue
        with torch.no_grad():
            images = model.encode_image_features(places.features).numpy()
            locations = model.encode_location(places.lonlat_deg).numpy()
        rng = np.random.default_rng([seed, index])
        scores = score_retrieval(images, locations, places.lonlat_deg.numpy(), rng)
        metrics |= {f"{name}_{key}": float(value) for key, value in asdict(scores).items()}
    return metrics


def _is_no_advertisement(record: logging.LogRecord) -> bool:
    return "litlogger" not in record.getMessage().lower()


def _fit(trainer: lightning.Trainer, module: SatCLIPLightningModule, data: PlaceDataModule) -> None:
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(_is_no_advertisement)
    with warnings.catch_warnings():
        # Lightning 2.6 asks PyTorch's pytree in a way that PyTorch 2.9 deprecates.
        warnings.filterwarnings("ignore", message=r".*LeafSpec.*is deprecated", category=FutureWarning)
        trainer.fit(module, datamodule=data)


def _threads(num_threads: int) -> AbstractContextManager[None]:
    return _limited_threads(num_threads) if num_threads else nullcontext()


@contextmanager
def _limited_threads(num_threads: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(num_threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class _History(lightning.Callback):
    """Collects one row per validation interval and tells it through logging."""

    def __init__(self, config: TrainingConfig, samples_per_epoch: int) -> None:
        self._config, self._samples_per_epoch = config, samples_per_epoch
        self._rows: list[dict[str, float]] = []
        self._started = 0.0
        self._last = (0.0, 0)

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        del trainer, pl_module
        self._started = time.monotonic()
        self._last = (self._started, 0)

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        del pl_module
        epoch = trainer.current_epoch + 1
        if epoch % self._config.validation_interval_epochs and epoch != self._config.epochs and epoch != 1:
            return
        now = time.monotonic()
        last_time, last_epoch = self._last
        rate = (epoch - last_epoch) * self._samples_per_epoch / max(now - last_time, 1e-9)
        self._last = (now, epoch)
        measured = {name: float(value) for name, value in trainer.callback_metrics.items()}
        row: dict[str, float] = {
            "epoch": epoch,
            "step": trainer.global_step,
            "learning_rate": trainer.optimizers[0].param_groups[0]["lr"],
            "samples_per_s": rate,
            **{name: measured[name] for name in _LOGGED if name in measured},
        }
        self._rows.append(row)
        left_s = (now - self._started) / epoch * (self._config.epochs - epoch)
        losses = ", ".join(f"{name} {row[name]:.3f}" for name in ("train_loss", "val_loss") if name in row)
        logger.info(
            "epoch %d of %d: %s, %.0f samples per second, %.0f s left", epoch, self._config.epochs, losses, rate, left_s
        )

    def last_metrics(self) -> dict[str, float]:
        """Losses and temperature of the last row."""
        last = self._rows[-1]
        return {name: last[name] for name in _LOGGED if name in last}

    def write(self, path: Path) -> None:
        """Writes all rows as CSV."""
        with replacing(path) as partial, partial.open("w", newline="") as handle:
            writer = csv.DictWriter(handle, HISTORY_COLUMNS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(self._rows)
