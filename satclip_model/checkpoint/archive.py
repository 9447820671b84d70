"""What the formats of checkpoints share: whole writes, reads without foreign code, and checked weights."""

import os
import pickle
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO, Final
from uuid import uuid4
from zipfile import BadZipFile, is_zipfile

import numpy as np
import torch
from torch import Tensor, nn

from satclip_model.errors import CheckpointError

_FORBIDDEN_NAME: Final = re.compile(r"GLOBAL ([\w.]+)")
_NUMERIC_KINDS: Final = "biuf"
_LIGHTNING_DICTS: Final = (
    "lightning.fabric.utilities.data.AttributeDict",
    "lightning.pytorch.utilities.parsing.AttributeDict",
    "lightning_fabric.utilities.data.AttributeDict",
    "pytorch_lightning.utilities.parsing.AttributeDict",
)
_NUMPY_SCALARS: Final = ("numpy._core.multiarray.scalar", "numpy.core.multiarray.scalar")
_LOCATION_PREFIX: Final = "location_encoder."


def write_whole(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Lets ``write`` fill a file that then appears under its name whole, or not at all; its folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{uuid4().hex}.partial")
    try:
        with partial.open("wb") as handle:
            write(handle)
            handle.flush()
            os.fsync(handle.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def read_archive(path: Path) -> Any:  # noqa: ANN401
    """The content of a file of ``torch.save``, on the CPU; never executes code from the file.

    Beside tensors and plain values it may hold what Lightning 2 writes: its dictionaries of hyper-parameters, which
    become plain ones, and numbers of NumPy, which become Python's.

    Raises:
        CheckpointError: The file is missing, truncated, no zip archive, or holds other objects.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file; expected a checkpoint")
    if not is_zipfile(path):
        raise CheckpointError(
            f"{path}: {path.stat().st_size} bytes that are no whole checkpoint (not a zip archive, or cut short); copy "
            "or train it again"
        )
    try:
        with torch.serialization.safe_globals(_allowed_globals()):
            return torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, pickle.UnpicklingError, BadZipFile, EOFError, OSError, *_MALFORMED) as error:
        named = _FORBIDDEN_NAME.search(str(error))
        reason = f"it asks for {named[1]}" if named else str(error).partition("\n")[0]
        raise CheckpointError(
            f"{path}: cannot be read as plain tensors ({reason}); it is damaged or holds other objects, which are "
            "never unpickled; train it again or ask for an intact copy"
        ) from error


_MALFORMED: Final = (KeyError, IndexError, TypeError, ValueError, AttributeError)
"""What a pickle that is none of PyTorch's makes its reader raise."""


def require_finite(path: Path, state: Mapping[str, Tensor]) -> None:
    """Raises CheckpointError unless all weights are finite."""
    for name, tensor in state.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise CheckpointError(f"{path}: weight {name} is not finite; the training that made it diverged")


def location_weights(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights of the `LocationEncoder` among those of a `SatCLIP`, under the names they have in it."""
    return {
        name.removeprefix(_LOCATION_PREFIX): tensor
        for name, tensor in state.items()
        if name.startswith(_LOCATION_PREFIX)
    }


def load_weights(path: Path, module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Copies weights into a module, which takes on their types.

    Raises:
        CheckpointError: Keys or shapes differ (all are named), a weight is not finite, or copies of one weight differ.
    """
    require_finite(path, state)
    own = module.state_dict()
    expected = {name: tuple(tensor.shape) for name, tensor in own.items()}
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
    for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
        if name in state and tensor.is_floating_point():
            tensor.data = tensor.data.to(state[name].dtype)
    module.load_state_dict(dict(state))
    unequal = [name for name, tensor in module.state_dict().items() if not torch.equal(tensor, state[name])]
    if unequal:
        raise CheckpointError(
            f"{path}: {', '.join(unequal)}: one weight under several names, whose copies differ in the file; it is of "
            "a model with separate layers"
        )


def _allowed_globals() -> list[Any]:
    dtypes = {type(np.dtype(kind)) for kind in (*np.typecodes["AllFloat"], *np.typecodes["AllInteger"], "?")}
    return [
        *((dict, name) for name in _LIGHTNING_DICTS),
        *((_number, name) for name in _NUMPY_SCALARS),
        np.dtype,
        *dtypes,
    ]


def _number(dtype: "np.dtype[Any]", data: bytes) -> bool | int | float:
    if dtype.kind not in _NUMERIC_KINDS:
        raise pickle.UnpicklingError(f"a scalar of type {dtype}, expected a number")
    value: bool | int | float = np.frombuffer(data, dtype, count=1)[0].item()
    return value
