"""Weights of a task: where they are, which model they are of, and from which score it publishes."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import torch
from pydantic import ValidationError

from pipelines.errors import ArtefactError
from pipelines.satlas.predictions import TASK_KINDS, THRESHOLDS_NAME
from satclip_model.errors import CheckpointError
from satclip_model.satlas import EXPLORER_CONFIGS, SatlasModel, build_satlas, load_satlas_weights
from satclip_model.satlas.config import SatlasConfig

WEIGHTS_NAME: Final = "weights.pth"
CONFIG_NAME: Final = "config.json"
TRAINING_RECORD_NAME: Final = "record.json"
_HEAD_KINDS: Final[Mapping[str, tuple[str, ...]]] = {
    "polygons": ("binary_segmentation", "segmentation"),
    "points": ("detection",),
    "values": ("regression",),
}
ARCHIVE_WEIGHTS_NAME: Final = "best.pth"
"""Below ``models/TASK/`` of the published archive. Source: allenai/satlas, README.md and configs (SavePath)."""


def find_satlas_weights(task: str, path: Path) -> tuple[Path, SatlasConfig]:
    """The weights that a path stands for, and the configuration that belongs to them.

    Args:
        task: A name of `TASK_KINDS`.
        path: A file of published weights; a folder that a training left, with ``weights.pth`` and ``config.json``; or
            the unpacked published archive, with ``base_models``, ``labels``, ``models`` and ``splits``.

    Raises:
        ArtefactError: There is no such task, the folder is neither, or its configuration is of another task.
    """
    if task not in EXPLORER_CONFIGS:
        raise ArtefactError(f"task {task!r}: expected one of {', '.join(EXPLORER_CONFIGS)}")
    if not path.is_dir():
        return path, EXPLORER_CONFIGS[task]
    if (path / WEIGHTS_NAME).is_file():
        return path / WEIGHTS_NAME, _own_config(task, path / CONFIG_NAME)
    if (path / "models").is_dir():
        return _archived(task, path / "models"), EXPLORER_CONFIGS[task]
    raise ArtefactError(
        f"{path}: neither {WEIGHTS_NAME} and {CONFIG_NAME} of a training nor models/ of the published archive is in it"
    )


def _own_config(task: str, path: Path) -> SatlasConfig:
    try:
        config = SatlasConfig.model_validate(json.loads(path.read_text()))
    except (OSError, json.JSONDecodeError, ValidationError) as error:
        raise ArtefactError(f"{path}: no configuration of a Satlas model ({error}); train it again") from error
    kinds = _HEAD_KINDS[TASK_KINDS[task]]
    found = [head.kind for head in config.heads]
    if len(found) != 1 or found[0] not in kinds:
        raise ArtefactError(
            f"{path}: heads are {', '.join(found)}, but {task} needs one of {' or '.join(kinds)}; name the task "
            "that the model was trained for"
        )
    return config


def read_score_thresholds(path: Path) -> dict[str, float]:
    """Scores from which a training would publish points, by category; none of weights that were not trained here.

    Args:
        path: As `find_satlas_weights` takes it.

    Raises:
        ArtefactError: The training's record cannot be read.
    """
    record = path / TRAINING_RECORD_NAME
    if not path.is_dir() or not (path / WEIGHTS_NAME).is_file() or not record.is_file():
        return {}
    try:
        found = json.loads(record.read_text()).get(THRESHOLDS_NAME, {})
        return {str(name): float(value) for name, value in found.items()}
    except (json.JSONDecodeError, AttributeError, TypeError, ValueError) as error:
        raise ArtefactError(f"{record}: no record of a Satlas training ({error}); train it again") from error


def _archived(task: str, models: Path) -> Path:
    """``models/TASK/best.pth``, as the archive has it, or the only other file there."""
    best = models / task / ARCHIVE_WEIGHTS_NAME
    if best.is_file():
        return best
    there = sorted(models.rglob("*.pth"))
    own = [path for path in there if path.parent.name == task]
    if len(own) == 1:
        return own[0]
    if own:
        raise ArtefactError(f"{models}: {len(own)} files for {task}: {_listed(models, own)}; name one of them")
    raise ArtefactError(f"{models}: no weights of {task}; there are {_listed(models, there) or 'no .pth files'}")


def _listed(folder: Path, paths: Sequence[Path]) -> str:
    return ", ".join(path.relative_to(folder).as_posix() for path in paths[:20])


def open_satlas_model(task: str, weights: Path, device: torch.device) -> SatlasModel:
    """The model of a task over weights, ready for inference.

    Args:
        task: A name of `TASK_KINDS`.
        weights: See `find_satlas_weights`.
        device: Where it runs.

    Raises:
        ArtefactError: There is no such task, or the weights cannot be read or are of another task.
    """
    path, config = find_satlas_weights(task, weights)
    model = build_satlas(config)
    try:
        load_satlas_weights(model, path)
    except CheckpointError as error:
        raise ArtefactError(str(error)) from error
    return model.to(device).for_inference()
