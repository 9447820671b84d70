"""Ground-cover models on disk: plain tensors and a record, never arbitrary objects."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch

from satclip_model.checkpoint.archive import read_archive, write_whole
from satclip_model.checkpoint.weights import build_with_weights, content_to_save, require_weights
from satclip_model.config import told
from satclip_model.errors import CheckpointError
from satclip_model.ground_cover.config import GroundCoverConfig
from satclip_model.ground_cover.model import ClassTexts, GroundCoverCLIP
from satclip_model.ground_cover.text_encoder import TextEncoder

FORMAT: Final = "ground-cover-clip"
FORMAT_VERSION: Final = 1


def ground_cover_content(path: Path, model: GroundCoverCLIP, record: Mapping[str, Any]) -> dict[str, Any]:
    """What `write_ground_cover` saves; readers leave other entries alone.

    Raises:
        CheckpointError: A weight is not finite; ``path`` is named.
        ValueError: ``record`` holds NaN or infinity.
    """
    return content_to_save(path, model, model.config, record, FORMAT, FORMAT_VERSION)


def write_ground_cover(path: Path, model: GroundCoverCLIP, record: Mapping[str, Any]) -> None:
    """Writes a model and what is known of it; the file appears whole or not at all.

    Raises:
        CheckpointError: A weight is not finite.
        ValueError: ``record`` holds NaN or infinity.
    """
    content = ground_cover_content(path, model, record)
    write_whole(path, lambda handle: torch.save(content, handle))


def read_ground_cover(path: Path, text_encoder: TextEncoder | None = None) -> tuple[GroundCoverCLIP, dict[str, Any]]:
    """Reads a model, in evaluation mode on the CPU, and its record; never executes code from the file.

    Raises:
        CheckpointError: The file is missing, damaged, of another format, or its tensors do not fit its settings.
    """
    return ground_cover_from_content(path, read_archive(path), text_encoder)


def ground_cover_from_content(
    path: Path, content: object, text_encoder: TextEncoder | None = None
) -> tuple[GroundCoverCLIP, dict[str, Any]]:
    """The model and the record in what `read_archive` gives.

    Raises:
        CheckpointError: As for `read_ground_cover`.
    """
    found = content.get("format") if isinstance(content, dict) else type(content).__name__
    if not isinstance(content, dict) or found != FORMAT or content.get("format_version") != FORMAT_VERSION:
        raise CheckpointError(
            f"{path}: format is {found!r}; expected {FORMAT!r} version {FORMAT_VERSION}, a checkpoint of the asset "
            "ground_cover_checkpoint"
        )
    try:
        config = GroundCoverConfig.model_validate_json(content["config"])
        record = dict(json.loads(content["record"]))
        state = dict(content["state_dict"])
        require_weights(path, state)
        texts = ClassTexts(*(state[name] for name in ("text_basis", "prompt_vectors", "prompt_is_there")))
        model = build_with_weights(path, lambda: GroundCoverCLIP(config, texts, text_encoder), state)
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{path}: not a whole ground-cover model ({told(error)}); materialize ground_cover_checkpoint again"
        ) from error
    return model, record
