"""Checkpoints of the original, the six released ones among them: read, and written for its loaders and torchgeo."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from satclip_model.checkpoint.analytic_harmonics import to_analytic_harmonics
from satclip_model.checkpoint.archive import read_archive, write_whole
from satclip_model.checkpoint.official_names import (
    from_official,
    location_from_official,
    location_to_official,
    to_official,
)
from satclip_model.checkpoint.official_settings import (
    config_from_hyper_parameters,
    hyper_parameters_from_config,
    location_config_from_hyper_parameters,
    location_hyper_parameters,
)
from satclip_model.checkpoint.weights import LOCATION_PREFIX, build_with_weights, location_weights, require_weights
from satclip_model.config import LocationEncoderConfig, SatCLIPConfig, told
from satclip_model.errors import CheckpointError
from satclip_model.location_encoder import LocationEncoder
from satclip_model.satclip import SatCLIP

RECORD_KEY: Final = "satclip_pipeline"
"""Key of a file of `write_official_checkpoint` that other loaders skip: our settings and the record, as JSON."""
LIGHTNING_VERSION: Final = "2.0.0"
"""Version named in a written file: the layout has not changed since."""
_VISUAL_PREFIX: Final = "model.visual."


def write_official_checkpoint(
    path: str | Path,
    model: SatCLIP | LocationEncoder,
    record: Mapping[str, Any] | None = None,
    *,
    location_only: bool = False,
) -> None:
    """Writes a model in the format of the released files; the file appears whole or not at all.

    The original's loaders and ``torchgeo.models.SatCLIP`` read it. The location tower is written in float64, its
    orthonormal harmonics as ``analytic`` ones with equal embeddings; the bound of the temperature and the
    standardisation of image features go into the weights. Settings that the original does not know (dropout) and the
    record are kept beside them, for our own reader.

    Args:
        path: File to write; its folder is made.
        model: The towers, or a location encoder alone.
        record: What is known of the model; JSON values only.
        location_only: Whether to leave out the image tower of ``model``, for one that the original does not have.

    Raises:
        CheckpointError: A weight is not finite.
        TypeError: ``record`` holds something other than JSON values.
        ValueError: The original has no such model, or ``record`` holds NaN or infinity.
    """
    path = Path(path)
    if location_only and isinstance(model, SatCLIP):
        model = model.location_encoder
    config, hyper_parameters, state = official_parts(model)
    require_weights(path, state)
    ours = {"config": config.model_dump(mode="json"), "record": dict(record or {})}
    content = {
        "epoch": 0,
        "global_step": 0,
        "pytorch-lightning_version": LIGHTNING_VERSION,
        "state_dict": state,
        "hyper_parameters": hyper_parameters,
        RECORD_KEY: json.dumps(ours, sort_keys=True, allow_nan=False),
    }
    write_whole(path, lambda handle: torch.save(content, handle))


def read_official_checkpoint(path: Path) -> tuple[SatCLIP, dict[str, Any]]:
    """Reads both towers, in evaluation mode on the CPU, and the record (empty unless we wrote the file).

    The location tower has the type of its weights, float64 in the released files.

    Raises:
        CheckpointError: The file is missing, damaged, of another model, holds only the location tower, or its weights
            do not fit its hyper-parameters or are not finite.
    """
    return official_model_from_content(path, read_archive(path))


def read_official_location_encoder(path: Path) -> tuple[LocationEncoder, dict[str, Any]]:
    """Reads only the location tower, in evaluation mode on the CPU, and the record.

    Raises:
        CheckpointError: As for `read_official_checkpoint`; the image tower may be missing.
    """
    return official_location_encoder_from_content(path, read_archive(path))


def official_model_from_content(path: Path, content: object) -> tuple[SatCLIP, dict[str, Any]]:
    """The towers and the record in what `read_archive` gives of an official file.

    Raises:
        CheckpointError: As for `read_official_checkpoint`.
    """
    hyper_parameters, state, ours = _parse(path, content)
    if not any(name.startswith(_VISUAL_PREFIX) for name in state):
        raise CheckpointError(
            f"{path}: holds the location tower alone, no weights {_VISUAL_PREFIX}*; read it with load_location_encoder"
        )
    with _naming(path):
        implied = config_from_hyper_parameters(hyper_parameters)
        config = implied if ours is None else _own_config(ours, implied)
        weights = from_official(config, state)
    return build_with_weights(path, lambda: SatCLIP(config), weights), {} if ours is None else ours["record"]


def official_location_encoder_from_content(path: Path, content: object) -> tuple[LocationEncoder, dict[str, Any]]:
    """As `official_model_from_content`, the location tower alone.

    Raises:
        CheckpointError: As for `read_official_location_encoder`.
    """
    hyper_parameters, state, ours = _parse(path, content)
    with _naming(path):
        implied = location_config_from_hyper_parameters(hyper_parameters)
        config = implied if ours is None else _own_location_config(ours, implied)
        weights = location_from_official(state)
    return build_with_weights(path, lambda: LocationEncoder(config), weights), {} if ours is None else ours["record"]


def official_parts(
    model: SatCLIP | LocationEncoder,
) -> tuple[SatCLIPConfig | LocationEncoderConfig, dict[str, Any], dict[str, Tensor]]:
    """What a model is in the original: settings, hyper-parameters and weights, with equal embeddings and logits.

    Raises:
        ValueError: The original has no such model.
    """
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    if isinstance(model, LocationEncoder):
        location, state = to_analytic_harmonics(model.config, state)
        return location, location_hyper_parameters(location), location_to_official(state)
    of_location = location_weights(state)
    location, of_location = to_analytic_harmonics(model.config.location, of_location)
    state |= {f"{LOCATION_PREFIX}{name}": tensor for name, tensor in of_location.items()}
    config = model.config.model_copy(update={"location": location})
    return config, hyper_parameters_from_config(config), _single_precision_images(to_official(config, state))


def _single_precision_images(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {
        name: tensor.float() if name.startswith(_VISUAL_PREFIX) and tensor.is_floating_point() else tensor
        for name, tensor in state.items()
    }


def _parse(path: Path, content: object) -> tuple[dict[str, Any], dict[str, Tensor], dict[str, Any] | None]:
    parts = content if isinstance(content, Mapping) else {}
    hyper_parameters, state = parts.get("hyper_parameters"), parts.get("state_dict")
    if not isinstance(hyper_parameters, Mapping) or not isinstance(state, Mapping):
        raise CheckpointError(
            f"{path}: found {described(content)}, expected a Lightning checkpoint with hyper_parameters and state_dict"
        )
    require_weights(path, state)
    try:
        ours = json.loads(parts[RECORD_KEY]) if RECORD_KEY in parts else None
        if ours is not None and not (isinstance(ours["config"], dict) and isinstance(ours["record"], dict)):
            raise ValueError("config and record are no objects")
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: the part {RECORD_KEY!r} is not valid: {error}") from error
    return dict(hyper_parameters), _single_precision_images(state), ours


def described(content: object) -> str:
    """What a file holds that is no checkpoint of ours, for a message."""
    if not isinstance(content, Mapping):
        return type(content).__name__
    names = [str(name) for name in content]
    return f"keys {', '.join(names[:5])}{' ...' if len(names) > 5 else ''}"


def _own_config(ours: Mapping[str, Any], implied: SatCLIPConfig) -> SatCLIPConfig:
    """The settings we wrote, which say more than the hyper-parameters and must not contradict them."""
    try:
        config = SatCLIPConfig.model_validate(ours["config"])
        agrees = config_from_hyper_parameters(hyper_parameters_from_config(config)) == implied
    except ValueError as error:
        raise CheckpointError(f"the settings in {RECORD_KEY!r} are not valid: {told(error)}") from error
    if not agrees:
        raise CheckpointError(f"hyper_parameters contradict the settings in {RECORD_KEY!r}; remove one of them")
    return config


def _own_location_config(ours: Mapping[str, Any], implied: LocationEncoderConfig) -> LocationEncoderConfig:
    given = ours["config"].get("location", ours["config"])
    try:
        config = LocationEncoderConfig.model_validate(given)
        agrees = location_config_from_hyper_parameters(location_hyper_parameters(config)) == implied
    except ValueError as error:
        raise CheckpointError(f"the settings in {RECORD_KEY!r} are not valid: {told(error)}") from error
    if not agrees:
        raise CheckpointError(f"hyper_parameters contradict the settings in {RECORD_KEY!r}; remove one of them")
    return config


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Adds the file to what is wrong with it."""
    try:
        yield
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error
