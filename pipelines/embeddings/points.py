"""Tables of points: read from a file or an address, and checked before anything is computed from them."""

import gzip
import io
import logging
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import geopandas
import numpy as np
import pandas as pd
import pyarrow
import pyarrow.parquet
import requests
from numpy.typing import NDArray
from requests.adapters import HTTPAdapter
from urllib3.util.retry import Retry

from pipelines.embeddings.coordinates import CoordinateColumns, EmptyFields, NumericColumn
from pipelines.errors import TableError

logger = logging.getLogger(__name__)

SUPPORTED = "CSV (comma, semicolon or tab; .gz too), Parquet and GeoParquet"
LON_NAMES = ("lon", "longitude", "lng", "long", "x", "decimallongitude")
LAT_NAMES = ("lat", "latitude", "y", "decimallatitude")
GEOMETRY_NAMES = ("longitude of geometry", "latitude of geometry")
TIMEOUT_S = (10.0, 120.0)
TRANSIENT_STATUS = (429, 500, 502, 503, 504)
NUM_RETRIES = 3


def is_url(source: str) -> bool:
    """True if the source is an http or https address rather than a path."""
    return source.lower().startswith(("http://", "https://"))


def read_table(source: str) -> pd.DataFrame:
    """The table at a path or address as it is, without any check of its coordinates.

    The format is told by the content, not by the name. In CSV only an empty field is missing, so that a country code
    "NA" stays one. The table of a GeoParquet file is a GeoDataFrame in its own reference system.

    Raises:
        TableError: The source cannot be fetched or read, or has no rows.
    """
    content = fetch_table(source) if is_url(source) else _open_local(source)
    with content:
        magic = content.read(4)
        content.seek(0)
        try:
            table = _read_parquet(content) if magic == b"PAR1" else _read_csv(content, magic)
        except (pyarrow.ArrowException, ValueError, EOFError, gzip.BadGzipFile, zlib.error) as error:
            first_line = (str(error).splitlines() or [""])[0]
            raise TableError(f"{source}: cannot be read as a table ({first_line}); expected {SUPPORTED}") from error
    if len(table) == 0:
        raise TableError(
            f"{source}: the table has columns {listed(list(table.columns))} but no rows; expected at least one point"
        )
    return table


def numeric_column(table: pd.DataFrame, column: str, source: str, empty: EmptyFields = "refuse") -> NDArray[np.float64]:
    """One column as float64, shape (n,).

    Args:
        table: The table.
        column: Name of a column it has.
        source: What to call the table in a message.
        empty: Whether an empty field (also NA, null, nan) is refused or becomes NaN.

    Raises:
        TableError: A field is text or infinite, or is empty and that is refused; the first such rows are named.
    """
    taken = NumericColumn(source, column, empty)
    numbers = taken.add(table[column])
    taken.require_valid()
    return numbers


def lonlat_of(
    table: pd.DataFrame,
    source: str,
    lon_column: str = "lon",
    lat_column: str = "lat",
    empty: EmptyFields = "refuse",
) -> NDArray[np.float64]:
    """Places of a table, shape (n, 2), longitude first in degrees, from its columns or else from its geometry.

    Args:
        table: What :func:`read_table` returned.
        source: What to call the table in a message.
        lon_column: Name of the column of longitudes.
        lat_column: Name of the column of latitudes.
        empty: Whether a row without coordinates is refused or becomes NaN.

    Raises:
        TableError: A column is missing and there is no geometry, or a coordinate is no number or out of range.
    """
    lon_deg, lat_deg, names = coordinate_series(table, source, lon_column, lat_column)
    coordinates = CoordinateColumns(source, names, empty)
    lonlat_deg = coordinates.add(lon_deg, lat_deg)
    coordinates.require_valid()
    return lonlat_deg


def coordinate_series(
    table: pd.DataFrame, source: str, lon_column: str, lat_column: str
) -> tuple["pd.Series[Any]", "pd.Series[Any]", tuple[str, str]]:
    """Longitudes and latitudes of a table as they stand in it, and what to call them in a message.

    Raises:
        TableError: A column is missing and there is no geometry, or the geometry has no reference system or is no
            points.
    """
    if lon_column in table.columns and lat_column in table.columns:
        return table[lon_column], table[lat_column], (lon_column, lat_column)
    if isinstance(table, geopandas.GeoDataFrame):
        lon_deg, lat_deg = _lonlat_of_geometry(table, source)
        return lon_deg, lat_deg, GEOMETRY_NAMES
    raise TableError(missing_columns(list(table.columns), source, lon_column, lat_column))


def read_points(source: str, lon_column: str = "lon", lat_column: str = "lat") -> pd.DataFrame:
    """Points of a CSV, Parquet or GeoParquet table as columns ``lon``, ``lat`` (float64, degrees, WGS 84) and the rest.

    Coordinates come from the two named columns; where a GeoParquet file lacks them, from its point geometry,
    reprojected to WGS 84. Every other column is kept as it is, rows keep their order, the geometry is left out.

    Args:
        source: Path, or http(s) address.
        lon_column: Name of the column of longitudes.
        lat_column: Name of the column of latitudes.

    Raises:
        TableError: The source cannot be read or is empty, a column is missing, or a coordinate is absent, no number
            or out of range. The message names the source, the column, the first rows and the remedy.
    """
    table = read_table(source)
    lonlat_deg = lonlat_of(table, source, lon_column, lat_column)
    geometries = list(table.columns[table.dtypes == "geometry"]) if isinstance(table, geopandas.GeoDataFrame) else []
    named = {lon_column, lat_column} if {lon_column, lat_column} <= set(table.columns) else set()
    others = pd.DataFrame(table.drop(columns=[*geometries, *named]))
    require_free_names(list(others.columns), source, lon_column, lat_column)
    points = pd.DataFrame({"lon": lonlat_deg[:, 0], "lat": lonlat_deg[:, 1]})
    logger.info("%s: %d points, %d further columns", source, len(points), len(others.columns))
    return pd.concat([points, others.reset_index(drop=True)], axis="columns")


def _open_local(source: str) -> IO[bytes]:
    try:
        return Path(source).open("rb")
    except FileNotFoundError as error:
        raise TableError(f"{source}: no such file; check the path (relative paths start at {Path.cwd()})") from error
    except OSError as error:
        raise TableError(f"{source}: cannot be opened ({error.strerror}); expected a file: {SUPPORTED}") from error


def fetch_table(source: str) -> IO[bytes]:
    """The content of an address; TableError if it cannot be fetched."""
    retry = Retry(total=NUM_RETRIES, backoff_factor=0.3, status_forcelist=TRANSIENT_STATUS, raise_on_status=False)
    with requests.Session() as session:
        session.mount("http://", HTTPAdapter(max_retries=retry))
        session.mount("https://", HTTPAdapter(max_retries=retry))
        try:
            response = session.get(source, timeout=TIMEOUT_S)
        except requests.RequestException as error:
            reason = type(error).__name__
            raise TableError(f"{source}: cannot be fetched ({reason}); check the address and the server") from error
    if response.status_code != requests.codes.ok:
        raise TableError(
            f"{source}: the server answered HTTP {response.status_code} {response.reason}; check the address, and that "
            "the table may be read without signing in"
        )
    return io.BytesIO(response.content)


def _read_parquet(content: IO[bytes]) -> pd.DataFrame:
    metadata = pyarrow.parquet.read_schema(content).metadata or {}
    content.seek(0)
    table: pd.DataFrame = geopandas.read_parquet(content) if b"geo" in metadata else pd.read_parquet(content)
    return table


def _read_csv(content: IO[bytes], magic: bytes) -> pd.DataFrame:
    plain = io.BytesIO(gzip.decompress(content.read())) if magic[:2] == b"\x1f\x8b" else content
    header = plain.readline().decode("utf-8-sig")
    plain.seek(0)
    separator = max(",;\t", key=header.count)
    table = pd.read_csv(
        plain,
        sep=separator,
        keep_default_na=False,
        na_values=[""],
        encoding="utf-8-sig",
        low_memory=False,
        skipinitialspace=True,
    )
    if not isinstance(table.index, pd.RangeIndex):
        raise ValueError(f"rows have more fields than the header's {len(table.columns)}")
    return table.rename(columns=lambda name: str(name).strip())


def _lonlat_of_geometry(table: geopandas.GeoDataFrame, source: str) -> tuple["pd.Series[Any]", "pd.Series[Any]"]:
    geometry = table.geometry
    if geometry.crs is None:
        raise TableError(f"{source}: the geometry has no reference system; set it (EPSG:4326 if it is lon, lat)")
    present = ~(geometry.isna() | geometry.is_empty).to_numpy()
    kinds = sorted(set(geometry[present].geom_type) - {"Point"})
    if kinds:
        raise TableError(f"{source}: the geometry holds {', '.join(kinds)}; expected points (take centroids first)")
    lonlat_deg = np.full((len(table), 2), np.nan)
    points = geometry[present].to_crs("EPSG:4326")
    lonlat_deg[present] = np.column_stack([points.x, points.y])
    return pd.Series(lonlat_deg[:, 0]), pd.Series(lonlat_deg[:, 1])


def require_free_names(others: Sequence[str], source: str, lon_column: str, lat_column: str) -> None:
    """Raises TableError if a column that is kept is called ``lon`` or ``lat``, as the coordinates will be."""
    clashing = [column for column in ("lon", "lat") if column in others]
    if clashing:
        raise TableError(
            f"{source}: the coordinates are read from {lon_column!r} and {lat_column!r}, yet the table also has "
            f"{', '.join(map(repr, clashing))}; rename the latter or read the coordinates from there"
        )


def missing_columns(columns: Sequence[Any], source: str, lon_column: str, lat_column: str) -> str:
    """What to say of a table without the named columns: those it has, and which of them may be meant."""
    absent = [column for column in (lon_column, lat_column) if column not in columns]
    by_lower_name = {str(column).lower(): str(column) for column in reversed(columns)}
    lon_found = next((by_lower_name[name] for name in LON_NAMES if name in by_lower_name), None)
    lat_found = next((by_lower_name[name] for name in LAT_NAMES if name in by_lower_name), None)
    example = (lon_found, lat_found) if lon_found and lat_found else ("<longitude column>", "<latitude column>")
    return (
        f"{source}: no column {' and no column '.join(map(repr, absent))}; found columns {listed(columns)}. "
        f"Name the columns: lon_column={example[0]!r}, lat_column={example[1]!r} "
        f"(--lon-column {example[0]} --lat-column {example[1]})"
    )


def listed(columns: Sequence[Any], limit: int = 20) -> str:
    """Names of columns for a message, the first of them if there are many."""
    names = [repr(str(column)) for column in columns]
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")
