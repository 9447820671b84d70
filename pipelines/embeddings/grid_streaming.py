"""Embeddings of a global grid, computed and written rows by rows."""

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipelines.embeddings.embedding_file import EmbeddingFileContent, writing_embeddings
from pipelines.embeddings.embedding_grid import CHUNK_ROWS, EmbeddingGridContent, writing_embedding_grid
from pipelines.embeddings.grid import GlobalGrid
from pipelines.embeddings.streaming import EmbeddingOptions, as_stored, computation_record
from pipelines.errors import ConfigurationError
from pipelines.progress import Progress
from pipelines.sampling.land import is_land
from satclip_model.location_encoder import LocationEncoder

logger = logging.getLogger(__name__)

ZARR_SUFFIX: Final = ".zarr"
MIN_SHARE_OF_GRID: Final = 0.5
"""Below this share of cells wanted, encoding them one by one is quicker than the whole rows."""


def embed_grid(
    encoder: LocationEncoder,
    grid: GlobalGrid,
    path: Path,
    options: EmbeddingOptions,
    provenance: Mapping[str, Any],
    land_only: bool = False,
) -> None:
    """Writes the embeddings of a grid's cell centers, rows from north to south: as Zarr v3 or as GeoParquet.

    Args:
        encoder: Computes in the type of its weights.
        grid: The cells.
        path: To write, whole or not at all: a folder if it ends in ``.zarr``, with dimensions lat, lon and embedding;
            else a GeoParquet file of points.
        options: Storage, length and batches; a batch is at least one row of the grid.
        provenance: What `pipelines.embeddings.streaming.open_location_encoder` says; how the embeddings were computed
            is added.
        land_only: Whether cells whose center is not on land are left out (Parquet) or NaN (Zarr).

    Raises:
        ConfigurationError: No cell is on land, a number is too large for the stored type, or something other than a
            Zarr group is in the place of one.
    """
    rows_per_block = max(1, options.points_per_batch(encoder) // grid.shape[1])
    if path.suffix == ZARR_SUFFIX and rows_per_block > CHUNK_ROWS:
        rows_per_block -= rows_per_block % CHUNK_ROWS
    rows = _GridRows(grid, rows_per_block, land_only, encoder, options)
    recorded = {
        **provenance,
        **computation_record(encoder, options),
        "resolution_deg": grid.resolution_deg,
        "lat_bounds_deg": list(grid.lat_bounds_deg),
        "land_only": land_only,
    }
    if path.suffix == ZARR_SUFFIX:
        _write_zarr(rows, path, recorded)
    else:
        _write_parquet(rows, path, recorded)


@dataclass(frozen=True)
class _GridRows:
    """Rows of a grid, a few at a time; which of their cells are wanted, and their embeddings."""

    grid: GlobalGrid
    rows_per_block: int
    land_only: bool
    encoder: LocationEncoder
    options: EmbeddingOptions

    def blocks(self) -> Iterator[tuple[NDArray[np.float64], NDArray[np.bool_]]]:
        """Latitudes of the next rows, and whether each of their cells is wanted, shape (rows * columns,)."""
        for start in range(0, self.grid.shape[0], self.rows_per_block):
            lat_deg = self.grid.lat_deg[start : start + self.rows_per_block]
            if self.land_only:
                yield lat_deg, is_land(self.grid.lonlat_deg_of_rows(lat_deg))
            else:
                yield lat_deg, np.ones(len(lat_deg) * self.grid.shape[1], dtype=np.bool_)

    def encode(self, lat_deg: NDArray[np.float64], wanted: NDArray[np.bool_]) -> NDArray[np.floating[Any]]:
        """Embeddings of the wanted cells, as they are stored."""
        normalize = self.options.normalize
        if wanted.mean() < MIN_SHARE_OF_GRID:
            embeddings = self.encoder.encode(self.grid.lonlat_deg_of_rows(lat_deg)[wanted], normalize=normalize)
        else:
            grid = self.encoder.encode_grid(self.grid.lon_deg, lat_deg, normalize=normalize)
            embeddings = grid.reshape(len(wanted), -1)
            embeddings = embeddings if wanted.all() else embeddings[wanted]
        return as_stored(embeddings, self.options)

    def extent(self) -> tuple[int, tuple[float, float, float, float]]:
        """Number of wanted cells, and west, south, east and north end of their centers."""
        num_points, lowest, highest = 0, np.full(2, np.inf), np.full(2, -np.inf)
        for lat_deg, wanted in self.blocks():
            if wanted.any():
                places = self.grid.lonlat_deg_of_rows(lat_deg)[wanted]
                num_points += len(places)
                lowest, highest = np.minimum(lowest, places.min(axis=0)), np.maximum(highest, places.max(axis=0))
        if num_points == 0:
            raise ConfigurationError(
                f"no cell center of a {self.grid.resolution_deg} degree grid within latitudes "
                f"{self.grid.lat_bounds_deg} is on land; use a finer grid or wider bounds"
            )
        return num_points, (float(lowest[0]), float(lowest[1]), float(highest[0]), float(highest[1]))


def _write_parquet(rows: _GridRows, path: Path, provenance: Mapping[str, Any]) -> None:
    num_points, bounds_deg = rows.extent()
    embedding_dim = rows.encoder.config.embedding_dim
    content = EmbeddingFileContent(pa.schema([]), embedding_dim, np.dtype(rows.options.store), num_points, bounds_deg)
    progress = Progress(logger, "embeddings", num_points, "cells")
    with writing_embeddings(path, content, provenance) as write:
        for lat_deg, wanted in rows.blocks():
            if wanted.any():
                write(rows.grid.lonlat_deg_of_rows(lat_deg)[wanted], pa.table({}), rows.encode(lat_deg, wanted))
                progress.advance(int(wanted.sum()))


def _write_zarr(rows: _GridRows, path: Path, provenance: Mapping[str, Any]) -> None:
    num_rows, num_columns = rows.grid.shape
    embedding_dim = rows.encoder.config.embedding_dim
    store = np.dtype(rows.options.store)
    content = EmbeddingGridContent(rows.grid.lon_deg, rows.grid.lat_deg, embedding_dim, store, rows.rows_per_block)
    progress = Progress(logger, "embeddings", num_rows * num_columns, "cells")
    with writing_embedding_grid(path, content, provenance) as write:
        for lat_deg, wanted in rows.blocks():
            cells = np.full((len(wanted), embedding_dim), np.nan, dtype=store)
            if wanted.any():
                cells[wanted] = rows.encode(lat_deg, wanted)
            write(cells.reshape(len(lat_deg), num_columns, embedding_dim))
            progress.advance(len(wanted))
