"""What the formats of checkpoints share: whole writes, and reads without foreign code."""

import os
import pickle
import re
import struct
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, Final
from uuid import uuid4
from zipfile import ZIP_STORED, BadZipFile, ZipFile

import numpy as np
import torch

from satclip_model.errors import CheckpointError

_ZIP_MAGIC: Final = b"PK\x03\x04"
_TORCHSCRIPT_PART: Final = "/constants.pkl"
_FORBIDDEN_NAME: Final = re.compile(r"GLOBAL ([\w.]+)")
_NUMERIC_KINDS: Final = "biuf"
_LIGHTNING_DICTS: Final = (
    "lightning.fabric.utilities.data.AttributeDict",
    "lightning.pytorch.utilities.parsing.AttributeDict",
    "lightning_fabric.utilities.data.AttributeDict",
    "pytorch_lightning.utilities.parsing.AttributeDict",
)
_NUMPY_SCALARS: Final = ("numpy._core.multiarray.scalar", "numpy.core.multiarray.scalar")


def write_whole(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Lets ``write`` fill a file that then appears under its name whole, or not at all; its folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{uuid4().hex}.partial")
    try:
        with partial.open("wb") as handle:
            _written(write, handle)
            handle.flush()
            os.fsync(handle.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _written(write: Callable[[BinaryIO], object], handle: BinaryIO) -> None:
    """Lets ``write`` fill a file; of torch.save, which then fails otherwise, the error of the file itself."""
    try:
        write(handle)
    except RuntimeError as error:
        if isinstance(error.__context__, OSError):
            raise error.__context__ from error
        raise


def read_archive(path: Path) -> Any:  # noqa: ANN401
    """The content of a file of ``torch.save``, on the CPU; never executes code from the file.

    Beside tensors and plain values it may hold what Lightning 2 writes: its dictionaries of hyper-parameters, which
    become plain ones, and numbers of NumPy, which become Python's.

    Raises:
        CheckpointError: The file is missing, truncated, no zip archive, or holds other objects.
    """
    try:
        if not path.is_file():
            found = "is no file" if path.exists() else "no such file"
            raise CheckpointError(f"{path}: {found}; expected a checkpoint")
        _require_stored(path)
        with torch.serialization.safe_globals(_allowed_globals()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except _MALFORMED as error:
        named = _FORBIDDEN_NAME.search(str(error))
        reason = f"it asks for {named[1]}" if named else str(error).partition("\n")[0]
        raise CheckpointError(
            f"{path}: cannot be read as plain tensors ({reason}); it is damaged or holds other objects, which are "
            "never unpickled; train it again or ask for an intact copy"
        ) from error


_MALFORMED: Final = (
    RuntimeError, pickle.UnpicklingError, BadZipFile, struct.error, EOFError, OSError, MemoryError, ArithmeticError,
    AssertionError, LookupError, TypeError, ValueError, AttributeError,
)  # fmt: skip
"""What a file that is none of PyTorch's makes its reader raise."""


def _require_stored(path: Path) -> None:
    """Refuses what torch.save does not write: no zip archive, compressed or overlapping parts, parts that changed."""
    size = path.stat().st_size
    with path.open("rb") as handle:
        is_zip = handle.read(len(_ZIP_MAGIC)) == _ZIP_MAGIC
    try:
        archive = ZipFile(path) if is_zip else None
    except (BadZipFile, ValueError, struct.error):
        archive = None
    if archive is None:
        raise CheckpointError(
            f"{path}: {size} bytes that are no whole checkpoint (not a zip archive, or cut short); copy or train it "
            "again"
        )
    with archive:
        parts = archive.infolist()
        if any(part.compress_type != ZIP_STORED for part in parts) or sum(part.file_size for part in parts) > size:
            raise CheckpointError(f"{path}: holds compressed or overlapping parts; expected a file of torch.save")
        if any(part.filename.endswith(_TORCHSCRIPT_PART) for part in parts):
            raise CheckpointError(f"{path}: holds a TorchScript program; expected weights written by torch.save")
        if (damaged := archive.testzip()) is not None:
            raise CheckpointError(f"{path}: {damaged} does not have its checksum; the file is damaged, copy it again")


def _allowed_globals() -> list[Any]:
    dtypes = {type(np.dtype(kind)) for kind in (*np.typecodes["AllFloat"], *np.typecodes["AllInteger"], "?")}
    return [
        *((dict, name) for name in _LIGHTNING_DICTS),
        *((_number, name) for name in _NUMPY_SCALARS),
        np.dtype,
        *dtypes,
    ]


def _number(dtype: "np.dtype[Any]", data: bytes) -> float:
    if dtype.kind not in _NUMERIC_KINDS:
        raise pickle.UnpicklingError(f"a scalar of type {dtype}, expected a number")
    value: float = np.frombuffer(data, dtype, count=1)[0].item()
    return value
