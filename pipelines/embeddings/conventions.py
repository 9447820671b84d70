"""Attributes by which readers place a global grid: CF and GeoZarr."""

from typing import Any, Final

import numpy as np
import pyproj
from numpy.typing import NDArray

GRID_MAPPING: Final = "spatial_ref"
_CONVENTIONS: Final = (
    {
        "name": "proj:",
        "uuid": "f17cb550-5864-4468-aeb7-f3180cfb622f",
        "schema_url": "https://raw.githubusercontent.com/zarr-conventions/geo-proj/refs/tags/v1/schema.json",
        "spec_url": "https://github.com/zarr-conventions/geo-proj/blob/v1/README.md",
        "description": "Coordinate reference system",
    },
    {
        "name": "spatial:",
        "uuid": "689b58e2-cf7b-45e0-9fff-9cfc0883d6b4",
        "schema_url": "https://raw.githubusercontent.com/zarr-conventions/spatial/refs/tags/v1/schema.json",
        "spec_url": "https://github.com/zarr-conventions/spatial/blob/v1/README.md",
        "description": "Spatial coordinates",
    },
)


def grid_edges_deg(lon_deg: NDArray[np.float64], lat_deg: NDArray[np.float64]) -> tuple[float, float, float, float]:
    """Outer edges of the cells around a whole parallel: west, south, east, north.

    Args:
        lon_deg: Centers of the columns, ascending, around the whole globe.
        lat_deg: Centers of the rows, descending, as far apart as the columns.
    """
    half = 180.0 / len(lon_deg)
    return -180.0, round(float(lat_deg[-1]) - half, 9), 180.0, round(float(lat_deg[0]) + half, 9)


def spatial_attributes(lon_deg: NDArray[np.float64], lat_deg: NDArray[np.float64]) -> dict[str, Any]:
    """GeoZarr's attributes of a grid of WGS 84 cells; arguments as for `grid_edges_deg`.

    Source: https://github.com/zarr-conventions/spatial, https://github.com/zarr-conventions/geo-proj, both version 1.
    """
    west, south, east, north = grid_edges_deg(lon_deg, lat_deg)
    cell = 360.0 / len(lon_deg)
    return {
        "zarr_conventions": [dict(each) for each in _CONVENTIONS],
        "proj:code": "EPSG:4326",
        "spatial:dimensions": ["lat", "lon"],
        "spatial:shape": [len(lat_deg), len(lon_deg)],
        "spatial:bbox": [west, south, east, north],
        "spatial:transform_type": "affine",
        "spatial:transform": [cell, 0.0, west, 0.0, -cell, north],
        "spatial:registration": "pixel",
    }


def crs_attributes(lon_deg: NDArray[np.float64], lat_deg: NDArray[np.float64]) -> dict[str, Any]:
    """CF's attributes of the grid mapping, with GDAL's ``GeoTransform``; arguments as for `grid_edges_deg`."""
    west, _, _, north = grid_edges_deg(lon_deg, lat_deg)
    cell = 360.0 / len(lon_deg)
    attributes: dict[str, Any] = pyproj.CRS.from_epsg(4326).to_cf()
    return {
        **attributes,
        "spatial_ref": attributes["crs_wkt"],
        "GeoTransform": f"{west!r} {cell!r} 0.0 {north!r} 0.0 {-cell!r}",
    }
