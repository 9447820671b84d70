"""Patches straight from the files of a store: for each patch one read and one decompression."""

import json
import os
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import google_crc32c
import numcodecs.blosc
import numpy as np
from numpy.typing import NDArray

from pipelines.errors import StoreError

_ABSENT: Final = 2**64 - 1
_CHECKSUM_BYTES: Final = 4
_ENTRY_BYTES: Final = 16
_LITTLE_ENDIAN: Final = {"name": "bytes", "configuration": {"endian": "little"}}
_CHECKSUM: Final = {"name": "crc32c"}


class ShardReader:
    """Reads rows of the ``image`` array of a patch store without zarr-python; gives the same values.

    Small enough to be sent to worker processes; the index of a shard is read once and kept. Not for several threads.

    Args:
        image_path: The folder of the array, ``patches.zarr/image``.

    Attributes:
        patch_shape: Bands, rows and columns of a patch.

    Raises:
        StoreError: no array there, or one of another layout than `pipelines.patches.store` writes.

    Source: Zarr core specification, version 3, and its sharding codec, version 1.0.
    """

    def __init__(self, image_path: Path) -> None:
        self._path = image_path
        metadata = _read_metadata(image_path)
        self._num_rows = int(metadata["shape"][0])
        self._shard_size = int(metadata["chunk_grid"]["configuration"]["chunk_shape"][0])
        self.patch_shape: tuple[int, int, int] = tuple(metadata["shape"][1:])
        self._indexes: dict[int, NDArray[np.uint64] | None] = {}

    def read(self, rows: Sequence[int] | NDArray[np.int64], out: NDArray[np.uint16]) -> None:
        """Reads digital numbers of some rows, in their order.

        Args:
            rows: Rows of the store.
            out: Where they go, shape (rows, bands, size, size), contiguous; zeros where a row has no patch.

        Raises:
            IndexError: a row that the store has not.
            StoreError: a shard that is cut short, or whose checksums do not hold.
        """
        if out.shape != (len(rows), *self.patch_shape) or out.dtype != np.uint16 or not out.flags.c_contiguous:
            raise ValueError(
                f"out is {out.dtype} {out.shape}, expected contiguous uint16 {(len(rows), *self.patch_shape)}"
            )
        for row, patch in zip(rows, out, strict=True):
            if not 0 <= row < self._num_rows:
                raise IndexError(f"{self._path}: row {row}, expected 0 to {self._num_rows - 1}")
            self._read_patch(*divmod(int(row), self._shard_size), patch)

    def _read_patch(self, shard: int, position: int, patch: NDArray[np.uint16]) -> None:
        index = self._index(shard)
        if index is None or index[position, 0] == _ABSENT:
            patch.fill(0)
            return
        start, num_bytes = (int(each) for each in index[position])
        path = self._shard_path(shard)
        handle = os.open(path, os.O_RDONLY)
        try:
            content = _read_checked(handle, start, num_bytes, f"{path}: patch {position}")
        finally:
            os.close(handle)
        try:
            numcodecs.blosc.decompress(content, patch)
        except (RuntimeError, ValueError) as error:
            raise StoreError(_damaged(f"{path}: patch {position}", str(error))) from error

    def _index(self, shard: int) -> NDArray[np.uint64] | None:
        if shard not in self._indexes:
            self._indexes[shard] = self._read_index(shard)
        return self._indexes[shard]

    def _read_index(self, shard: int) -> NDArray[np.uint64] | None:
        path = self._shard_path(shard)
        try:
            handle = os.open(path, os.O_RDONLY)
        except FileNotFoundError:
            return None
        try:
            size = self._shard_size * _ENTRY_BYTES + _CHECKSUM_BYTES
            content = _read_checked(handle, os.fstat(handle).st_size - size, size, f"{path}: index")
        finally:
            os.close(handle)
        return content.view("<u8").reshape(self._shard_size, 2)

    def _shard_path(self, shard: int) -> Path:
        return self._path / "c" / str(shard) / "0" / "0" / "0"


def _read_metadata(image_path: Path) -> dict[str, Any]:
    path = image_path / "zarr.json"
    if not path.is_file():
        raise StoreError(f"{image_path}: no array there; materialize patches first")
    metadata: dict[str, Any] = json.loads(path.read_text())
    size = metadata["shape"][1:]
    sharding = metadata["codecs"][0]
    settings = sharding.get("configuration", {})
    inner = settings.get("codecs", [{}])
    expected = {
        "data_type": (metadata["data_type"], "uint16"),
        "fill_value": (metadata["fill_value"], 0),
        "chunk_key_encoding": (
            metadata["chunk_key_encoding"], {"name": "default", "configuration": {"separator": "/"}},
        ),
        "shard shape": (metadata["chunk_grid"]["configuration"]["chunk_shape"][1:], size),
        "codecs": ([each["name"] for each in metadata["codecs"]], ["sharding_indexed"]),
        "chunk shape": (settings.get("chunk_shape"), [1, *size]),
        "codecs of a patch": ([each.get("name") for each in inner], ["bytes", "blosc", "crc32c"]),
        "byte order": (inner[0], _LITTLE_ENDIAN),
        "codecs of the index": (settings.get("index_codecs"), [_LITTLE_ENDIAN, _CHECKSUM]),
        "index_location": (settings.get("index_location", "end"), "end"),
    }  # fmt: skip
    differing = [f"{name} {found}, expected {wanted}" for name, (found, wanted) in expected.items() if found != wanted]
    if differing:
        raise StoreError(f"{path}: {'; '.join(differing)}; read the store with zarr-python")
    return metadata


def _read_checked(handle: int, start: int, num_bytes: int, name: str) -> NDArray[np.uint8]:
    content = os.pread(handle, num_bytes, start) if start >= 0 else b""
    if len(content) < max(num_bytes, _CHECKSUM_BYTES):
        raise StoreError(_damaged(name, f"{len(content)} of {num_bytes} bytes"))
    payload = np.frombuffer(content, dtype=np.uint8)[:-_CHECKSUM_BYTES]
    (stored,) = struct.unpack("<I", content[-_CHECKSUM_BYTES:])
    if google_crc32c.value(payload) != stored:
        raise StoreError(_damaged(name, "a wrong checksum"))
    return payload


def _damaged(name: str, found: str) -> str:
    return f"{name}: {found}, expected the bytes that were written; materialize patches and patch_dataset again"
