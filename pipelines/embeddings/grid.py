"""Global grids of cell centers, and the way back from places to a raster."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

BATCH_SIZE = 1 << 18
MIN_RESOLUTION_DEG = 0.001
"""Finer rows do not fit into memory; 111 m, far below what an encoder resolves."""


@dataclass(frozen=True)
class GlobalGrid:
    """Cells of ``resolution_deg`` around the whole globe, rows from north to south, columns from west to east.

    Cell edges lie on 90 N and on the antimeridian, so that no cell crosses it and none is counted twice. A row
    belongs to the grid if its center lies within ``lat_bounds_deg``.

    Attributes:
        resolution_deg: Cell size in degrees, at least 0.001; 180 divided by it must be whole.
        lat_bounds_deg: Southern and northern bound of the cell centers, inclusive.

    Raises:
        ValueError: The resolution is out of range or does not divide 180 degrees, or the bounds leave no row.
    """

    resolution_deg: float
    lat_bounds_deg: tuple[float, float] = (-90.0, 90.0)

    def __post_init__(self) -> None:
        if not MIN_RESOLUTION_DEG <= self.resolution_deg <= 180:
            raise ValueError(
                f"resolution_deg is {self.resolution_deg}; expected a number in [{MIN_RESOLUTION_DEG}, 180]"
            )
        num_rows = 180.0 / self.resolution_deg
        if abs(num_rows - round(num_rows)) > 1e-6:
            fitting = 180.0 / round(num_rows)
            raise ValueError(
                f"resolution_deg is {self.resolution_deg}, which does not divide 180 degrees; use e.g. {fitting:.6g}"
            )
        south, north = self.lat_bounds_deg
        if not -90 <= south < north <= 90:
            raise ValueError(f"lat_bounds_deg is {self.lat_bounds_deg}; expected -90 <= south < north <= 90")
        if len(self.lat_deg) == 0:
            raise ValueError(
                f"no cell center of a {self.resolution_deg} degree grid lies between {south} and {north} degrees north"
            )

    @property
    def lon_deg(self) -> NDArray[np.float64]:
        """Longitudes of the columns, ascending, symmetric about 0."""
        num_cols = 2 * round(180.0 / self.resolution_deg)
        return np.asarray((2.0 * np.arange(num_cols) + 1 - num_cols) * (180.0 / num_cols), dtype=np.float64)

    @property
    def lat_deg(self) -> NDArray[np.float64]:
        """Latitudes of the rows, descending."""
        num_rows = round(180.0 / self.resolution_deg)
        lat_deg = (num_rows - 1 - 2.0 * np.arange(num_rows)) * (90.0 / num_rows)
        south, north = self.lat_bounds_deg
        return np.asarray(lat_deg[(lat_deg >= south) & (lat_deg <= north)], dtype=np.float64)

    @property
    def shape(self) -> tuple[int, int]:
        """Number of rows and columns."""
        return len(self.lat_deg), len(self.lon_deg)

    @property
    def extent_deg(self) -> tuple[float, float, float, float]:
        """Outer edges of the cells: west, east, south, north."""
        half = self.resolution_deg / 2
        lat_deg = self.lat_deg
        return -180.0, 180.0, float(lat_deg[-1]) - half, float(lat_deg[0]) + half

    def lonlat_deg(self) -> NDArray[np.float64]:
        """Cell centers, shape (rows * columns, 2), row by row."""
        return self.lonlat_deg_of_rows(self.lat_deg)

    def lonlat_deg_of_rows(self, lat_deg: NDArray[np.float64]) -> NDArray[np.float64]:
        """Cell centers of the rows at some latitudes, shape (len(lat_deg) * columns, 2), row by row."""
        lat, lon = np.meshgrid(lat_deg, self.lon_deg, indexing="ij")
        return np.column_stack([lon.ravel(), lat.ravel()])

    def row_col(self, lonlat_deg: NDArray[np.float64]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Row and column of the cell each place lies in; longitude 180 is the first column.

        Raises:
            ValueError: A place lies north or south of the grid.
        """
        _, _, south, north = self.extent_deg
        num_rows, num_cols = self.shape
        outside = np.flatnonzero((lonlat_deg[:, 1] < south) | (lonlat_deg[:, 1] > north))
        if outside.size:
            raise ValueError(
                f"{outside.size} places lie beyond the grid's latitudes, the first at {lonlat_deg[outside[0]].tolist()}"
            )
        row = np.floor((north - lonlat_deg[:, 1]) / self.resolution_deg).astype(np.intp).clip(0, num_rows - 1)
        col = np.floor((lonlat_deg[:, 0] + 180.0) / self.resolution_deg).astype(np.intp) % num_cols
        return row, col

    def raster(self, lonlat_deg: NDArray[np.float64], values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Values of places, shape (n, ...), laid on the grid, shape (rows, columns, ...); NaN where no place is."""
        laid = np.full((*self.shape, *values.shape[1:]), np.nan)
        laid[self.row_col(lonlat_deg)] = values
        return laid


def land_grid(
    resolution_deg: float,
    is_land: Callable[[NDArray[np.float64]], NDArray[np.bool_]],
    lat_bounds_deg: tuple[float, float] = (-90.0, 90.0),
) -> NDArray[np.float64]:
    """Centers of the grid's cells that lie on land, from north to south and west to east.

    Args:
        resolution_deg: Cell size in degrees; 180 divided by it must be whole.
        is_land: Takes places, shape (b, 2), longitude first in degrees; returns True per place on land.
        lat_bounds_deg: Southern and northern bound of the cell centers, inclusive.

    Returns:
        Places, shape (n, 2), longitude first in degrees.

    Raises:
        ValueError: The resolution does not divide 180 degrees, the bounds leave no row, or no center is on land.
    """
    lonlat_deg = GlobalGrid(resolution_deg, lat_bounds_deg).lonlat_deg()
    batches = [lonlat_deg[start : start + BATCH_SIZE] for start in range(0, len(lonlat_deg), BATCH_SIZE)]
    on_land = np.concatenate([np.asarray(is_land(batch), dtype=bool) for batch in batches])
    if not on_land.any():
        raise ValueError(
            f"none of the {len(lonlat_deg)} cell centers of a {resolution_deg} degree grid within latitudes "
            f"{lat_bounds_deg} is on land; use a finer grid or wider bounds"
        )
    return np.asarray(lonlat_deg[on_land], dtype=np.float64)
