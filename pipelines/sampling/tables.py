"""Tables of places as GeoParquet, the same bytes for the same rows."""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

import geopandas as gpd
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

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
    with table_writer(path, record) as write:
        write(table)


@contextmanager
def table_writer(path: Path, record: Mapping[str, object] | None = None) -> Iterator[Callable[[pd.DataFrame], None]]:
    """Writes a table like `write_table`, part after part, all of the same columns; whole or not at all.

    Yields:
        Takes the next rows.
    """
    with replacing(path) as partial, ExitStack() as stack:
        writer: pq.ParquetWriter | None = None

        def write(table: pd.DataFrame) -> None:
            nonlocal writer
            arrow = _to_arrow(table, record)
            if writer is None:
                writer = stack.enter_context(pq.ParquetWriter(partial, arrow.schema, compression="zstd"))
            writer.write_table(arrow.cast(writer.schema))

        yield write


def _to_arrow(table: pd.DataFrame, record: Mapping[str, object] | None) -> pa.Table:
    points = gpd.points_from_xy(table["lon_deg"], table["lat_deg"], crs="EPSG:4326")
    frame = gpd.GeoDataFrame(table.reset_index(drop=True), geometry=points)
    arrow = pa.table(frame.to_arrow(index=False))
    metadata = dict(arrow.schema.metadata or {})
    metadata[b"geo"] = json.dumps(
        {
            "version": "1.1.0",
            "primary_column": "geometry",
            "columns": {"geometry": {"encoding": "WKB", "geometry_types": ["Point"]}},
        },
        sort_keys=True,
    ).encode()
    metadata[METADATA_KEY] = json.dumps(dict(record or {}), sort_keys=True).encode()
    return arrow.replace_schema_metadata(metadata)


def write_plain_table(path: Path, table: pd.DataFrame, rows_per_group: int | None = None) -> None:
    """Writes a table without geometry as Parquet, whole or not at all, the same bytes for the same rows."""
    arrow = pa.Table.from_pandas(table, preserve_index=False).replace_schema_metadata(None)
    with replacing(path) as partial:
        pq.write_table(arrow, partial, compression="zstd", row_group_size=rows_per_group)


def read_table(path: Path, asset: str) -> pd.DataFrame:
    """Reads a table without its geometry column.

    Raises:
        ArtefactError: the file does not exist; ``asset`` names what to materialize.
    """
    if not path.is_file():
        raise ArtefactError(f"{path}: no such file, expected the table of asset {asset}; materialize {asset} first")
    names = [name for name in pq.read_schema(path).names if name != "geometry"]
    frame: pd.DataFrame = pq.read_table(path, columns=names).to_pandas()
    return frame


def read_record(path: Path) -> dict[str, object]:
    """The record stored beside the rows by `write_table`."""
    metadata = pq.read_schema(path).metadata or {}
    record: dict[str, object] = json.loads(metadata.get(METADATA_KEY, b"{}"))
    return record
