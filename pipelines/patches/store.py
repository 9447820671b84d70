"""The patch store: one Zarr v3 array of patches, filled shard by shard, with a sidecar table per finished shard.

A shard has one writer. Its pixels are written first, its sidecar last: the sidecar is the proof that the shard is done.
"""

import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import numcodecs.blosc
import numpy as np
import pandas as pd
import zarr
from numpy.typing import NDArray
from zarr.codecs import BloscCodec, Crc32cCodec

from pipelines.errors import StoreError
from pipelines.sampling.tables import read_record, read_table, write_table
from pipelines.sentinel2 import BANDS, CENTRAL_WAVELENGTHS_NM

SCHEMA_VERSION = 1
SHARD_SIZE = 256
DIMENSIONS = ("place", "band", "y", "x")


@dataclass(frozen=True)
class StoreSchema:
    """What a store holds: its plan, its size and its bands."""

    plan_id: str
    num_places: int
    patch_size_px: int
    shard_size: int = SHARD_SIZE
    bands: tuple[str, ...] = BANDS
    schema_version: int = SCHEMA_VERSION

    @property
    def num_shards(self) -> int:
        """Shards of the store; the last one may be short."""
        return -(-self.num_places // self.shard_size)

    def rows(self, shard: int) -> range:
        """Rows of the store that a shard holds."""
        if not 0 <= shard < self.num_shards:
            raise ValueError(f"shard {shard}: expected 0 to {self.num_shards - 1}")
        return range(shard * self.shard_size, min((shard + 1) * self.shard_size, self.num_places))


def dataset_folder(root: Path, version: str) -> Path:
    """Where a version of the dataset lives in a workspace."""
    return root / "datasets" / version


def open_store(folder: Path, schema: StoreSchema) -> "PatchStore":
    """Opens the store of a plan, creating it where it is absent; safe for several processes at once.

    Raises:
        StoreError: a store with another schema is there.
    """
    path = folder / "patches.zarr"
    if not (path / "zarr.json").is_file():
        _create(path, schema)
    store = read_store(folder)
    if store.schema != schema:
        found, expected = asdict(store.schema), asdict(schema)
        differing = [name for name in expected if found[name] != expected[name]]
        raise StoreError(
            f"{path}: found {[f'{name} {found[name]}' for name in differing]}, "
            f"expected {[f'{name} {expected[name]}' for name in differing]}; "
            "move the folder away to build it again"
        )
    return store


def read_store(folder: Path) -> "PatchStore":
    """Opens a store that must exist.

    Raises:
        StoreError: no store there, or one of a schema this version does not know.
    """
    path = folder / "patches.zarr"
    if not (path / "zarr.json").is_file():
        raise StoreError(f"{path}: no patch store there; materialize patches first")
    group = zarr.open_group(path, mode="r+")
    attributes = dict(group.attrs)
    if attributes.get("schema_version") != SCHEMA_VERSION:
        raise StoreError(
            f"{path}: schema version {attributes.get('schema_version')}, expected {SCHEMA_VERSION}; "
            "read it with the package version that wrote it"
        )
    schema = StoreSchema(
        plan_id=str(attributes["plan_id"]),
        num_places=int(str(attributes["num_places"])),
        patch_size_px=int(str(attributes["patch_size_px"])),
        shard_size=int(str(attributes["shard_size"])),
        bands=tuple(json.loads(json.dumps(attributes["bands"]))),
    )
    array = group["image"]
    assert isinstance(array, zarr.Array)
    return PatchStore(folder=folder, schema=schema, image=array)


def _create(path: Path, schema: StoreSchema) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{uuid4().hex}.partial")
    group = zarr.open_group(partial, mode="w-", attributes=_attributes(schema))
    size = schema.patch_size_px
    group.create_array(
        "image",
        shape=(schema.num_places, len(schema.bands), size, size),
        chunks=(1, len(schema.bands), size, size),
        shards=(schema.shard_size, len(schema.bands), size, size),
        dtype="uint16",
        fill_value=0,
        compressors=[BloscCodec(typesize=2, cname="zstd", clevel=1, shuffle="bitshuffle"), Crc32cCodec()],
        dimension_names=DIMENSIONS,
        attributes={
            "long_name": "Sentinel-2 Level-2A digital numbers as delivered",
            "units": "1",
            "comment": "0 is nodata; reflectance = (image + boa_add_offset) / 10000; coarser bands replicated to 10 m",
        },
    )
    try:
        partial.rename(path)
    except OSError:
        shutil.rmtree(partial)
        if not (path / "zarr.json").is_file():
            raise


def _attributes(schema: StoreSchema) -> dict[str, Any]:
    return {
        "Conventions": "CF-1.12",
        "title": "Sentinel-2 Level-2A patches sampled over land",
        "source": "Copernicus Sentinel-2 MSI Level-2A",
        "band_central_wavelengths_nm": list(CENTRAL_WAVELENGTHS_NM),
        **asdict(schema),
        "bands": list(schema.bands),
    }


@dataclass(frozen=True)
class PatchStore:
    """An open store. Writing belongs to one process per shard; reading to anyone."""

    folder: Path
    schema: StoreSchema
    image: zarr.Array[Any]

    def sidecar_path(self, shard: int) -> Path:
        """The table whose presence says that a shard is done."""
        return self.folder / "shards" / f"{shard:05d}.parquet"

    def is_done(self, shard: int) -> bool:
        """Whether a shard is finished."""
        return self.sidecar_path(shard).is_file()

    def finished_shards(self) -> list[int]:
        """Numbers of the finished shards, ascending."""
        return [shard for shard in range(self.schema.num_shards) if self.is_done(shard)]

    def write_shard(self, shard: int, dn: NDArray[np.uint16], rows: pd.DataFrame, record: Mapping[str, object]) -> None:
        """Writes a whole shard, pixels first, sidecar last.

        Args:
            shard: Its number.
            dn: Digital numbers, shape (rows in the shard, bands, size, size); rows without a patch are 0.
            rows: One row per place with its columns; ``sha256`` is added here.
            record: What made the shard.

        Raises:
            StoreError: shapes that do not fit the schema.
        """
        expected = self.schema.rows(shard)
        if len(rows) != len(expected) or dn.shape != (len(expected), *self.image.shape[1:]):
            raise StoreError(
                f"{self.folder}: shard {shard} got {len(rows)} rows and pixels {dn.shape}, "
                f"expected {len(expected)} rows and {(len(expected), *self.image.shape[1:])}"
            )
        # What an interrupted write left: zarr would read it to fill up a short last shard.
        file = self.folder / "patches.zarr" / "image" / self.image.metadata.encode_chunk_key((shard, 0, 0, 0))
        for left in (file, *file.parent.glob("*.partial")):
            left.unlink(missing_ok=True)
        numcodecs.blosc.use_threads = False  # several threads do not give the same bytes twice
        self.image[expected.start : expected.stop] = dn
        hashes = [patch_sha256(dn[i]) if valid else "" for i, valid in enumerate(rows["valid"])]
        write_table(self.sidecar_path(shard), rows.assign(sha256=hashes), {"plan_id": self.schema.plan_id, **record})

    def read_sidecar(self, shard: int) -> pd.DataFrame:
        """The rows of a finished shard.

        Raises:
            StoreError: the shard belongs to another plan.
        """
        path = self.sidecar_path(shard)
        rows = read_table(path, asset="patches")
        found = read_record(path).get("plan_id")
        if found != self.schema.plan_id or len(rows) != len(self.schema.rows(shard)):
            raise StoreError(
                f"{path}: {len(rows)} rows of plan {found}, expected {len(self.schema.rows(shard))} rows of plan "
                f"{self.schema.plan_id}; delete the file to read the shard again"
            )
        return rows

    def read_sidecar_record(self, shard: int) -> dict[str, object]:
        """What made a finished shard."""
        return read_record(self.sidecar_path(shard))

    def set_aside(self, shard: int) -> None:
        """Renames the sidecar of a damaged shard, so that the shard counts as unfinished and is built again."""
        path = self.sidecar_path(shard)
        path.replace(path.with_suffix(".damaged"))

    def read_shard(self, shard: int) -> NDArray[np.uint16]:
        """Digital numbers of a shard, shape (rows, bands, size, size)."""
        rows = self.schema.rows(shard)
        pixels: NDArray[np.uint16] = np.asarray(self.image[rows.start : rows.stop])
        return pixels


def patch_sha256(dn: NDArray[np.uint16]) -> str:
    """SHA-256 (hex) of a patch's digital numbers, little-endian, C order."""
    return hashlib.sha256(np.ascontiguousarray(dn, dtype="<u2").data).hexdigest()
