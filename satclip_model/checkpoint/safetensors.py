"""Trained models as safetensors, with a JSON file of settings and record beside them."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import safetensors.torch
from pydantic import ValidationError
from safetensors import SafetensorError
from torch import Tensor

from satclip_model.checkpoint.archive import write_whole
from satclip_model.checkpoint.weights import build_with_weights, location_weights, require_weights
from satclip_model.config import LocationEncoderConfig, SatCLIPConfig, told
from satclip_model.errors import CheckpointError
from satclip_model.location_encoder import LocationEncoder
from satclip_model.satclip import SatCLIP

CONFIG_NAME: Final = "config.json"
FORMAT: Final = "satclip-safetensors"
FORMAT_VERSION: Final = 1


def write_safetensors(
    path: str | Path, model: SatCLIP | LocationEncoder, record: Mapping[str, Any] | None = None
) -> None:
    """Writes weights to ``path`` and ``config.json`` beside it, each whole or not at all.

    The JSON file names the SHA-256 of the weights, so that a mixture of two models is noticed.

    Args:
        path: File to write, such as ``folder/model.safetensors``; its folder is made.
        model: The towers, or a location encoder alone.
        record: What is known of the model; JSON values only.

    Raises:
        CheckpointError: A weight is not finite.
        TypeError: ``record`` holds something other than JSON values.
        ValueError: ``record`` holds NaN or infinity.
    """
    path = Path(path)
    state = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in model.state_dict().items()}
    require_weights(path, state)
    weights = safetensors.torch.save(state, metadata={"format": "pt"})
    description = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "towers": "both" if isinstance(model, SatCLIP) else "location",
        "config": model.config.model_dump(mode="json"),
        "record": dict(record or {}),
        "weights_sha256": hashlib.sha256(weights).hexdigest(),
    }
    text = json.dumps(description, indent=2, sort_keys=True, allow_nan=False)
    write_whole(path, lambda handle: handle.write(weights))
    write_whole(path.with_name(CONFIG_NAME), lambda handle: handle.write(f"{text}\n".encode()))


def read_safetensors(path: Path) -> tuple[SatCLIP, dict[str, Any]]:
    """Reads both towers, in evaluation mode on the CPU, and the record.

    Raises:
        CheckpointError: The file or its ``config.json`` is missing, damaged or of another model, it holds the location
            tower alone, or weights do not fit the settings or are not finite.
    """
    description, state = _read(path)
    if description["towers"] != "both":
        raise CheckpointError(f"{path}: holds the location tower alone; read it with load_location_encoder")
    config = _config(path, SatCLIPConfig, description["config"])
    return build_with_weights(path, lambda: SatCLIP(config), state), description["record"]


def read_safetensors_location_encoder(path: Path) -> tuple[LocationEncoder, dict[str, Any]]:
    """Reads only the location tower, in evaluation mode on the CPU, and the record.

    Raises:
        CheckpointError: As for `read_safetensors`; the image tower may be missing.
    """
    description, state = _read(path)
    if description["towers"] == "both":
        config = _config(path, SatCLIPConfig, description["config"]).location
        state = location_weights(state)
    else:
        config = _config(path, LocationEncoderConfig, description["config"])
    return build_with_weights(path, lambda: LocationEncoder(config), state), description["record"]


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    beside = path.with_name(CONFIG_NAME)
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file; expected weights written by write_safetensors")
    if not beside.is_file():
        raise CheckpointError(
            f"{path}: no {CONFIG_NAME} beside it, which says what the weights are of; copy both files"
        )
    try:
        weights = path.read_bytes()
        description = json.loads(beside.read_bytes())
        state = safetensors.torch.load(weights)
    except (ValueError, RecursionError, OSError, SafetensorError) as error:
        raise CheckpointError(f"{path}: it or its {CONFIG_NAME} is damaged ({error}); copy both files again") from error
    _require_description(beside, description)
    if hashlib.sha256(weights).hexdigest() != description["weights_sha256"]:
        raise CheckpointError(f"{path}: not the weights that {beside} was written with; copy both files again")
    return description, state


def _require_description(beside: Path, description: object) -> None:
    given = description if isinstance(description, dict) else {}
    if given.get("format") != FORMAT or given.get("format_version") != FORMAT_VERSION:
        raise CheckpointError(
            f"{beside}: format is {given.get('format')!r} version {given.get('format_version')!r}; expected {FORMAT!r} "
            f"version {FORMAT_VERSION}, written by write_safetensors"
        )
    if given.get("towers") not in ("both", "location") or not isinstance(given.get("record"), dict):
        raise CheckpointError(f"{beside}: expected 'towers' to be both or location, and a 'record'; copy it again")
    if missing := sorted({"config", "weights_sha256"} - given.keys()):
        raise CheckpointError(f"{beside}: {', '.join(missing)} missing; copy it again")


def _config[T: (SatCLIPConfig, LocationEncoderConfig)](path: Path, kind: type[T], given: object) -> T:
    try:
        return kind.model_validate(given)
    except ValidationError as error:
        raise CheckpointError(f"{path.with_name(CONFIG_NAME)}: 'config' is not valid: {told(error)}") from error
