"""Tables of points: read from a file or an address, and checked before anything is computed from them."""

import gzip
import io
import logging
import zlib
from pathlib import Path
from typing import IO, Any, Literal

import geopandas
import numpy as np
import pandas as pd
import pyarrow
import pyarrow.parquet
import requests
from numpy.typing import NDArray
from requests.adapters import HTTPAdapter
from urllib3.util.retry import Retry

from pipelines.errors import TableError

logger = logging.getLogger(__name__)

SUPPORTED = "CSV (comma, semicolon or tab; .gz too), Parquet and GeoParquet"
LON_NAMES = ("lon", "longitude", "lng", "long", "x", "decimallongitude")
LAT_NAMES = ("lat", "latitude", "y", "decimallatitude")
MISSING_WORDS = frozenset({"", "na", "n/a", "nan", "null", "none", "-"})
TIMEOUT_S = (10.0, 120.0)
TRANSIENT_STATUS = (429, 500, 502, 503, 504)
NUM_RETRIES = 3
NUM_SHOWN = 3


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
    content = _fetch(source) if is_url(source) else _open_local(source)
    with content:
        magic = content.read(4)
        content.seek(0)
        try:
            table = _read_parquet(content) if magic == b"PAR1" else _read_csv(content, magic)
        except (pyarrow.ArrowException, ValueError, EOFError, gzip.BadGzipFile, zlib.error) as error:
            first_line = (str(error).splitlines() or [""])[0]
            raise TableError(f"{source}: cannot be read as a table ({first_line}); expected {SUPPORTED}") from error
    if len(table) == 0:
        raise TableError(f"{source}: the table has columns {_listed(table)} but no rows; expected at least one point")
    return table


def numeric_column(
    table: pd.DataFrame, column: str, source: str, empty: Literal["refuse", "nan"] = "refuse"
) -> NDArray[np.float64]:
    """One column as float64, shape (n,).

    Args:
        table: The table.
        column: Name of a column it has.
        source: What to call the table in a message.
        empty: Whether an empty field (also NA, null, nan) is refused or becomes NaN.

    Raises:
        TableError: A field is text or infinite, or is empty and that is refused; the first such rows are named.
    """
    values = table[column]
    missing = values.isna().to_numpy(dtype=bool)
    if not pd.api.types.is_numeric_dtype(values):
        missing = missing | values.astype(str).str.strip().str.lower().isin(MISSING_WORDS).to_numpy(dtype=bool)
    numbers = pd.to_numeric(values.mask(missing), errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
    not_numbers = (np.isnan(numbers) & ~missing) | np.isinf(numbers)
    if not_numbers.any():
        raise TableError(
            f"{source}: column {column!r} must hold finite numbers, but {_rows(not_numbers, values)}; "
            "write plain decimal numbers (no units, no thousands separators)"
        )
    if empty == "refuse" and missing.any():
        raise TableError(
            f"{source}: column {column!r} is empty in {_rows(missing, None)}; fill these in or delete the rows"
        )
    return np.asarray(numbers, dtype=np.float64)


def lonlat_of(
    table: pd.DataFrame,
    source: str,
    lon_column: str = "lon",
    lat_column: str = "lat",
    empty: Literal["refuse", "nan"] = "refuse",
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
    if lon_column in table.columns and lat_column in table.columns:
        lon_deg = numeric_column(table, lon_column, source, empty)
        lat_deg = numeric_column(table, lat_column, source, empty)
        names = (lon_column, lat_column)
    elif isinstance(table, geopandas.GeoDataFrame):
        lon_deg, lat_deg = _lonlat_of_geometry(table, source, empty)
        names = ("longitude of geometry", "latitude of geometry")
    else:
        raise TableError(_missing_columns(table, source, lon_column, lat_column))
    _require_range(lon_deg, 180.0, names[0], source, "longitudes run from -180 to 180; subtract 360 above 180")
    swapped = bool(np.nanmax(np.abs(lon_deg), initial=0.0) <= 90.0)
    hint = (
        f"; if the columns are swapped, set lon_column={lat_column!r} and lat_column={lon_column!r}" if swapped else ""
    )
    _require_range(lat_deg, 90.0, names[1], source, f"latitudes run from -90 to 90{hint}")
    return np.column_stack([lon_deg, lat_deg])


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
    clashing = [column for column in ("lon", "lat") if column in others.columns]
    if clashing:
        raise TableError(
            f"{source}: the coordinates are read from {lon_column!r} and {lat_column!r}, yet the table also has "
            f"{', '.join(map(repr, clashing))}; rename the latter or read the coordinates from there"
        )
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


def _fetch(source: str) -> IO[bytes]:
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


def _lonlat_of_geometry(
    table: geopandas.GeoDataFrame, source: str, empty: Literal["refuse", "nan"]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    geometry = table.geometry
    if geometry.crs is None:
        raise TableError(f"{source}: the geometry has no reference system; set it (EPSG:4326 if it is lon, lat)")
    present = ~(geometry.isna() | geometry.is_empty).to_numpy()
    kinds = sorted(set(geometry[present].geom_type) - {"Point"})
    if kinds:
        raise TableError(f"{source}: the geometry holds {', '.join(kinds)}; expected points (take centroids first)")
    if empty == "refuse" and not present.all():
        raise TableError(f"{source}: the geometry is empty in {_rows(~present, None)}; delete these rows")
    lonlat_deg = np.full((len(table), 2), np.nan)
    points = geometry[present].to_crs("EPSG:4326")
    lonlat_deg[present] = np.column_stack([points.x, points.y])
    return lonlat_deg[:, 0], lonlat_deg[:, 1]


def _require_range(values: NDArray[np.float64], bound: float, column: str, source: str, remedy: str) -> None:
    beyond = np.abs(np.nan_to_num(values, posinf=np.inf, neginf=-np.inf)) > bound
    if beyond.any():
        raise TableError(f"{source}: column {column!r} is out of range: {_rows(beyond, pd.Series(values))}; {remedy}")


def _missing_columns(table: pd.DataFrame, source: str, lon_column: str, lat_column: str) -> str:
    absent = [column for column in (lon_column, lat_column) if column not in table.columns]
    by_lower_name = {str(column).lower(): str(column) for column in reversed(table.columns)}
    lon_found = next((by_lower_name[name] for name in LON_NAMES if name in by_lower_name), None)
    lat_found = next((by_lower_name[name] for name in LAT_NAMES if name in by_lower_name), None)
    example = (lon_found, lat_found) if lon_found and lat_found else ("<longitude column>", "<latitude column>")
    return (
        f"{source}: no column {' and no column '.join(map(repr, absent))}; found columns {_listed(table)}. "
        f"Name the columns: lon_column={example[0]!r}, lat_column={example[1]!r}"
    )


def _listed(table: pd.DataFrame, limit: int = 20) -> str:
    names = [repr(str(column)) for column in table.columns]
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")


def _rows(selected: NDArray[np.bool_], values: "pd.Series[Any] | None") -> str:
    rows = np.flatnonzero(selected)
    first = rows[:NUM_SHOWN].tolist()
    shown = [f"row {row + 1}" + ("" if values is None else f" has {values.iloc[row]!s:.40}") for row in first]
    total = f", {len(rows)} rows in all" if len(rows) > NUM_SHOWN else ""
    return ", ".join(shown) + f"{total} (counted from 1 after the header)"
