"""Embeddings as GeoParquet that names the checkpoint it came from."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipelines.embeddings.embedding_file import (
    PROVENANCE_KEY,
    EmbeddingFileContent,
    embedding_columns,
    writing_embeddings,
)
from pipelines.errors import ArtefactError

__all__ = [
    "LocationEmbeddings",
    "embedding_columns",
    "read_embeddings",
    "read_provenance",
    "write_embeddings",
]

REQUIRED_PROVENANCE = ("checkpoint_sha256", "dataset_version")


@dataclass(frozen=True)
class LocationEmbeddings:
    """Embeddings of points, as read from a file.

    Attributes:
        points: Columns ``lon``, ``lat`` (degrees, WGS 84) and whatever the points carried; one row per point.
        embeddings: float32, shape (n, embedding_dim), rows in the order of ``points``.
        provenance: What made them: at least ``checkpoint_sha256`` and ``package_versions``; ``dataset_version`` too in
            files of :func:`write_embeddings`.
    """

    points: pd.DataFrame
    embeddings: NDArray[np.float32]
    provenance: dict[str, Any]

    @property
    def lonlat_deg(self) -> NDArray[np.float64]:
        """Places, shape (n, 2), longitude first."""
        return np.asarray(self.points[["lon", "lat"]], dtype=np.float64)


def write_embeddings(
    path: Path, points: pd.DataFrame, embeddings: NDArray[np.float32], provenance: Mapping[str, Any]
) -> None:
    """Writes points and their embeddings as one GeoParquet file, whole or not at all.

    Columns: ``lon``, ``lat``, the other columns of ``points``, ``emb_000`` and so on (float32), ``geometry`` (WGS 84
    point). The provenance is JSON in the file's metadata under ``satclip_provenance``, ``package_versions`` added
    if absent. Equal input and equal packages give equal bytes.

    Args:
        path: File to write.
        points: Columns ``lon`` and ``lat`` in degrees; further columns are kept.
        embeddings: float32, shape (n, embedding_dim).
        provenance: At least ``checkpoint_sha256`` and ``dataset_version``.

    Raises:
        ValueError: Shapes that do not fit, numbers that are not finite, a column name that is taken, or a provenance
            that lacks a key.
    Source: GeoParquet 1.1, https://geoparquet.org/releases/v1.1.0/
    """
    absent = [key for key in REQUIRED_PROVENANCE if not provenance.get(key)]
    if absent:
        raise ValueError(f"the provenance of embeddings must name {', '.join(absent)}")
    if embeddings.ndim != 2 or len(embeddings) != len(points) or embeddings.dtype != np.float32:
        raise ValueError(
            f"embeddings are {embeddings.dtype} of shape {embeddings.shape}; expected float32 ({len(points)}, e)"
        )
    lonlat_deg = points[["lon", "lat"]].to_numpy(dtype=np.float64)
    carried = pa.Table.from_pandas(points.drop(columns=["lon", "lat"]), preserve_index=False)
    west, south = lonlat_deg.min(axis=0).tolist()
    east, north = lonlat_deg.max(axis=0).tolist()
    content = EmbeddingFileContent(
        others=carried.schema.remove_metadata(),
        embedding_dim=embeddings.shape[1],
        dtype=embeddings.dtype,
        num_points=len(points),
        bounds_deg=(west, south, east, north),
    )
    with writing_embeddings(path, content, provenance) as write:
        write(lonlat_deg, carried, embeddings)


def read_embeddings(path: Path, expect_checkpoint_sha256: str | None = None) -> LocationEmbeddings:
    """Embeddings, their points and what made them.

    Args:
        path: A file of :func:`write_embeddings` or of ``satclip embed``.
        expect_checkpoint_sha256: SHA-256 of the checkpoint at hand; None takes any.

    Raises:
        ArtefactError: The file is missing, is no file of embeddings, or was made by another checkpoint.
    """
    provenance = read_provenance(path)
    if expect_checkpoint_sha256 is not None and provenance["checkpoint_sha256"] != expect_checkpoint_sha256:
        raise ArtefactError(
            f"{path}: was made by checkpoint {provenance['checkpoint_sha256']}, but the one at hand is "
            f"{expect_checkpoint_sha256}; rebuild asset location_embeddings"
        )
    table = pq.read_table(path)
    names = [name for name in table.column_names if name.startswith("emb_") and name.removeprefix("emb_").isdecimal()]
    if not names:
        raise ArtefactError(f"{path}: has no columns emb_000, emb_001, ...; rebuild asset location_embeddings")
    embeddings = np.column_stack([table.column(name).to_numpy() for name in names]).astype(np.float32, copy=False)
    points = table.drop_columns([*names, "geometry"]).replace_schema_metadata(None).to_pandas()
    return LocationEmbeddings(points, embeddings, provenance)


def read_provenance(path: Path) -> dict[str, Any]:
    """What made a file of embeddings, without reading the embeddings.

    Raises:
        ArtefactError: The file is missing or records no provenance.
    """
    try:
        metadata = pq.read_schema(path).metadata or {}
    except FileNotFoundError as error:
        raise ArtefactError(f"{path}: no such file; materialize asset location_embeddings") from error
    except pa.ArrowException as error:
        raise ArtefactError(f"{path}: is not a Parquet file ({error}); rebuild asset location_embeddings") from error
    if PROVENANCE_KEY not in metadata:
        raise ArtefactError(f"{path}: does not record which checkpoint made it; rebuild asset location_embeddings")
    provenance: dict[str, Any] = json.loads(metadata[PROVENANCE_KEY])
    return provenance
