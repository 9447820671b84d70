"""Places as points of the unit sphere, and cells of longitude and latitude."""

from typing import Final

import numpy as np
from numpy.typing import NDArray

EARTH_RADIUS_KM: Final = 6371.0088
"""Mean radius of the Earth (IUGG, R1)."""


def unit_vectors(lonlat_deg: NDArray[np.float64]) -> NDArray[np.float64]:
    """Unit vectors, shape (n, 3), of places, shape (n, 2), longitude first in degrees."""
    lon, lat = np.deg2rad(lonlat_deg).T
    return np.column_stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)])


def great_circle_km(chord: NDArray[np.float64]) -> NDArray[np.float64]:
    """Distance along the surface of points whose unit vectors are ``chord`` apart."""
    return 2.0 * EARTH_RADIUS_KM * np.arcsin(np.clip(chord / 2.0, 0.0, 1.0))


def block_cells(lonlat_deg: NDArray[np.float64], cell_deg: float) -> NDArray[np.float64]:
    """Column and row, whole numbers from 0, of the cell of ``cell_deg`` degrees that each place is in, shape (n, 2).

    Cells start at the antimeridian and the south pole. Longitudes -180 and 180 are one meridian, a pole is one place.
    """
    cells: NDArray[np.float64] = np.floor((normalized(lonlat_deg) + np.array([180.0, 90.0])) / cell_deg)
    cells[:, 1] = np.minimum(cells[:, 1], np.ceil(180.0 / cell_deg) - 1)
    return cells


def normalized(lonlat_deg: NDArray[np.float64]) -> NDArray[np.float64]:
    """The same places with one longitude for both sides of the antimeridian, and one for each pole."""
    lon_deg = np.where(np.abs(lonlat_deg[:, 1]) == 90.0, -180.0, lonlat_deg[:, 0])
    return np.column_stack([np.where(lon_deg == 180.0, -180.0, lon_deg), lonlat_deg[:, 1]]) + 0.0
