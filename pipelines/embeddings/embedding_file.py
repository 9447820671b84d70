"""Embeddings as GeoParquet, written group by group."""

import json
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pyproj
import shapely
from numpy.typing import NDArray

from pipelines.atomic import replacing
from pipelines.provenance import package_versions

logger = logging.getLogger(__name__)

PROVENANCE_KEY: Final = b"satclip_provenance"
GEOPARQUET_VERSION: Final = "1.1.0"

WriteGroup = Callable[[NDArray[np.float64], pa.Table, NDArray[Any]], None]


@dataclass(frozen=True)
class EmbeddingFileContent:
    """What a file of embeddings will hold.

    Attributes:
        others: Names and types of the columns between the coordinates and the embedding.
        embedding_dim: Length of an embedding.
        dtype: float32 or float16.
        num_points: Rows.
        bounds_deg: West, south, east and north end of the points.

    Raises:
        ValueError: A column has a name that is taken.
    """

    others: pa.Schema
    embedding_dim: int
    dtype: np.dtype[Any]
    num_points: int
    bounds_deg: tuple[float, float, float, float]

    def __post_init__(self) -> None:
        taken = sorted({"geometry", *embedding_columns(self.embedding_dim)} & set(self.others.names))
        if taken:
            raise ValueError(f"points already have a column {', '.join(taken)}; rename it before writing embeddings")

    def schema(self, provenance: Mapping[str, Any]) -> pa.Schema:
        """Columns and metadata of the file."""
        recorded = {"package_versions": package_versions(), **provenance, "num_points": self.num_points}
        number = pa.from_numpy_dtype(self.dtype)
        return pa.schema(
            [
                ("lon", pa.float64()),
                ("lat", pa.float64()),
                *self.others,
                *((name, number) for name in embedding_columns(self.embedding_dim)),
                ("geometry", pa.binary()),
            ],
            {
                b"geo": _geo_metadata(self.bounds_deg),
                PROVENANCE_KEY: json.dumps(recorded, sort_keys=True, allow_nan=False).encode(),
            },
        )


@contextmanager
def writing_embeddings(
    path: Path, content: EmbeddingFileContent, provenance: Mapping[str, Any]
) -> Iterator[WriteGroup]:
    """Yields a function that appends points, their other columns and their embeddings, one row group per call.

    The file appears whole when the block ends, and not at all if it ends with an error.

    Raises:
        ValueError: Shapes that do not fit, numbers that are not finite, or another number of points than announced.
    Source: GeoParquet 1.1, https://geoparquet.org/releases/v1.1.0/
    """
    names = embedding_columns(content.embedding_dim)
    schema = content.schema(provenance)
    written = 0
    with replacing(path) as partial:
        with pq.ParquetWriter(
            partial,
            schema,
            compression=_compression(schema, names, content.dtype),
            use_dictionary=list(content.others.names),
            use_byte_stream_split=["lon", "lat", *names],
            write_statistics=["lon", "lat", *content.others.names],
        ) as parquet:

            def write(lonlat_deg: NDArray[np.float64], others: pa.Table, embeddings: NDArray[Any]) -> None:
                nonlocal written
                parquet.write_table(_table(schema, content, lonlat_deg, others, embeddings), max(len(lonlat_deg), 1))
                written += len(lonlat_deg)

            yield write
        if written != content.num_points:
            raise ValueError(f"{written} points were written; {content.num_points} were announced")
    logger.info("%s: wrote %d embeddings of %d numbers", path, written, content.embedding_dim)


def _compression(schema: pa.Schema, embedding_names: list[str], dtype: np.dtype[Any]) -> dict[str, str]:
    """Codecs by column: float16 embeddings shrink by a twelfth at most, for a quarter of the time of writing them."""
    incompressible = set(embedding_names) if dtype == np.float16 else set()
    return {name: "none" if name in incompressible else "zstd" for name in schema.names}


def embedding_columns(embedding_dim: int) -> list[str]:
    """Names of the columns of an embedding, in order: emb_000, emb_001 and so on."""
    width = max(3, len(str(embedding_dim - 1)))
    return [f"emb_{index:0{width}d}" for index in range(embedding_dim)]


def _table(
    schema: pa.Schema,
    content: EmbeddingFileContent,
    lonlat_deg: NDArray[np.float64],
    others: pa.Table,
    embeddings: NDArray[Any],
) -> pa.Table:
    if embeddings.shape != (len(lonlat_deg), content.embedding_dim):
        raise ValueError(
            f"embeddings have shape {embeddings.shape}; expected ({len(lonlat_deg)}, {content.embedding_dim})"
        )
    with np.errstate(over="ignore"):
        stored = embeddings.astype(content.dtype, copy=False)
    finite = np.isfinite(stored).all(axis=1)
    if not finite.all():
        first = int(np.flatnonzero(~finite)[0])
        raise ValueError(
            f"embeddings hold a number that is not finite in {content.dtype}, first at lon, lat "
            f"{lonlat_deg[first].tolist()}"
        )
    columns = [
        *lonlat_deg.T.copy(),
        *others.columns,
        *_transposed(stored),
        pa.array(shapely.to_wkb(shapely.points(lonlat_deg), byte_order=1), type=pa.binary()),
    ]
    return pa.table(columns, schema=schema)


def _transposed(embeddings: NDArray[Any]) -> NDArray[Any]:
    """The columns of embeddings one after the other in memory; PyTorch does it in a quarter of NumPy's time."""
    import torch

    columns: NDArray[Any] = torch.from_numpy(np.ascontiguousarray(embeddings)).T.contiguous().numpy()
    return columns


def _geo_metadata(bounds_deg: tuple[float, float, float, float]) -> bytes:
    geometry = {
        "encoding": "WKB",
        "geometry_types": ["Point"],
        "crs": pyproj.CRS.from_epsg(4326).to_json_dict(),
        "bbox": list(bounds_deg),
    }
    document = {"version": GEOPARQUET_VERSION, "primary_column": "geometry", "columns": {"geometry": geometry}}
    return json.dumps(document, sort_keys=True).encode()
