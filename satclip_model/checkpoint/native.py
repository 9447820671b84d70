"""Trained models on disk: plain tensors and a record, never arbitrary objects."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from satclip_model.checkpoint.archive import read_archive, write_whole
from satclip_model.checkpoint.weights import build_with_weights, content_to_save, location_weights, require_weights
from satclip_model.config import SatCLIPConfig, told
from satclip_model.errors import CheckpointError
from satclip_model.location_encoder import LocationEncoder
from satclip_model.satclip import SatCLIP

FORMAT: Final = "satclip-two-towers"
FORMAT_VERSION: Final = 2


def write_checkpoint(path: str | Path, model: SatCLIP, record: Mapping[str, Any]) -> None:
    """Writes a model and what is known of it; the file appears whole or not at all.

    Args:
        path: File to write; its folder is made.
        model: The towers; their configuration is written beside the weights.
        record: Dataset version, split, settings, metrics, package versions and the like; JSON values only.

    Raises:
        CheckpointError: A weight is not finite.
        TypeError: ``record`` holds something other than JSON values.
        ValueError: ``record`` holds NaN or infinity.
    """
    path = Path(path)
    content = checkpoint_content(path, model, record)
    write_whole(path, lambda handle: torch.save(content, handle))


def checkpoint_content(path: Path, model: SatCLIP, record: Mapping[str, Any]) -> dict[str, Any]:
    """What `write_checkpoint` saves; readers leave other entries alone.

    Raises:
        CheckpointError: A weight is not finite; ``path`` is named.
        TypeError: ``record`` holds something other than JSON values.
        ValueError: ``record`` holds NaN or infinity.
    """
    return content_to_save(path, model, model.config, record, FORMAT, FORMAT_VERSION)


def read_checkpoint(path: Path) -> tuple[SatCLIP, dict[str, Any]]:
    """Reads a model, in evaluation mode on the CPU, and its record; never executes code from the file.

    Raises:
        CheckpointError: The file is missing, truncated, of another format, or its tensors do not fit its
            configuration or are not finite.
    """
    return model_from_content(path, read_archive(path))


def read_location_encoder(path: Path) -> tuple[LocationEncoder, dict[str, Any]]:
    """Reads only the location tower, in evaluation mode on the CPU, and the record.

    Raises:
        CheckpointError: As for `read_checkpoint`.
    """
    return location_encoder_from_content(path, read_archive(path))


def model_from_content(path: Path, content: object) -> tuple[SatCLIP, dict[str, Any]]:
    """The model and the record in what `read_archive` gives of a file of `write_checkpoint`.

    Raises:
        CheckpointError: As for `read_checkpoint`.
    """
    config, record, state = _parse(path, content)
    return build_with_weights(path, lambda: SatCLIP(config), state), record


def location_encoder_from_content(path: Path, content: object) -> tuple[LocationEncoder, dict[str, Any]]:
    """As `model_from_content`, the location tower alone.

    Raises:
        CheckpointError: As for `read_checkpoint`.
    """
    config, record, state = _parse(path, content)
    return build_with_weights(path, lambda: LocationEncoder(config.location), location_weights(state)), record


def _parse(path: Path, content: object) -> tuple[SatCLIPConfig, dict[str, Any], dict[str, Tensor]]:
    found = content.get("format") if isinstance(content, dict) else type(content).__name__
    version = content.get("format_version") if isinstance(content, dict) else None
    if not isinstance(content, dict) or found != FORMAT or version != FORMAT_VERSION:
        raise CheckpointError(
            f"{path}: format is {found!r} version {version!r}; expected {FORMAT!r} version {FORMAT_VERSION}, of "
            "write_checkpoint; train the model again, or read files of other formats with load_model"
        )
    try:
        config = SatCLIPConfig.model_validate_json(content["config"])
        record = json.loads(content["record"])
        state = dict(content["state_dict"])
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{path}: the part 'config', 'record' or 'state_dict' is not valid: {told(error)}; train the model again"
        ) from error
    if not isinstance(record, dict):
        raise CheckpointError(f"{path}: the record is a {type(record).__name__}, expected a dictionary; train it again")
    require_weights(path, state)
    return config, record, state
