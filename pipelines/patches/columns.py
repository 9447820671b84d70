"""Columns beside the pixels: one Zarr array per fact of a row, in one chunk each, readable by xarray and zarr alone."""

import warnings
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
import zarr
import zarr.errors
from numpy.typing import NDArray
from zarr.codecs import BloscCodec, Crc32cCodec

UNKNOWN_TIME: Final = -(2**62)
TIME_ATTRIBUTES: Final = {
    "standard_name": "time",
    "long_name": "start of the acquisition",
    "units": "seconds since 1970-01-01",
    "calendar": "standard",
    "_FillValue": UNKNOWN_TIME,
}
COLUMNS: Final[dict[str, tuple[str, dict[str, str]]]] = {
    "place_id": ("int64", {"long_name": "number of the place in the sampling order; -1 where the row holds none"}),
    "valid": ("bool", {"long_name": "whether the row holds the patch of its place in this version"}),
    "lon_deg": (
        "float64",
        {"standard_name": "longitude", "units": "degrees_east", "long_name": "longitude of the patch's centre"},
    ),
    "lat_deg": (
        "float64",
        {"standard_name": "latitude", "units": "degrees_north", "long_name": "latitude of the patch's centre"},
    ),
    "place_lon_deg": ("float64", {"units": "degrees_east", "long_name": "longitude of the place that was drawn"}),
    "place_lat_deg": ("float64", {"units": "degrees_north", "long_name": "latitude of the place that was drawn"}),
    "item_id": ("string", {"long_name": "STAC item of the scene"}),
    "platform": ("string", {"long_name": "satellite"}),
    "mgrs_tile": ("string", {"long_name": "tile of the Sentinel-2 tiling"}),
    "epsg": ("int32", {"long_name": "EPSG code of the patch's grid"}),
    "utm_zone": ("int16", {"long_name": "UTM zone, negative in the south; 0 where the grid is not UTM on WGS 84"}),
    "x_ul_m": ("float64", {"units": "m", "long_name": "easting of the patch's upper-left corner"}),
    "y_ul_m": ("float64", {"units": "m", "long_name": "northing of the patch's upper-left corner"}),
    "resolution_m": ("float64", {"units": "m", "long_name": "pixel size"}),
    "row_px": ("int32", {"units": "1", "long_name": "first row of the window on the scene's 10 m grid"}),
    "col_px": ("int32", {"units": "1", "long_name": "first column of the window on the scene's 10 m grid"}),
    "processing_baseline": ("string", {"long_name": "processing baseline of the product"}),
    "boa_add_offset": (
        "int16",
        {"units": "1", "long_name": "to be added to the digital numbers before dividing by 10000"},
    ),
    "offset_source": ("string", {"long_name": "where the offset is known from"}),
    "scene_cloud_cover_percent": ("float32", {"units": "percent", "long_name": "cloud cover of the whole scene"}),
    "clear_fraction": ("float32", {"units": "1", "long_name": "share of pixels outside SCL classes 1, 3, 8, 9, 10"}),
    "snow_fraction": ("float32", {"units": "1", "long_name": "share of pixels in SCL class 11"}),
    "nodata_fraction": ("float32", {"units": "1", "long_name": "share of pixels without data in any band"}),
    "relative_orbit": ("int16", {"units": "1", "long_name": "relative orbit"}),
    "sun_zenith_deg": ("float32", {"units": "degree", "long_name": "zenith angle of the sun, mean over the scene"}),
    "sun_azimuth_deg": ("float32", {"units": "degree", "long_name": "azimuth of the sun, mean over the scene"}),
    "sha256": ("string", {"long_name": "SHA-256 of the patch's digital numbers, uint16 little-endian, C order"}),
}
"""Name, type and attributes of every column but ``time``; CF names where CF has one."""
FILL: Final[dict[str, Any]] = {"place_id": -1, "row_px": -1, "col_px": -1, "relative_orbit": -1}


def write_columns(path: Path, rows: pd.DataFrame, num_rows: int) -> None:
    """Writes the columns of a store and consolidates its metadata, which makes all of them visible at once.

    Args:
        path: The Zarr group.
        rows: Facts of rows, with ``row``; rows of the store that are not named get fill values.
        num_rows: Rows of the store.
    """
    group = zarr.open_group(path, mode="r+")
    at = rows["row"].to_numpy()
    derived = rows.assign(
        clear_fraction=1.0 - rows["unclear_fraction"], utm_zone=_utm_zones(rows["epsg"].to_numpy(dtype=np.int64))
    )
    for name, (dtype, attributes) in COLUMNS.items():
        _write(group, name, _spread(derived[name], at, num_rows, dtype, FILL.get(name)), attributes)
    times = np.full(num_rows, UNKNOWN_TIME, dtype=np.int64)
    times[at] = _epoch_seconds(rows["datetime"])
    _write(group, "time", times, TIME_ATTRIBUTES)
    group["image"].attrs["coordinates"] = " ".join([*COLUMNS, "time"])
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Consolidated metadata", category=zarr.errors.ZarrUserWarning)
        zarr.consolidate_metadata(group.store)


def _spread(values: pd.Series, at: NDArray[np.int64], num_rows: int, dtype: str, fill: Any) -> NDArray[Any]:  # noqa: ANN401
    if dtype == "string":
        strings = np.full(num_rows, "", dtype=np.dtypes.StringDType())
        strings[at] = values.to_numpy(dtype=object).astype(np.dtypes.StringDType())
        return strings
    if fill is None:
        fill = np.nan if np.dtype(dtype).kind == "f" else 0
    spread = np.full(num_rows, fill, dtype=dtype)
    spread[at] = values.to_numpy(dtype=dtype)
    return spread


def _write(group: zarr.Group, name: str, values: NDArray[Any], attributes: dict[str, Any]) -> None:
    plain = values.dtype.kind in "bifu"
    codecs = [BloscCodec(typesize=values.dtype.itemsize, cname="zstd", clevel=3, shuffle="shuffle")] if plain else []
    group.create_array(
        name,
        data=values,
        chunks=(max(len(values), 1),),
        compressors=[*codecs, Crc32cCodec()] if plain else "auto",
        dimension_names=("row",),
        attributes=attributes,
        overwrite=True,
    )


def _utm_zones(epsg: NDArray[np.int64]) -> NDArray[np.int64]:
    zone = epsg % 100
    hemisphere = np.select([epsg // 100 == 326, epsg // 100 == 327], [1, -1], 0)
    return np.where((zone >= 1) & (zone <= 60), zone * hemisphere, 0)


def _epoch_seconds(datetimes: pd.Series) -> NDArray[np.int64]:
    times = pd.to_datetime(datetimes.where(datetimes != ""), utc=True, format="ISO8601")
    seconds = (times - pd.Timestamp(0, tz="UTC")) // pd.Timedelta(seconds=1)
    filled: NDArray[np.int64] = seconds.fillna(UNKNOWN_TIME).to_numpy(dtype=np.int64)
    return filled
