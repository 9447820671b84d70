"""Files of points, read as tables of a few megabytes."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Protocol

import geopandas
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq
import pyproj
import shapely

from pipelines.embeddings.points import GEOMETRY_NAMES, SUPPORTED, coordinate_series
from pipelines.errors import TableError

BLOCK_BYTES: Final = 1 << 20
"""Of which the reader of CSV holds 32 in advance."""
PARQUET_ROWS: Final = 1 << 16
_PANDAS_INDEX = "__index_level_"
_GEOMETRY = "__geometry__"
_CRS_KEY = b"crs"


class TableFile(Protocol):
    """A file of rows that can be read again and again.

    Attributes:
        columns: Names of its columns, without geometries.
        schema: Types of its columns; None if every column is text.
        has_geometry: Whether there is a geometry to take coordinates from.
    """

    columns: list[str]
    schema: pa.Schema | None
    has_geometry: bool

    def tables(self, columns: Sequence[str], with_geometry: bool = False) -> Iterator[pa.Table]:
        """Some of the columns, a few megabytes at a time; with the geometry if that is asked for."""


def open_table_file(path: Path, source: str) -> TableFile:
    """The file behind a path, its format told by the content.

    Raises:
        TableError: There is no such file, or it is no table.
    """
    if not path.exists():
        raise TableError(f"{source}: no such file; check the path (relative paths start at {Path.cwd()})")
    if not path.is_file():
        raise TableError(f"{source}: is no file; expected {SUPPORTED}")
    with _told_as_table_error(source):
        with path.open("rb") as handle:
            magic = handle.read(4)
        if magic != b"PAR1":
            return _CsvFile(path, source, "gzip" if magic[:2] == b"\x1f\x8b" else None)
        schema = pq.read_schema(path)
        kind = _GeoParquetFile if b"geo" in (schema.metadata or {}) else _ParquetFile
        return kind(path, source, schema)


class _CsvFile:
    schema = None
    has_geometry = False

    def __init__(self, path: Path, source: str, compression: str | None) -> None:
        self.path, self.source, self.compression = path, source, compression
        with pa.input_stream(path, compression=compression) as stream:
            header = bytes(stream.read(BLOCK_BYTES)).partition(b"\n")[0].decode("utf-8-sig")
        self.separator = max(",;\t", key=header.count)
        with self._reader(None) as reader:
            self._raw_names = list(reader.schema.names)
        self.columns = [name.strip() for name in self._raw_names]

    def _reader(self, raw_names: Sequence[str] | None) -> pyarrow.csv.CSVStreamingReader:
        return pyarrow.csv.open_csv(
            pa.input_stream(self.path, compression=self.compression),
            pyarrow.csv.ReadOptions(block_size=BLOCK_BYTES),
            pyarrow.csv.ParseOptions(delimiter=self.separator, newlines_in_values=True),
            pyarrow.csv.ConvertOptions(
                include_columns=raw_names,
                column_types=None if raw_names is None else dict.fromkeys(raw_names, pa.string()),
                null_values=[""],
                strings_can_be_null=True,
            ),
        )

    def tables(self, columns: Sequence[str], with_geometry: bool = False) -> Iterator[pa.Table]:
        del with_geometry
        raw_names = dict(zip(self.columns, self._raw_names, strict=True))
        with _told_as_table_error(self.source), self._reader([raw_names[name] for name in columns]) as reader:
            for batch in reader:
                yield pa.table(batch.columns, names=list(columns))


class _ParquetFile:
    has_geometry = False

    def __init__(self, path: Path, source: str, schema: pa.Schema) -> None:
        self.path, self.source, self.schema = path, source, schema
        self.columns = [name for name in schema.names if not name.startswith(_PANDAS_INDEX)]

    def tables(self, columns: Sequence[str], with_geometry: bool = False) -> Iterator[pa.Table]:
        del with_geometry
        with (
            _told_as_table_error(self.source),
            pq.ParquetFile(self.path, buffer_size=BLOCK_BYTES, pre_buffer=False) as file,
        ):
            for batch in file.iter_batches(batch_size=PARQUET_ROWS, columns=list(columns)):
                yield pa.Table.from_batches([batch]).select(list(columns)).replace_schema_metadata(None)


class _GeoParquetFile(_ParquetFile):
    has_geometry = True

    def __init__(self, path: Path, source: str, schema: pa.Schema) -> None:
        super().__init__(path, source, schema)
        document = json.loads(schema.metadata[b"geo"])
        self.primary: str = document["primary_column"]
        self.geometry: dict[str, Any] = document["columns"][self.primary]
        self.columns = [name for name in self.columns if name not in document["columns"]]

    def tables(self, columns: Sequence[str], with_geometry: bool = False) -> Iterator[pa.Table]:
        if not with_geometry:
            yield from super().tables(columns)
            return
        if self.geometry.get("encoding") != "WKB":
            raise TableError(
                f"{self.source}: geometry is encoded as {self.geometry.get('encoding')!r}; expected 'WKB', as "
                "geopandas writes by default"
            )
        crs = json.dumps(self.geometry.get("crs", "OGC:CRS84"))
        for table in super().tables([*columns, self.primary]):
            yield table.rename_columns([*columns, _GEOMETRY]).replace_schema_metadata({_CRS_KEY: crs})


def lonlat_series(
    table: pa.Table, source: str, lonlat_columns: tuple[str, str]
) -> tuple["pd.Series[Any]", "pd.Series[Any]"]:
    """Longitudes and latitudes of a table of a `TableFile`, from its geometry if it was asked for.

    Raises:
        TableError: The geometry has no reference system or is no points.
    """
    if _GEOMETRY not in table.column_names:
        lon_deg, lat_deg = (_numbers(table.column(name)) for name in lonlat_columns)
        return lon_deg, lat_deg
    crs = json.loads(table.schema.metadata[_CRS_KEY])
    geometry = geopandas.GeoSeries(shapely.from_wkb(table.column(_GEOMETRY).to_numpy()))
    frame = geopandas.GeoDataFrame(geometry=geometry if crs is None else geometry.set_crs(pyproj.CRS(crs)))
    lon_deg, lat_deg, _ = coordinate_series(frame, source, *GEOMETRY_NAMES)
    return lon_deg, lat_deg


def _numbers(column: pa.ChunkedArray) -> "pd.Series[Any]":
    if pa.types.is_string(column.type):
        try:
            column = pc.cast(pc.utf8_trim_whitespace(column), pa.float64())
        except pa.ArrowInvalid:
            return column.to_pandas()
    return column.to_pandas()


@contextmanager
def _told_as_table_error(source: str) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, OSError, UnicodeDecodeError, KeyError) as error:
        first_line = (str(error).splitlines() or [""])[0]
        raise TableError(f"{source}: cannot be read as a table ({first_line}); expected {SUPPORTED}") from error
