"""Embeddings of a regular grid as Zarr v3, written rows by rows."""

import logging
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

import numpy as np
import pyproj
import zarr
from numpy.typing import NDArray
from zarr.codecs import BloscCodec

from pipelines.errors import ConfigurationError
from pipelines.provenance import package_versions

logger = logging.getLogger(__name__)

VARIABLE: Final = "location_embedding"
DIMENSIONS: Final = ("lat", "lon", "embedding")

WriteRows = Callable[[NDArray[np.floating[Any]]], None]


@dataclass(frozen=True)
class EmbeddingGridContent:
    """What a Zarr group of embeddings will hold.

    Attributes:
        lon_deg: Longitudes of the columns.
        lat_deg: Latitudes of the rows.
        embedding_dim: Length of an embedding.
        dtype: float32 or float16.
        rows_per_chunk: Rows written at a time; a chunk holds whole rows.
    """

    lon_deg: NDArray[np.float64]
    lat_deg: NDArray[np.float64]
    embedding_dim: int
    dtype: np.dtype[Any]
    rows_per_chunk: int


def require_replaceable(path: Path) -> None:
    """Raises ConfigurationError if something other than a Zarr group is at ``path``."""
    if path.exists() and not (path / "zarr.json").is_file():
        raise ConfigurationError(f"{path}: is there already and is no Zarr group; name another path or remove it")


@contextmanager
def writing_embedding_grid(
    path: Path, content: EmbeddingGridContent, provenance: Mapping[str, Any]
) -> Iterator[WriteRows]:
    """Yields a function that appends rows of a grid, shape (rows, columns, embedding_dim), NaN where there is nothing.

    The group holds ``location_embedding`` (lat, lon, embedding), its coordinates with CF attributes, and the
    provenance as attribute ``satclip_provenance``. It appears whole when the block ends, in place of a group that was
    there, and not at all if it ends with an error.

    Raises:
        ConfigurationError: Something other than a Zarr group is at ``path``.
        ValueError: Fewer or more rows than the grid has.
    Source: CF conventions 1.12, https://cfconventions.org/
    """
    require_replaceable(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{uuid4().hex}.partial")
    try:
        group = zarr.open_group(partial, mode="w-", attributes=_attributes(provenance))
        _write_coordinates(group, content)
        array = _create_variable(group, content)
        written = 0

        def write(rows: NDArray[np.floating[Any]]) -> None:
            nonlocal written
            array[written : written + len(rows)] = rows.astype(content.dtype, copy=False)
            written += len(rows)

        yield write
        if written != len(content.lat_deg):
            raise ValueError(f"{written} rows were written; the grid has {len(content.lat_deg)}")
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Consolidated metadata", category=zarr.errors.ZarrUserWarning)
            zarr.consolidate_metadata(group.store)
        _move_into_place(partial, path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    logger.info("%s: wrote %d rows of %d embeddings", path, written, len(content.lon_deg))


def _attributes(provenance: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "Conventions": "CF-1.12",
        "title": "Location embeddings of a global grid",
        "satclip_provenance": {"package_versions": package_versions(), **provenance},
    }


def _create_variable(group: zarr.Group, content: EmbeddingGridContent) -> zarr.Array[Any]:
    shape = (len(content.lat_deg), len(content.lon_deg), content.embedding_dim)
    return group.create_array(
        VARIABLE,
        shape=shape,
        chunks=(min(content.rows_per_chunk, shape[0]), *shape[1:]),
        dtype=content.dtype,
        fill_value=np.nan,
        compressors=[BloscCodec(typesize=content.dtype.itemsize, cname="zstd", clevel=1, shuffle="shuffle")],
        dimension_names=DIMENSIONS,
        attributes={"long_name": "location embedding", "units": "1", "grid_mapping": "crs"},
    )


def _write_coordinates(group: zarr.Group, content: EmbeddingGridContent) -> None:
    coordinates: dict[str, tuple[NDArray[Any], dict[str, str]]] = {
        "lat": (content.lat_deg, {"standard_name": "latitude", "units": "degrees_north", "axis": "Y"}),
        "lon": (content.lon_deg, {"standard_name": "longitude", "units": "degrees_east", "axis": "X"}),
        "embedding": (np.arange(content.embedding_dim, dtype=np.int32), {"long_name": "component of the embedding"}),
    }
    for name, (values, attributes) in coordinates.items():
        array = group.create_array(
            name, shape=values.shape, dtype=values.dtype, dimension_names=(name,), attributes=dict(attributes)
        )
        array[:] = values
    wgs84 = pyproj.CRS.from_epsg(4326)
    crs = group.create_array("crs", shape=(), dtype="int32", dimension_names=(), attributes=wgs84.to_cf())
    crs[...] = np.int32(0)


def _move_into_place(partial: Path, path: Path) -> None:
    if not path.exists():
        partial.rename(path)
        return
    before = path.with_name(f"{path.name}.{uuid4().hex}.before")
    path.rename(before)
    try:
        partial.rename(path)
    except OSError:
        before.rename(path)
        raise
    shutil.rmtree(before)
