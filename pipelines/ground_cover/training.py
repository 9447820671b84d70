"""Training of images and ground-cover classes on what a workspace holds."""

import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import TypeAdapter

from pipelines.atomic import write_json
from pipelines.errors import ArtefactError
from pipelines.features.backbones import open_backbone
from pipelines.features.config import ImageBackboneSettings
from pipelines.features.view_bank import (
    ImageFeatures,
    dataset_content,
    image_features_path,
    open_image_features,
    resolve_fingerprint,
)
from pipelines.ground_cover.examples import Examples, PixelImages, bank_images, labelled_examples, require_classes
from pipelines.ground_cover.fitting import FitState, build_towers, class_scores, fit
from pipelines.ground_cover.labels import GroundCoverLabels, read_labels, read_labels_record
from pipelines.ground_cover.map_labels import FOLDER, latest_labels_folder
from pipelines.ground_cover.metrics import classification_metrics
from pipelines.ground_cover.state import STATE_NAME, read_fit_state, write_fit_state
from pipelines.ground_cover.training_config import GroundCoverPixels, GroundCoverTrainingConfig
from pipelines.patches.dataset import LATEST, PatchDataset, open_patch_dataset
from pipelines.provenance import content_hash, file_sha256, git_commit, package_versions
from pipelines.training.history import HISTORY_NAME, History
from pipelines.training.interruption import deferred_interruption
from pipelines.training.records import describe_bank
from pipelines.training.splits import is_validation_block, is_validation_place
from satclip_model.config import ImageBackboneConfig
from satclip_model.errors import CheckpointError
from satclip_model.ground_cover.checkpoint import write_ground_cover
from satclip_model.ground_cover.loss import multi_positive_loss
from satclip_model.ground_cover.model import GroundCoverCLIP
from satclip_model.ground_cover.text_encoder import TextEncoder, open_text_encoder
from satclip_model.image_encoder import ImageBackbone, build_image_backbone

logger = logging.getLogger(__name__)

CHECKPOINT_NAME: Final = "ground_cover.ckpt"
RECORD_NAME: Final = "record.json"
MEASURES: Final = ("val_loss", "val_accuracy", "val_macro_f1", "val_text_macro_f1")
COLUMNS: Final = (
    "epoch", "step", "train_loss", *MEASURES, "temperature", "learning_rate", "samples_per_s", "elapsed_s", "left_s",
)  # fmt: skip


@dataclass(frozen=True)
class Inputs:
    """What a training of a workspace begins with.

    Attributes:
        dataset: The patches.
        labels: Their labels.
        labels_record: What made the labels.
        examples: The patches that have image and label.
        backbone: The image backbone.
        image_features: The entry of that name in records.
        settings: How the backbone was opened; None where a bank's record does not say.
    """

    dataset: PatchDataset
    labels: GroundCoverLabels
    labels_record: dict[str, Any]
    examples: Examples
    backbone: ImageBackbone
    image_features: dict[str, Any]
    settings: ImageBackboneSettings | None


@dataclass(frozen=True)
class GroundCoverRun:
    """A finished training.

    Attributes:
        name: Name of its folder.
        checkpoint_path: The towers.
        history_path: Losses by epoch, CSV.
        record: What made it, and its metrics.
    """

    name: str
    checkpoint_path: Path
    history_path: Path
    record: dict[str, Any]


def open_inputs(
    root: Path,
    seed: int = 0,
    dataset_version: str = LATEST,
    labels: str = LATEST,
    features: str = LATEST,
    pixels: GroundCoverPixels | None = None,
) -> Inputs:
    """Patches with labels and images of a workspace.

    Args:
        root: The workspace.
        seed: Decides which view of a patch an epoch sees.
        dataset_version: A dataset that passed its checks, or ``latest``.
        labels: Fingerprint of its labels, or ``latest``.
        features: Fingerprint of its bank, or ``latest``; not looked at with ``pixels``.
        pixels: How to read pixels instead of the bank.

    Raises:
        ArtefactError: There are no such labels or bank, or they are of another dataset.
        DatasetError: The dataset is missing, or its labels tell no two classes apart.
    """
    dataset = open_patch_dataset(root, dataset_version)
    folder = latest_labels_folder(root, dataset.version, labels)
    found, labels_record = read_labels(folder, dataset.version), read_labels_record(folder)
    if pixels is None:
        fingerprint = resolve_fingerprint(root, dataset.version, features)
        path = image_features_path(root, dataset.version, fingerprint)
        bank = open_image_features(path, dataset.version, fingerprint)
        _require_same_patches(bank, dataset)
        images, has_image = bank_images(bank, dataset, seed)
        backbone, settings = _backbone_of(bank)
        examples = labelled_examples(dataset, found, images, has_image)
        return Inputs(dataset, found, labels_record, examples, backbone, describe_bank(bank), settings)
    try:
        opened = open_backbone(pixels.backbone, trainable=pixels.trainable_backbone)
    except CheckpointError as error:
        raise ArtefactError(f"weights of the image backbone: {error}") from error
    has_patch = dataset.places["valid"].to_numpy(dtype=bool)
    examples = labelled_examples(dataset, found, PixelImages.of(dataset, pixels.views), has_patch)
    described = _describe_pixels(dataset, opened, pixels)
    return Inputs(dataset, found, labels_record, examples, opened, described, pixels.backbone)


def train_ground_cover(
    root: Path, config: GroundCoverTrainingConfig, inputs: Inputs, text_encoder: TextEncoder | None = None
) -> GroundCoverRun:
    """Trains both towers, writes checkpoint, log and record, and makes the run the latest.

    The folder is named after dataset, labels, images and settings. On the CPU the same call gives the same weights, in
    one call or in several: one that was stopped goes on from ``training_state.ckpt``. A finished run is trained again.

    Raises:
        ArtefactError: The folder holds the state of a training with other parents, or the text encoder is not there.
        ConfigurationError: A GPU was asked for and none is there, or the loss diverged.
        DatasetError: The training places hold fewer than two classes.
        KeyboardInterrupt: A signal stopped the training, and its own handler let it go on.
    """
    held_out = is_held_out(inputs.examples, config)
    training, validation = inputs.examples.select(~held_out), inputs.examples.select(held_out)
    require_classes(training, f"training places of dataset {inputs.dataset.version}")
    record = describe(inputs, config, held_out)
    name = _run_name(inputs, config)
    folder = root / FOLDER / "checkpoints" / name
    try:
        encoder = text_encoder or open_text_encoder(
            config.model_settings(training.classes, inputs.backbone.config).text_encoder, download=config.download
        )
    except CheckpointError as error:
        raise ArtefactError(f"text_encoder: {error}") from error
    model = build_towers(training, config, inputs.backbone, encoder)
    state = _fit_resumable(model, training, validation, config, record, folder)
    model.to("cpu")
    checkpoint = folder / CHECKPOINT_NAME
    metrics = {
        each: state.rows[-1][each] for each in ("train_loss", *MEASURES, "temperature") if each in state.rows[-1]
    }
    record |= {"metrics": metrics, "num_steps": state.step, "seconds": state.seconds}
    write_ground_cover(checkpoint, model, record)
    write_json(folder / RECORD_NAME, {**record, "checkpoint_sha256": file_sha256(checkpoint)})
    (folder / STATE_NAME).unlink(missing_ok=True)
    write_json(root / FOLDER / "checkpoints" / "latest.json", {"run": name})
    logger.info("ground-cover model trained in %.1f s: %s", state.seconds, checkpoint)
    return open_ground_cover_run(root, name)


def open_ground_cover_run(root: Path, name: str = LATEST) -> GroundCoverRun:
    """Finds a finished run.

    Raises:
        ArtefactError: It does not exist or is not finished.
    """
    folder = root / FOLDER / "checkpoints"
    if name == LATEST:
        pointer = folder / "latest.json"
        if not pointer.is_file():
            raise ArtefactError(f"{root}: no ground-cover model yet; materialize ground_cover_checkpoint")
        name = str(json.loads(pointer.read_text())["run"])
    paths = [folder / name / each for each in (CHECKPOINT_NAME, HISTORY_NAME, RECORD_NAME)]
    missing = [path.name for path in paths if not path.is_file()]
    if missing:
        raise ArtefactError(f"{folder / name}: {', '.join(missing)} missing; materialize ground_cover_checkpoint")
    return GroundCoverRun(name, paths[0], paths[1], json.loads(paths[2].read_text()))


def is_held_out(examples: Examples, config: GroundCoverTrainingConfig) -> NDArray[np.bool_]:
    """Which examples are kept for validation: whole blocks, or places."""
    if config.validation_blocks_deg:
        return is_validation_block(
            examples.lonlat_deg, config.validation_blocks_deg, config.seed, config.validation_fraction
        )
    return is_validation_place(examples.place_ids, config.seed, config.validation_fraction)


def describe(inputs: Inputs, config: GroundCoverTrainingConfig, held_out: NDArray[np.bool_]) -> dict[str, Any]:
    """The record of a training before its first step."""
    settings = config.model_dump(mode="json")
    classes = inputs.labels.classes
    return {
        "dataset_version": inputs.dataset.version,
        "labels": {
            "fingerprint": inputs.labels_record.get("fingerprint"),
            "labels_sha256": inputs.labels_record["labels_sha256"],
            "collection": inputs.labels_record.get("collection"),
            "classes": classes.name,
            "statuses": inputs.labels.counts(),
        },
        "image_features": inputs.image_features,
        "backbone": None if inputs.settings is None else inputs.settings.model_dump(mode="json"),
        "config": settings,
        "config_sha256": content_hash(settings),
        "split": {
            "seed": config.seed,
            "validation_fraction": config.validation_fraction,
            "validation_blocks_deg": config.validation_blocks_deg,
            "num_training_places": int((~held_out).sum()),
            "num_validation_places": int(held_out.sum()),
            "validation_places_sha256": content_hash(inputs.examples.place_ids[held_out].tolist()),
        },
        "packages": package_versions(),
        "commit": git_commit(),
    }


def _fit_resumable(
    model: GroundCoverCLIP,
    training: Examples,
    validation: Examples,
    config: GroundCoverTrainingConfig,
    record: Mapping[str, Any],
    folder: Path,
) -> FitState:
    path = folder / STATE_NAME
    state = read_fit_state(path, model, record) if path.is_file() else FitState()
    history = History(folder, state.rows, config.epochs, columns=COLUMNS)
    logger.info(
        "ground-cover training on %d patches, %d kept for validation: %d epochs from step %d",
        len(training), len(validation), config.epochs, state.step,
    )  # fmt: skip
    with deferred_interruption() as interruption:

        def after_step(reached: FitState, optimizer: torch.optim.Optimizer) -> None:
            interval = config.checkpoint_interval_steps
            if interruption.is_requested or (interval and reached.step % interval == 0):
                write_fit_state(path, model, record, reached, optimizer)
                logger.info("checkpoint of step %d: %s", reached.step, path)
            if interruption.is_requested:
                raise _Stopped

        validate: Callable[[GroundCoverCLIP], Mapping[str, float]] | None = None
        if len(validation):
            validate = partial(_validate, examples=validation)
        try:
            fit(model, training, config, state, after_step=after_step, validate=validate, add_row=history.add)
        except _Stopped:
            logger.info("training stopped after step %d; the same call goes on from there", state.step)
    interruption.deliver()
    return state


class _Stopped(Exception):  # noqa: N818
    """A training that was asked to stop, after its state was written."""


@torch.no_grad()
def _validate(model: GroundCoverCLIP, examples: Examples) -> dict[str, float]:
    """Loss and scores on validation places, by learned and by described classes."""
    truth = examples.dominant
    learned = classification_metrics(class_scores(model, examples), truth)
    described = classification_metrics(class_scores(model, examples, "text"), truth)
    rows = np.arange(min(len(examples), 512))
    embedded = model.encode_image_batch(examples.batch(rows).to(model.logit_scale.device))
    fractions = torch.from_numpy(examples.fractions[rows]).to(embedded.device)
    loss = multi_positive_loss(embedded, model.learned_classes(), fractions, model.clamped_logit_scale)
    return {
        "val_loss": float(loss),
        "val_accuracy": learned["accuracy"],
        "val_macro_f1": learned["macro_f1"],
        "val_text_macro_f1": described["macro_f1"],
    }


def _backbone_of(bank: ImageFeatures) -> tuple[ImageBackbone, ImageBackboneSettings | None]:
    record = bank.record
    settings = ImageBackboneSettings(**record["backbone"]) if record.get("backbone") else None
    encoder: ImageBackboneConfig = TypeAdapter(ImageBackboneConfig).validate_python(record["encoder"])
    backbone: Any = open_backbone(settings) if settings else build_image_backbone(encoder)
    if backbone.fingerprint != record["backbone_fingerprint"]:
        raise ArtefactError(
            f"image features are of encoder {record['backbone_fingerprint']}, but the one at hand is "
            f"{backbone.fingerprint}; materialize image_features again"
        )
    return backbone, settings


def _require_same_patches(bank: ImageFeatures, dataset: PatchDataset) -> None:
    if bank.record.get("content_sha256") != dataset_content(dataset):
        raise ArtefactError(
            f"image features of dataset {dataset.version} were made from other patches than it holds now; materialize "
            "image_features"
        )


def _describe_pixels(dataset: PatchDataset, backbone: ImageBackbone, pixels: GroundCoverPixels) -> dict[str, Any]:
    return {
        "source": "pixels",
        "content_sha256": dataset_content(dataset),
        "backbone_fingerprint": backbone.fingerprint,
        "encoder": backbone.config.model_dump(mode="json"),
        "views": pixels.views.model_dump(mode="json") if pixels.views.num_views > 1 else {"num_views": 1},
        "feature_dim": backbone.feature_dim,
    }


def _run_name(inputs: Inputs, config: GroundCoverTrainingConfig) -> str:
    parents = [config.model_dump(mode="json"), inputs.labels_record["labels_sha256"], inputs.image_features]
    return f"{inputs.dataset.version}-{content_hash(parents)[:8]}"
