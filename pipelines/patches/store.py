"""The patch store: one Zarr v3 array of patches, filled shard by shard, with a sidecar table per finished shard.

A shard has one writer. Its pixels are written first, its sidecar last: the sidecar is the proof that the shard is done.
A finished shard never changes. The store of a refresh begins with the shards of the dataset that it builds upon, as
hard links, and adds its own behind them: each version is a whole Zarr store, and deleting one hurts no other.
"""

import hashlib
import json
import logging
import os
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

logger = logging.getLogger(__name__)

SCHEMA_VERSION = 2
SHARD_SIZE = 256
DIMENSIONS = ("row", "band", "y", "x")


@dataclass(frozen=True)
class StoreSchema:
    """What a store holds: its plan, its size and its bands.

    Attributes:
        plan_id: The plan that fills the store.
        num_places: Places of that plan.
        patch_size_px: Side of a patch.
        base_version: The dataset whose shards come first; empty where there is none.
        base_rows: Rows of those shards, whole shards.
    """

    plan_id: str
    num_places: int
    patch_size_px: int
    shard_size: int = SHARD_SIZE
    bands: tuple[str, ...] = BANDS
    schema_version: int = SCHEMA_VERSION
    base_version: str = ""
    base_rows: int = 0

    @property
    def num_rows(self) -> int:
        """Rows of the store."""
        return self.base_rows + self.num_places

    @property
    def num_shards(self) -> int:
        """Shards of the store, inherited ones included; the last one may be short."""
        return -(-self.num_rows // self.shard_size)

    @property
    def first_shard(self) -> int:
        """The first shard that the plan itself fills."""
        return self.base_rows // self.shard_size

    @property
    def own_shards(self) -> range:
        """The shards that the plan itself fills."""
        return range(self.first_shard, self.num_shards)

    def rows(self, shard: int) -> range:
        """Rows of the store that a shard holds."""
        if not 0 <= shard < self.num_shards:
            raise ValueError(f"shard {shard}: expected 0 to {self.num_shards - 1}")
        return range(shard * self.shard_size, min((shard + 1) * self.shard_size, self.num_rows))

    def plan_rows(self, shard: int) -> range:
        """Rows of the plan's places that a shard of the plan holds."""
        rows = self.rows(shard)
        if rows.start < self.base_rows:
            raise ValueError(f"shard {shard}: inherited from {self.base_version}, expected {self.first_shard} or more")
        return range(rows.start - self.base_rows, rows.stop - self.base_rows)


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
    _inherit_sidecars(folder, schema)
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
        base_version=str(attributes["base_version"]),
        base_rows=int(str(attributes["base_rows"])),
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
        shape=(schema.num_rows, len(schema.bands), size, size),
        chunks=(1, len(schema.bands), size, size),
        shards=(schema.shard_size, len(schema.bands), size, size),
        dtype="uint16",
        fill_value=0,
        compressors=compression(),
        dimension_names=DIMENSIONS,
        attributes={
            "long_name": "Sentinel-2 Level-2A digital numbers as delivered",
            "units": "1",
            "comment": "0 is nodata; reflectance = (image + boa_add_offset) / 10000; coarser bands replicated to 10 m",
        },
    )
    if schema.base_version:
        base = path.parents[1] / schema.base_version
        link_tree(base / "patches.zarr" / "image" / "c", partial / "image" / "c")
    try:
        partial.rename(path)
    except OSError:
        shutil.rmtree(partial)
        if not (path / "zarr.json").is_file():
            raise


def _inherit_sidecars(folder: Path, schema: StoreSchema) -> None:
    for shard in range(schema.first_shard):
        name = sidecar_name(shard)
        if not (folder / "shards" / name).is_file():
            (folder / "shards").mkdir(exist_ok=True)
            link(folder.parent / schema.base_version / "shards" / name, folder / "shards" / name)


def link_tree(source: Path, target: Path) -> None:
    """Hard links of all files below a folder."""
    for file in sorted(source.rglob("*")):
        if file.is_file() and not file.name.endswith(".partial"):
            link(file, target / file.relative_to(source))


def link(source: Path, target: Path) -> None:
    """A hard link, or a copy where the file system has none."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except FileExistsError:
        return
    except FileNotFoundError:
        raise StoreError(
            f"{source}: no such file, expected a finished shard of the dataset that is to be refreshed; restore it, or "
            "plan the whole dataset anew with refresh set to false"
        ) from None
    except OSError as error:
        logger.info("%s: no hard link possible (%s), copied", target, error.strerror)
        shutil.copy2(source, target)


def compression() -> list[BloscCodec | Crc32cCodec]:
    """Codecs of a patch: the smallest and quickest of those that every reader knows, and a checksum.

    Source: benchmarks of codecs on patches of Sentinel-2; without the checksum most flipped bits give wrong pixels.
    """
    return [BloscCodec(typesize=2, cname="zstd", clevel=1, shuffle="bitshuffle"), Crc32cCodec()]


def sidecar_name(shard: int) -> str:
    """File name of a shard's table."""
    return f"{shard:05d}.parquet"


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
        return self.folder / "shards" / sidecar_name(shard)

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
        self.schema.plan_rows(shard)
        if len(rows) != len(expected) or dn.shape != (len(expected), *self.image.shape[1:]):
            raise StoreError(
                f"{self.folder}: shard {shard} got {len(rows)} rows and pixels {dn.shape}, "
                f"expected {len(expected)} rows and {(len(expected), *self.image.shape[1:])}"
            )
        hashes = [patch_sha256(dn[i]) if valid else "" for i, valid in enumerate(rows["valid"])]
        numcodecs.blosc.use_threads = False  # several threads do not give the same bytes twice
        try:
            self._clear_interrupted(shard)
            self.image[expected.start : expected.stop] = dn
            write_table(
                self.sidecar_path(shard), rows.assign(sha256=hashes), {"plan_id": self.schema.plan_id, **record}
            )
        except OSError as error:
            raise StoreError(
                f"{self.folder}: shard {shard} could not be written ({error.strerror or error}), expected room for "
                f"{dn.nbytes / 1e6:.0f} MB at most; mend the disk and run again: finished shards are kept"
            ) from error

    def _clear_interrupted(self, shard: int) -> None:
        """Removes what an interrupted write left: zarr would read it to fill up a short last shard."""
        file, sidecar = self.shard_path(shard), self.sidecar_path(shard)
        left = [*file.parent.glob("*.partial"), *sidecar.parent.glob(f"{sidecar.name}.*.partial")]
        for path in (file, *left):
            path.unlink(missing_ok=True)

    def shard_path(self, shard: int) -> Path:
        """The file that holds a shard's pixels; absent where the shard has no patch."""
        return self.folder / "patches.zarr" / "image" / self.image.metadata.encode_chunk_key((shard, 0, 0, 0))

    def read_sidecar(self, shard: int) -> pd.DataFrame:
        """The rows of a finished shard.

        Raises:
            StoreError: the shard belongs to another plan.
        """
        path = self.sidecar_path(shard)
        rows = read_table(path, asset="patches")
        if shard < self.schema.first_shard:
            return rows
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
