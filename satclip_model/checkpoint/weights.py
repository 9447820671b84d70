"""Weights of a checkpoint: checked, and put into the module they are of."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import torch
from pydantic import BaseModel
from torch import Tensor, nn

from satclip_model.errors import CheckpointError

LOCATION_PREFIX: Final = "location_encoder."

_FLOATING: Final = frozenset({torch.float16, torch.bfloat16, torch.float32, torch.float64})
_WHOLE: Final = frozenset({torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool})


def require_weights(path: Path, state: Mapping[Any, Any]) -> None:
    """Raises CheckpointError unless ``state`` maps names to plain tensors of finite numbers, all of them there."""
    if not all(isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in state.items()):
        raise CheckpointError(
            f"{path}: found other things than tensors under names, expected a state_dict of tensors; ask for an intact "
            "copy"
        )
    for name, tensor in state.items():
        _require_plain(path, name, tensor)
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise CheckpointError(f"{path}: weight {name} is not finite; the training that made it diverged")


def content_to_save(
    path: Path, model: nn.Module, config: BaseModel, record: Mapping[str, Any], name: str, version: int
) -> dict[str, Any]:
    """What ``torch.save`` is to write of a model: its format, its settings and record as JSON, and its weights.

    Raises:
        CheckpointError: A weight is not finite; ``path`` is named.
        TypeError: ``record`` holds something other than JSON values.
        ValueError: ``record`` holds NaN or infinity.
    """
    state = {key: tensor.detach().cpu().contiguous() for key, tensor in model.state_dict().items()}
    require_weights(path, state)
    return {
        "format": name,
        "format_version": version,
        "config": json.dumps(config.model_dump(mode="json"), sort_keys=True),
        "record": json.dumps(record, sort_keys=True, allow_nan=False),
        "state_dict": state,
    }


def location_weights(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights of the `LocationEncoder` among those of a `SatCLIP`, under the names they have in it."""
    return {
        name.removeprefix(LOCATION_PREFIX): tensor for name, tensor in state.items() if name.startswith(LOCATION_PREFIX)
    }


def build_with_weights[T: nn.Module](path: Path, build: Callable[[], T], state: Mapping[str, Tensor]) -> T:
    """The module that ``build`` gives with the weights of a file, in evaluation mode.

    It is built once without memory first, so that settings that do not fit the weights cost none, however large.

    Raises:
        CheckpointError: As for `load_weights`.
    """
    with torch.device("meta"):
        blueprint = build()
    _require_fitting(path, blueprint, state)
    module = build()
    load_weights(path, module, state)
    return module.eval()


def load_weights(path: Path, module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Copies weights into a module, each of whose parts takes on the widest type of its weights, at least float32.

    Raises:
        CheckpointError: Keys, shapes or kinds of numbers differ (all are named), a weight is no plain tensor or not
            finite, or copies of one weight differ.
    """
    require_weights(path, state)
    _require_fitting(path, module, state)
    widened = _widened(state)
    for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
        if name in widened and tensor.is_floating_point():
            tensor.data = tensor.data.to(widened[name].dtype)
    module.load_state_dict(widened)
    unequal = [name for name, tensor in module.state_dict().items() if not torch.equal(tensor, widened[name])]
    if unequal:
        raise CheckpointError(
            f"{path}: {', '.join(unequal)}: one weight under several names, whose copies differ in the file; it is of "
            "a model with separate layers"
        )


def _require_plain(path: Path, name: str, tensor: Tensor) -> None:
    """Refuses what only looks like a weight: sparse, quantized or complex, without numbers, or one number repeated."""
    is_dense = tensor.layout == torch.strided and not tensor.is_meta and not tensor.is_quantized
    if not is_dense or tensor.dtype not in _FLOATING | _WHOLE:
        raise CheckpointError(
            f"{path}: weight {name} is {tensor.dtype}, {tensor.layout}, on {tensor.device}; expected a dense tensor of "
            "float16, bfloat16, float32 or float64"
        )
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        raise CheckpointError(
            f"{path}: weight {name} has shape {tuple(tensor.shape)}, but the file holds "
            f"{tensor.untyped_storage().nbytes()} bytes of it; ask for an intact copy"
        )


def _require_fitting(path: Path, module: nn.Module, state: Mapping[str, Tensor]) -> None:
    expected, found = module.state_dict(), state
    differences = [f"missing: {', '.join(sorted(expected.keys() - found.keys()))}"] if expected.keys() - found else []
    if found.keys() - expected.keys():
        differences.append(f"unexpected: {', '.join(sorted(found.keys() - expected.keys()))}")
    for name in sorted(expected.keys() & found.keys()):
        own, given = expected[name], found[name]
        if own.shape != given.shape:
            differences.append(f"{name} has shape {tuple(given.shape)}, expected {tuple(own.shape)}")
        elif own.is_floating_point() != given.is_floating_point():
            differences.append(f"{name} is {given.dtype}, expected {own.dtype}")
    if differences:
        raise CheckpointError(f"{path}: weights and configuration do not fit: {'; '.join(differences)}")


def _widened(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Every part of a model, the first component of its weights' names, in one type."""
    types: dict[str, torch.dtype] = {}
    for name, tensor in state.items():
        if tensor.is_floating_point():
            part = name.partition(".")[0]
            types[part] = torch.promote_types(types.get(part, torch.float32), tensor.dtype)
    return {
        name: tensor.to(types[name.partition(".")[0]]) if tensor.is_floating_point() else tensor
        for name, tensor in state.items()
    }
