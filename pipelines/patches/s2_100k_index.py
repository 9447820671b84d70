"""The index of S2-100K: fn, lon, lat by name in any order, and whatever other columns came along."""

import io
import re
import warnings
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, Final

import numpy as np
import pandas as pd

from pipelines.errors import DatasetError
from pipelines.patches.rows import PatchRow

INDEX_COLUMNS: Final = ("fn", "lon", "lat")
RESTORED_TEXT: Final = ("item_id", "datetime", "platform", "mgrs_tile", "processing_baseline", "offset_source")
RESTORED_NUMBERS: Final = (
    "place_lon_deg", "place_lat_deg", "row_px", "col_px", "boa_add_offset", "scene_cloud_cover_percent",
    "unclear_fraction", "snow_fraction", "relative_orbit", "sun_zenith_deg", "sun_azimuth_deg",
)  # fmt: skip
RESTORED: Final = RESTORED_TEXT + RESTORED_NUMBERS
"""Columns of a place that an export writes and an import takes back; addresses are never taken."""
HASH_COLUMN: Final = "sha256"
_OWN: Final = ("place_id", "lon_deg", "lat_deg", "geometry", "valid", "reason", "rejections", "href_base", "hrefs")
"""Names that only the store may fill."""
_INTEGERS: Final = ("row_px", "col_px", "boa_add_offset", "relative_orbit")
_OFFSETS: Final = (0, -1000)
_ADDRESS: Final = re.compile(r"(?P<scheme>[A-Za-z][\w+.-]*://)(?:[^/@\s]*@)?(?P<rest>[^?#\s]*)\S*")


def read_index(content: bytes, path: Path) -> pd.DataFrame:
    """Reads an index; every column but lon and lat is text, in the file's order of rows.

    Args:
        content: Bytes of the file.
        path: What to call it in errors.

    Raises:
        DatasetError: not a CSV file, no row, a column missing or twice, or a coordinate out of range.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)  # rows longer than the header would be cut
            index = pd.read_csv(
                io.BytesIO(content), dtype=str, keep_default_na=False, skipinitialspace=True, index_col=False
            )
    except (ValueError, pd.errors.ParserError, pd.errors.ParserWarning) as error:
        raise DatasetError(f"{path}: cannot be read as CSV ({error}); correct the file") from error
    index.columns = [str(name).strip() for name in index.columns]
    missing = [name for name in INDEX_COLUMNS if name not in index]
    if missing:
        raise DatasetError(f"{path}: columns {missing} missing, found {list(index.columns)}; expected {INDEX_COLUMNS}")
    if index.columns.duplicated().any() or index.empty:
        raise DatasetError(
            f"{path}: {len(index)} rows of columns {list(index.columns)}, expected a row at least, each column once"
        )
    lonlat_deg = np.array([[_number(text) for text in index[name]] for name in ("lon", "lat")])
    wrong = ~(np.abs(lonlat_deg) <= [[180.0], [90.0]]).all(axis=0)
    if wrong.any():
        row = index[wrong].iloc[0]
        raise DatasetError(
            f"{path}: {row['fn']} lies at lon {row['lon'] or '?'}, lat {row['lat'] or '?'}, expected lon in "
            "[-180, 180] and lat in [-90, 90]; correct the row or remove it"
        )
    index["lon"], index["lat"] = lonlat_deg
    return index


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return float("nan")


def is_safe_name(name: str) -> bool:
    """Whether an index's fn is a plain file name."""
    return bool(name) and PurePosixPath(name).name == name and name not in (".", "..") and "\\" not in name


def restored_columns(index: pd.DataFrame) -> dict[str, list[Any]]:
    """The columns of `RESTORED` that an index has, typed as in `PatchRow`; empty fields take its defaults.

    Raises:
        DatasetError: a number or time that is none, or an offset other than 0 and -1000.
    """
    empty = PatchRow(-1, float("nan"), float("nan"), float("nan"), float("nan"), valid=False)
    found: dict[str, list[Any]] = {}
    for name in RESTORED:
        if name in index:
            restore = strip_secrets if name in RESTORED_TEXT else partial(_restore_number, name)
            found[name] = [restore(text) if text else getattr(empty, name) for text in index[name]]
    if "datetime" in index:
        times = index["datetime"][index["datetime"] != ""]
        wrong = times[pd.to_datetime(times, utc=True, format="ISO8601", errors="coerce").isna()]
        if len(wrong):
            raise DatasetError(f"index.csv: datetime is {wrong.iloc[0]!r}, expected ISO 8601; correct the column")
    return found


def _restore_number(name: str, text: str) -> float | int:
    value = _number(text)
    if np.isinf(value) or (name in _INTEGERS and not value.is_integer()) or (value != value and text.lower() != "nan"):
        kind = "an integer" if name in _INTEGERS else "a number"
        raise DatasetError(f"index.csv: {name} is {text!r}, expected {kind}; correct or remove the column")
    if name == "boa_add_offset" and value not in _OFFSETS:
        raise DatasetError(f"index.csv: boa_add_offset is {text}, expected one of {_OFFSETS}; correct the column")
    return int(value) if name in _INTEGERS else value


def kept_columns(index: pd.DataFrame) -> pd.DataFrame:
    """The other columns of an index as text, with place_id (the row), lon_deg, lat_deg; addresses without their query.

    A signed address keeps host and path and loses user, query and fragment, so that no token is stored.
    """
    kept = pd.DataFrame({"place_id": range(len(index)), "lon_deg": index["lon"], "lat_deg": index["lat"]})
    for name in index.columns:
        if name in (*INDEX_COLUMNS, *RESTORED, *_OWN, HASH_COLUMN):
            continue
        kept[name] = [strip_secrets(text) for text in index[name]]
    return kept.assign(fn=[strip_secrets(text) for text in index["fn"]])


def strip_secrets(text: str) -> str:
    """``text`` with user, query and fragment cut from every address in it."""
    return _ADDRESS.sub(lambda match: match["scheme"] + match["rest"], text) if "://" in text else text
