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
import zarr
from numpy.typing import NDArray
from zarr.codecs import BloscCodec

from pipelines.embeddings.conventions import GRID_MAPPING, crs_attributes, spatial_attributes
from pipelines.errors import ConfigurationError
from pipelines.provenance import package_versions

logger = logging.getLogger(__name__)

VARIABLE: Final = "location_embedding"
DIMENSIONS: Final = ("lat", "lon", "embedding")
MASK: Final = "present"
"""Variable (lat, lon), 1 where a cell holds an embedding."""
CHUNK_ROWS: Final = 8
CHUNK_COLUMNS: Final = 32
CHUNK_COMPONENTS: Final = 32
INT8_FILL: Final = -128
"""Stored where there is no embedding; numbers use -127 to 127."""

WriteRows = Callable[[NDArray[Any]], None]


@dataclass(frozen=True)
class EmbeddingGridContent:
    """What a Zarr group of embeddings will hold.

    Attributes:
        lon_deg: Longitudes of the columns.
        lat_deg: Latitudes of the rows.
        embedding_dim: Length of an embedding.
        dtype: float32, float16 or int8.
        rows_per_shard: Rows written at a time; a shard holds whole rows, cut into chunks of at most 8 rows,
            32 columns and 32 components, so that neither a map of one component nor the vector of one place reads all.
        scale: Per component, what an int8 is multiplied by, shape (embedding_dim,); None for floating-point numbers.
    """

    lon_deg: NDArray[np.float64]
    lat_deg: NDArray[np.float64]
    embedding_dim: int
    dtype: np.dtype[Any]
    rows_per_shard: int
    scale: NDArray[np.float32] | None = None

    @property
    def chunks(self) -> tuple[int, int, int]:
        """Rows, columns and components that are compressed, and read, together."""
        rows = min(CHUNK_ROWS, self.rows_per_shard, len(self.lat_deg))
        return rows, min(CHUNK_COLUMNS, len(self.lon_deg)), min(CHUNK_COMPONENTS, self.embedding_dim)

    @property
    def shards(self) -> tuple[int, int, int]:
        """Rows, columns and components of a file: whole chunks that cover whole rows."""
        rows, columns, components = self.chunks
        return (
            rows * max(1, self.rows_per_shard // rows),
            columns * -(-len(self.lon_deg) // columns),
            components * -(-self.embedding_dim // components),
        )


def require_replaceable(path: Path) -> None:
    """Raises ConfigurationError if something other than a Zarr group is at ``path``."""
    if path.exists() and not (path / "zarr.json").is_file():
        raise ConfigurationError(f"{path}: is there already and is no Zarr group; name another path or remove it")


@contextmanager
def writing_embedding_grid(
    path: Path, content: EmbeddingGridContent, provenance: Mapping[str, Any]
) -> Iterator[WriteRows]:
    """Yields a function that appends rows of a grid, shape (rows, columns, embedding_dim).

    Where there is nothing, floating-point rows hold NaN and int8 rows -128.

    The group holds ``location_embedding`` (lat, lon, embedding), its coordinates with CF attributes, and the
    provenance as attribute ``satclip_provenance``; a mask ``present`` (lat, lon) says which cells hold one.
    What is put into the provenance before the block ends is recorded too. The group appears whole when the block
    ends, in place of a group that was there, and not at all if it ends with an error.

    Raises:
        ConfigurationError: Something other than a Zarr group is at ``path``.
        ValueError: Fewer or more rows than the grid has.
    Source: CF conventions 1.12, https://cfconventions.org/; GeoZarr's conventions ``proj:`` and ``spatial:`` 1,
        https://github.com/zarr-conventions
    """
    require_replaceable(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{uuid4().hex}.partial")
    try:
        group = zarr.open_group(partial, mode="w-", attributes=_attributes(content, provenance))
        _write_coordinates(group, content)
        array, mask = _create_variable(group, content), _create_mask(group, content)
        written = 0

        def write(rows: NDArray[Any]) -> None:
            nonlocal written
            rows = rows.astype(content.dtype, copy=False)
            array[written : written + len(rows)] = rows
            present = rows[..., 0] != INT8_FILL if content.scale is not None else ~np.isnan(rows[..., 0])
            mask[written : written + len(rows)] = present.astype(np.uint8)
            written += len(rows)

        yield write
        if written != len(content.lat_deg):
            raise ValueError(f"{written} rows were written; the grid has {len(content.lat_deg)}")
        group.attrs.update(_attributes(content, provenance))
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Consolidated metadata", category=zarr.errors.ZarrUserWarning)
            zarr.consolidate_metadata(group.store)
        _move_into_place(partial, path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    logger.info("%s: wrote %d rows of %d embeddings", path, written, len(content.lon_deg))


def _attributes(content: EmbeddingGridContent, provenance: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "Conventions": "CF-1.12",
        "title": "Location embeddings of a global grid",
        **spatial_attributes(content.lon_deg, content.lat_deg),
        "satclip_provenance": {"package_versions": package_versions(), **provenance},
    }


def _create_variable(group: zarr.Group, content: EmbeddingGridContent) -> zarr.Array[Any]:
    shape = (len(content.lat_deg), len(content.lon_deg), content.embedding_dim)
    return group.create_array(
        VARIABLE,
        shape=shape,
        chunks=content.chunks,
        shards=content.shards,
        dtype=content.dtype,
        fill_value=np.nan if content.scale is None else INT8_FILL,
        compressors=[BloscCodec(typesize=content.dtype.itemsize, cname="zstd", clevel=1, shuffle="shuffle")],
        dimension_names=DIMENSIONS,
        attributes=_variable_attributes(content),
    )


def _variable_attributes(content: EmbeddingGridContent) -> dict[str, Any]:
    attributes: dict[str, Any] = {
        "long_name": "location embedding",
        "units": "1",
        "grid_mapping": GRID_MAPPING,
        "ancillary_variables": MASK,
        **spatial_attributes(content.lon_deg, content.lat_deg),
    }
    if content.scale is not None:
        attributes["missing_value"] = INT8_FILL
        attributes["comment"] = "multiply by the variable scale, one number per component, to have the embedding"
    return attributes


def _create_mask(group: zarr.Group, content: EmbeddingGridContent) -> zarr.Array[Any]:
    shape = (len(content.lat_deg), len(content.lon_deg))
    return group.create_array(
        MASK,
        shape=shape,
        chunks=(min(content.shards[0], shape[0]), shape[1]),
        dtype="uint8",
        fill_value=0,
        dimension_names=DIMENSIONS[:2],
        attributes={
            "long_name": "whether the cell holds an embedding",
            "flag_values": [0, 1],
            "flag_meanings": "absent present",
            "grid_mapping": GRID_MAPPING,
        },
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
    if content.scale is not None:
        scale = group.create_array(
            "scale",
            shape=content.scale.shape,
            dtype=content.scale.dtype,
            dimension_names=("embedding",),
            attributes={"long_name": "what an int8 of this component is multiplied by", "units": "1"},
        )
        scale[:] = content.scale
    crs = group.create_array(
        GRID_MAPPING,
        shape=(),
        dtype="int32",
        dimension_names=(),
        attributes=crs_attributes(content.lon_deg, content.lat_deg),
    )
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
