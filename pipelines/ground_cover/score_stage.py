"""Scores of a ground-cover model of a workspace, and their files."""

import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipelines.atomic import replacing, write_json
from pipelines.errors import ArtefactError
from pipelines.features.config import ImageBackboneSettings, ViewsConfig
from pipelines.ground_cover.band_statistics import band_statistics
from pipelines.ground_cover.examples import BankImages, Examples
from pipelines.ground_cover.fitting import image_embeddings
from pipelines.ground_cover.map_labels import FOLDER
from pipelines.ground_cover.scores import (
    BACKBONE,
    BANDS,
    COORDINATES,
    SATCLIP,
    GroundCoverScores,
    coordinate_features,
    score_ground_cover,
)
from pipelines.ground_cover.scores_config import GroundCoverScoresConfig
from pipelines.ground_cover.training import GroundCoverRun, Inputs, open_inputs
from pipelines.ground_cover.training_config import GroundCoverPixels, GroundCoverTrainingConfig
from pipelines.provenance import content_hash, git_commit, package_versions
from pipelines.training.checkpoints import open_run
from satclip_model.checkpoint.native import read_checkpoint
from satclip_model.ground_cover.checkpoint import read_ground_cover

logger = logging.getLogger(__name__)

TABLES: Final = ("scores", "classes", "unseen_classes", "confusion")
RECORD_NAME: Final = "record.json"


@dataclass(frozen=True)
class ScoredRun:
    """Scores in a workspace.

    Attributes:
        folder: Holds ``scores``, ``classes``, ``unseen_classes`` and ``confusion`` as CSV and ``record.json``.
        scores: What was measured.
        record: What made them.
        inputs: The patches; None where the scores were taken from before.
        is_reused: Whether they were taken from before.
    """

    folder: Path
    scores: GroundCoverScores
    record: dict[str, Any]
    inputs: Inputs
    is_reused: bool


def scores_folder(root: Path, run: str) -> Path:
    """Where the scores of a run live."""
    return root / FOLDER / "scores" / run


def score_run(root: Path, run: GroundCoverRun, config: GroundCoverScoresConfig) -> ScoredRun:
    """Scores the settings of a run by cross-validation on its dataset, labels and images, and writes the tables.

    Scores of the same run under the same settings are taken from before.

    Raises:
        ArtefactError: The parents of the run are gone or others.
        TableError: Fewer blocks than folds.
    """
    folder, inputs = scores_folder(root, run.name), _inputs_of(root, run)
    parents = {"checkpoint_sha256": run.record["checkpoint_sha256"], "config": config.model_dump(mode="json")}
    fingerprint = content_hash(parents)
    known = _read_record(folder)
    if known is not None and known["fingerprint"] == fingerprint:
        return ScoredRun(folder, read_scores(folder), known, inputs, is_reused=True)
    model, _ = read_ground_cover(run.checkpoint_path)
    baselines, notes = _baselines(root, inputs)
    training = GroundCoverTrainingConfig.model_validate(run.record["config"])
    scores = score_ground_cover(
        inputs.examples, training, inputs.backbone, config, baselines, model.text_encoder, notes
    )
    record = {
        "fingerprint": fingerprint,
        "run": run.name,
        "dataset_version": run.record["dataset_version"],
        "labels": run.record["labels"],
        **parents,
        "notes": scores.notes,
        "retrieved_places": {name: inputs.examples.place_ids[rows].tolist() for name, rows in scores.retrieved.items()},
        "retrieved": scores.retrieved,
        "packages": package_versions(),
        "commit": git_commit(),
    }
    _write(folder, scores, inputs.examples, record)
    return ScoredRun(folder, scores, record, inputs, is_reused=False)


def read_scores(folder: Path) -> GroundCoverScores:
    """The scores in a folder.

    Raises:
        ArtefactError: There are none, or they cannot be read.
    """
    record = _read_record(folder)
    if record is None:
        raise ArtefactError(f"{folder}: no ground-cover scores there; materialize ground_cover_scores")
    try:
        tables = {name: pd.read_csv(folder / f"{name}.csv") for name in TABLES}
    except (OSError, ValueError) as error:
        raise ArtefactError(f"{folder}: {error}; materialize ground_cover_scores again") from error
    confusion = tables["confusion"].iloc[:, 1:].to_numpy(dtype=np.int64)
    return GroundCoverScores(
        tables["scores"], confusion, tables["classes"], tables["unseen_classes"], record["retrieved"], record["notes"]
    )


def _read_record(folder: Path) -> dict[str, Any] | None:
    path = folder / RECORD_NAME
    return json.loads(path.read_text()) if path.is_file() else None


def _write(folder: Path, scores: GroundCoverScores, examples: Examples, record: dict[str, Any]) -> None:
    names = [each.name for each in examples.classes]
    confusion = pd.DataFrame(scores.confusion, columns=names)
    confusion.insert(0, "true_class", names)
    for name, table in zip(TABLES, (scores.table, scores.classes, scores.unseen, confusion), strict=True):
        with replacing(folder / f"{name}.csv") as partial:
            table.to_csv(partial, index=False)
    write_json(folder / RECORD_NAME, record)


def _inputs_of(root: Path, run: GroundCoverRun) -> Inputs:
    """The parents that a run names."""
    record, images = run.record, run.record["image_features"]
    pixels = None
    if images["source"] == "pixels":
        pixels = GroundCoverPixels(
            backbone=ImageBackboneSettings.model_validate(record["backbone"]),
            trainable_backbone=bool(images["encoder"].get("trainable", False)),
            views=ViewsConfig.model_validate(images["views"]),
        )
    seed, version = record["config"]["seed"], record["dataset_version"]
    labels, features = record["labels"]["fingerprint"], images.get("fingerprint", "")
    inputs = open_inputs(root, seed, version, labels, features, pixels)
    found = inputs.labels_record["labels_sha256"]
    if found != record["labels"]["labels_sha256"]:
        raise ArtefactError(
            f"ground-cover run {run.name} was trained on labels {record['labels']['labels_sha256'][:12]}, found "
            f"{found[:12]}; materialize ground_cover_checkpoint again"
        )
    return inputs


def _baselines(root: Path, inputs: Inputs) -> tuple[dict[str, NDArray[Any]], dict[str, str]]:
    """Features of the examples by method, and why a method has none."""
    examples, notes = inputs.examples, {}
    features: dict[str, NDArray[Any]] = {
        COORDINATES: coordinate_features(examples),
        BANDS: band_statistics(inputs.dataset)[examples.positions],
    }
    if not isinstance(examples.images, BankImages):
        return features, {BACKBONE: "trained from pixels: there is no bank", SATCLIP: "trained from pixels"}
    features[BACKBONE] = examples.batch(np.arange(len(examples))).numpy()
    try:
        run = open_run(root)
        towers, record = read_checkpoint(run.checkpoint_path)
        found = record["image_features"]["backbone_fingerprint"]
        if found != inputs.image_features["backbone_fingerprint"]:
            raise ArtefactError(f"the latest SatCLIP run {run.name} has another image backbone ({found})")
        features[SATCLIP] = image_embeddings(towers, examples)
    except ArtefactError as error:
        notes[SATCLIP] = str(error)
    return features, notes
