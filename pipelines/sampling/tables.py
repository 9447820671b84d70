"""Tables of places and of scenes as GeoParquet, the same bytes for the same rows."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import geopandas as gpd
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import shapely

from pipelines.atomic import replacing
from pipelines.errors import ArtefactError

METADATA_KEY = b"satclip"


def write_table(path: Path, table: pd.DataFrame, record: Mapping[str, object] | None = None) -> None:
    """Writes a table with lon_deg, lat_deg as GeoParquet (WGS 84 points), whole or not at all.

    Args:
        path: The file.
        table: Rows, in the order in which they are stored.
        record: What made the table; JSON in the file's metadata under ``satclip``.
    """
    points = gpd.points_from_xy(table["lon_deg"], table["lat_deg"], crs="EPSG:4326")
    frame = gpd.GeoDataFrame(table.reset_index(drop=True), geometry=points)
    _write(path, pa.table(frame.to_arrow(index=False)), "geometry", ["Point"], record)


def write_geometry_table(
    path: Path, table: pd.DataFrame, geometry_column: str, record: Mapping[str, object] | None = None
) -> None:
    """Writes a table with a column of shapely geometries (WGS 84) as GeoParquet, whole or not at all.

    Args:
        path: The file.
        table: Rows, in the order in which they are stored.
        geometry_column: Name of the column of geometries; kept as WKB.
        record: What made the table; JSON in the file's metadata under ``satclip``.
    """
    geometries = table[geometry_column].to_numpy()
    wkb = pa.array(shapely.to_wkb(geometries, byte_order=1), type=pa.binary())
    arrow = pa.Table.from_pandas(table.drop(columns=geometry_column), preserve_index=False)
    types = sorted({str(kind) for kind in np.unique([each.geom_type for each in geometries])})
    _write(path, arrow.append_column(geometry_column, wkb), geometry_column, types, record)


def _write(
    path: Path, arrow: pa.Table, geometry_column: str, types: Sequence[str], record: Mapping[str, object] | None
) -> None:
    metadata = dict(arrow.schema.metadata or {})
    metadata[b"geo"] = json.dumps(
        {
            "version": "1.1.0",
            "primary_column": geometry_column,
            "columns": {geometry_column: {"encoding": "WKB", "geometry_types": list(types)}},
        },
        sort_keys=True,
    ).encode()
    metadata[METADATA_KEY] = json.dumps(dict(record or {}), sort_keys=True).encode()
    with replacing(path) as partial:
        pq.write_table(arrow.replace_schema_metadata(metadata), partial, compression="zstd")


def read_geometry_table(
    path: Path, asset: str, geometry_column: str, columns: Iterable[str] | None = None
) -> pd.DataFrame:
    """Reads what `write_geometry_table` wrote, geometries as shapely objects.

    Raises:
        ArtefactError: the file does not exist; ``asset`` names what to materialize.
    """
    _validate_exists(path, asset)
    names = pq.read_schema(path).names if columns is None else list(columns)
    frame: pd.DataFrame = pq.read_table(path, columns=[name for name in names if name != geometry_column]).to_pandas()
    if geometry_column in names:
        wkb = pq.read_table(path, columns=[geometry_column]).column(geometry_column)
        frame[geometry_column] = shapely.from_wkb(wkb.to_numpy(zero_copy_only=False))
    return frame


def read_table(path: Path, asset: str) -> pd.DataFrame:
    """Reads a table without its geometry column.

    Raises:
        ArtefactError: the file does not exist; ``asset`` names what to materialize.
    """
    _validate_exists(path, asset)
    names = [name for name in pq.read_schema(path).names if name != "geometry"]
    frame: pd.DataFrame = pq.read_table(path, columns=names).to_pandas()
    return frame


def _validate_exists(path: Path, asset: str) -> None:
    if not path.is_file():
        raise ArtefactError(f"{path}: no such file, expected the table of asset {asset}; materialize {asset} first")


def read_record(path: Path) -> dict[str, object]:
    """The record stored beside the rows by `write_table`."""
    metadata = pq.read_schema(path).metadata or {}
    record: dict[str, object] = json.loads(metadata.get(METADATA_KEY, b"{}"))
    return record
