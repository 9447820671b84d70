"""Tables of points read batch by batch, so that memory does not grow with the table."""

import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipelines.embeddings.coordinates import CoordinateColumns
from pipelines.embeddings.points import GEOMETRY_NAMES, is_url, listed, missing_columns, require_free_names
from pipelines.embeddings.table_files import TableFile, lonlat_series, open_table_file
from pipelines.errors import TableError

STDIN: Final = "-"
_CODE_PATTERN = r"^[+-]?(0\d|\d{19,}$)"


@dataclass(frozen=True)
class PointStream:
    """A table of points whose coordinates have been checked.

    Attributes:
        source: What the table is called in messages.
        num_points: Rows.
        bounds_deg: West, south, east and north end of the points.
        others: Names and types of the columns besides the coordinates.
    """

    source: str
    num_points: int
    bounds_deg: tuple[float, float, float, float]
    others: pa.Schema
    _file: TableFile
    _lonlat_columns: tuple[str, str] | None

    def batches(self, num_rows: int) -> Iterator[tuple[NDArray[np.float64], pa.Table]]:
        """Places (n, 2), longitude first in degrees, with their other columns; ``num_rows`` each, fewer at the end."""
        names = self._lonlat_columns or GEOMETRY_NAMES
        wanted = [*(self._lonlat_columns or ()), *self.others.names]
        tables = self._file.tables(wanted, with_geometry=self._lonlat_columns is None)
        for table in _regrouped(tables, num_rows):
            lon_deg, lat_deg = lonlat_series(table, self.source, names)
            yield CoordinateColumns(self.source, names).add(lon_deg, lat_deg), _typed(table, self.others)


@contextmanager
def open_points(source: str, lon_column: str = "lon", lat_column: str = "lat") -> Iterator[PointStream]:
    """Opens a CSV, Parquet or GeoParquet table after reading all its coordinates once, and checking them.

    The rules are those of `pipelines.embeddings.points.read_points`, save that a column of CSV holds integers,
    decimal numbers or text; one with codes such as 007, or with 19 digits and more, stays text.

    Args:
        source: Path of a file, or ``-`` for the standard input, which is kept in a temporary file meanwhile.
        lon_column: Name of the column of longitudes.
        lat_column: Name of the column of latitudes.

    Raises:
        TableError: The source cannot be read or is empty, a column is missing, or a coordinate is absent, no number
            or out of range. The message names the source, the column, the first rows and the remedy.
    """
    if is_url(source):
        raise TableError(f"{source}: is an address; fetch the table first and name the file, or pipe it in as -")
    if source != STDIN:
        yield _survey(Path(source), source, (lon_column, lat_column))
        return
    with tempfile.NamedTemporaryFile(prefix="satclip_points_") as spooled:
        shutil.copyfileobj(sys.stdin.buffer, spooled)
        spooled.flush()
        yield _survey(Path(spooled.name), "standard input", (lon_column, lat_column))


def _survey(path: Path, source: str, lonlat_columns: tuple[str, str]) -> PointStream:
    file = open_table_file(path, source)
    if len(set(file.columns)) < len(file.columns):
        raise TableError(f"{source}: column names are used twice: {listed(file.columns)}; expected distinct names")
    named = lonlat_columns if set(lonlat_columns) <= set(file.columns) else None
    if named is None and not file.has_geometry:
        raise TableError(missing_columns(file.columns, source, *lonlat_columns))
    if named is None and lonlat_columns != ("lon", "lat"):
        raise TableError(
            f"{missing_columns(file.columns, source, *lonlat_columns)} Leave both out to read the geometry"
        )
    others = [name for name in file.columns if named is None or name not in named]
    require_free_names(others, source, *lonlat_columns)
    types = {name: _ColumnType() for name in others} if file.schema is None else {}
    coordinates = CoordinateColumns(source, named or GEOMETRY_NAMES)
    for table in file.tables([*(named or ()), *types], with_geometry=named is None):
        coordinates.add(*lonlat_series(table, source, named or GEOMETRY_NAMES))
        for name, column_type in types.items():
            column_type.narrow(table.column(name))
    coordinates.require_valid()
    if coordinates.num_rows == 0:
        raise TableError(
            f"{source}: the table has columns {listed(file.columns)} but no rows; expected at least one point"
        )
    if file.schema is None:
        schema = pa.schema([(name, column_type.arrow_type) for name, column_type in types.items()])
    else:
        schema = pa.schema([file.schema.field(name).remove_metadata() for name in others])
    return PointStream(source, coordinates.num_rows, coordinates.bounds_deg, schema, file, named)


class _ColumnType:
    """The narrowest type that every field of a column of text fits."""

    def __init__(self) -> None:
        self._candidates = [pa.int64(), pa.float64()]

    def narrow(self, text: pa.ChunkedArray) -> None:
        if not self._candidates:
            return
        trimmed = pc.utf8_trim_whitespace(text)
        if pc.any(pc.match_substring_regex(trimmed, _CODE_PATTERN)).as_py():
            self._candidates = []
        while self._candidates:
            try:
                pc.cast(trimmed, self._candidates[0])
            except pa.ArrowInvalid:
                del self._candidates[0]
            else:
                return

    @property
    def arrow_type(self) -> pa.DataType:
        return self._candidates[0] if self._candidates else pa.string()


def _typed(table: pa.Table, schema: pa.Schema) -> pa.Table:
    columns = []
    for field in schema:
        column = table.column(field.name)
        if pa.types.is_string(column.type) and not pa.types.is_string(field.type):
            column = pc.cast(pc.utf8_trim_whitespace(column), field.type)
        columns.append(column)
    return pa.table(columns, schema=schema) if columns else table.select([])


def _regrouped(tables: Iterable[pa.Table], num_rows: int) -> Iterator[pa.Table]:
    kept: list[pa.Table] = []
    held = 0
    for table in tables:
        kept.append(table)
        held += len(table)
        while held >= num_rows:
            joined = pa.concat_tables(kept)
            yield joined.slice(0, num_rows)
            kept, held = [joined.slice(num_rows)], held - num_rows
    if held:
        yield pa.concat_tables(kept)
