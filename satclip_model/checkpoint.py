"""Trained models on disk: plain tensors and a record, never arbitrary objects."""

import json
import os
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final
from uuid import uuid4
from zipfile import BadZipFile, is_zipfile

import torch
from pydantic import ValidationError
from torch import Tensor, nn

from satclip_model.config import SatCLIPConfig
from satclip_model.errors import CheckpointError
from satclip_model.location_encoder import LocationEncoder
from satclip_model.satclip import SatCLIP

FORMAT: Final = "satclip-two-towers"
FORMAT_VERSION: Final = 2
_LOCATION_PREFIX = "location_encoder."


def write_checkpoint(path: Path, model: SatCLIP, record: Mapping[str, Any]) -> None:
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
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    _require_finite(path, state)
    content = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "config": json.dumps(model.config.model_dump(mode="json"), sort_keys=True),
        "record": json.dumps(record, sort_keys=True, allow_nan=False),
        "state_dict": state,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{uuid4().hex}.partial")
    try:
        with partial.open("wb") as handle:
            torch.save(content, handle)
            handle.flush()
            os.fsync(handle.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def read_checkpoint(path: Path) -> tuple[SatCLIP, dict[str, Any]]:
    """Reads a model, in evaluation mode on the CPU, and its record; never executes code from the file.

    Raises:
        CheckpointError: The file is missing, truncated, of another format, or its tensors do not fit its
            configuration or are not finite.
    """
    config, record, state = _read(path)
    model = SatCLIP(config)
    _load(path, model, state)
    return model.eval(), record


def read_location_encoder(path: Path) -> tuple[LocationEncoder, dict[str, Any]]:
    """Reads only the location tower, in evaluation mode on the CPU, and the record.

    Raises:
        CheckpointError: As for `read_checkpoint`.
    """
    config, record, state = _read(path)
    encoder = LocationEncoder(config.location)
    of_encoder = {
        name.removeprefix(_LOCATION_PREFIX): tensor
        for name, tensor in state.items()
        if name.startswith(_LOCATION_PREFIX)
    }
    _load(path, encoder, of_encoder)
    return encoder.eval(), record


def _read(path: Path) -> tuple[SatCLIPConfig, dict[str, Any], dict[str, Tensor]]:
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file; expected a checkpoint written by write_checkpoint")
    if not is_zipfile(path):
        raise CheckpointError(
            f"{path}: {path.stat().st_size} bytes that are no whole checkpoint (not a zip archive, or cut short); copy "
            "or train it again"
        )
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, pickle.UnpicklingError, BadZipFile, EOFError, KeyError, ValueError, OSError) as error:
        reason = str(error).partition("\n")[0]
        raise CheckpointError(
            f"{path}: cannot be read as plain tensors ({reason}); it is damaged or holds other objects, which are "
            "never unpickled; train it again or ask for an intact copy"
        ) from error
    found = content.get("format") if isinstance(content, dict) else type(content).__name__
    if found != FORMAT or content.get("format_version") != FORMAT_VERSION:
        version = content.get("format_version") if isinstance(content, dict) else None
        raise CheckpointError(
            f"{path}: format is {found!r} version {version!r}; expected {FORMAT!r} version {FORMAT_VERSION}"
        )
    try:
        config = SatCLIPConfig.model_validate_json(content["config"])
        record = json.loads(content["record"])
        state = dict(content["state_dict"])
    except (KeyError, TypeError, ValueError, ValidationError) as error:
        raise CheckpointError(f"{path}: the part 'config', 'record' or 'state_dict' is not valid: {error}") from error
    if not isinstance(record, dict) or not all(isinstance(tensor, Tensor) for tensor in state.values()):
        raise CheckpointError(f"{path}: expected a record of names and a state_dict of tensors; train it again")
    _require_finite(path, state)
    return config, record, state


def _require_finite(path: Path, state: Mapping[str, Tensor]) -> None:
    for name, tensor in state.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise CheckpointError(f"{path}: weight {name} is not finite; the training that made it diverged")


def _load(path: Path, module: nn.Module, state: Mapping[str, Tensor]) -> None:
    expected = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in state.items()}
    differences = [f"missing: {', '.join(sorted(expected.keys() - found.keys()))}"] if expected.keys() - found else []
    if found.keys() - expected.keys():
        differences.append(f"unexpected: {', '.join(sorted(found.keys() - expected.keys()))}")
    differences += [
        f"{name} has shape {found[name]}, expected {expected[name]}"
        for name in sorted(expected.keys() & found.keys())
        if expected[name] != found[name]
    ]
    if differences:
        raise CheckpointError(f"{path}: weights and configuration do not fit: {'; '.join(differences)}")
    module.load_state_dict(dict(state))
