"""Where a training of images and ground-cover classes stands, on disk."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import torch

from pipelines.errors import ArtefactError, ConfigurationError
from pipelines.ground_cover.fitting import FitState
from pipelines.training.state import named_differences
from satclip_model.checkpoint.archive import read_archive, write_whole
from satclip_model.errors import CheckpointError
from satclip_model.ground_cover.checkpoint import ground_cover_content, ground_cover_from_content
from satclip_model.ground_cover.model import GroundCoverCLIP

STATE_NAME: Final = "training_state.ckpt"
PARENTS: Final = ("dataset_version", "labels", "image_features", "config", "split")
"""Entries of a run's record that must be the same for a training to go on."""

_ENTRY: Final = "training"


def write_fit_state(
    path: Path, model: GroundCoverCLIP, record: Mapping[str, Any], state: FitState, optimizer: torch.optim.Optimizer
) -> None:
    """Writes a training and its model, as a checkpoint that `read_ground_cover` reads; the file appears whole or not.

    Raises:
        ConfigurationError: A weight is not finite; the file before stays.
    """
    try:
        content = ground_cover_content(path, model, {**record, "step": state.step})
    except CheckpointError as error:
        raise ConfigurationError(f"training diverged in step {state.step}: {error}; lower learning_rate") from error
    progress = {name: value for name, value in asdict(state).items() if name != "optimizer"}
    entry = {"progress": json.dumps(progress), "optimizer": optimizer.state_dict()}
    write_whole(path, lambda handle: torch.save({**content, _ENTRY: entry}, handle))


def read_fit_state(path: Path, model: GroundCoverCLIP, record: Mapping[str, Any]) -> FitState:
    """Reads what `write_fit_state` wrote, its weights into ``model``.

    Raises:
        ArtefactError: The state is of other parents or settings, or cannot be read.
    """
    try:
        content = read_archive(path)
        found, written = ground_cover_from_content(path, content)
        state = FitState(**json.loads(content[_ENTRY]["progress"]), optimizer=content[_ENTRY]["optimizer"])
    except (CheckpointError, KeyError, TypeError, ValueError) as error:
        raise ArtefactError(
            f"{path}: not the state of a training ({error}); remove the file to train from the beginning"
        ) from error
    expected = json.loads(json.dumps({name: record[name] for name in PARENTS}))
    differences = sorted(named_differences({name: written.get(name) for name in PARENTS}, expected))
    if differences:
        raise ArtefactError(
            f"{path}: the state of a training with other parents: {'; '.join(differences)}. Give it what it began "
            f"with, or remove the file to train from the beginning; it is a usable checkpoint of step {state.step}"
        )
    model.load_state_dict(found.state_dict())
    return state
