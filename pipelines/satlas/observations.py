"""Where a month had images, asked at places."""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.satlas.predictions import OBSERVED_FILE, TileGrid


class ObservedMonth:
    """The rasters of observed periods of a month's tiles; they are read where places lie in them."""

    def __init__(self, tiles: Sequence[tuple[TileGrid, Path]]) -> None:
        """Takes each tile's pixels and folder."""
        self._by_zone: dict[int, list[tuple[TileGrid, Path]]] = defaultdict(list)
        for grid, folder in tiles:
            self._by_zone[grid.epsg].append((grid, folder))

    def num_periods(self, lonlat_deg: NDArray[np.float64]) -> NDArray[np.uint8]:
        """In how many periods each place had an image, shape (n,); of overlapping tiles the most, outside all 0.

        Args:
            lonlat_deg: Places, shape (n, 2), longitude first.
        """
        from pyproj import Transformer

        found = np.zeros(len(lonlat_deg), dtype=np.uint8)
        for epsg, tiles in self._by_zone.items():
            transformer = Transformer.from_crs("EPSG:4326", epsg, always_xy=True)
            x_m, y_m = transformer.transform(lonlat_deg[:, 0], lonlat_deg[:, 1])
            by_x = np.argsort(x_m)
            for grid, folder in tiles:
                west, south, east, north = grid.bounds_m
                near = by_x[slice(*np.searchsorted(x_m, (west, east), sorter=by_x))]
                inside = near[(y_m[near] > south) & (y_m[near] <= north)]
                if len(inside):
                    told = _sample(folder / OBSERVED_FILE, grid, x_m[inside], y_m[inside])
                    found[inside] = np.maximum(found[inside], told)
        return found


def _sample(path: Path, grid: TileGrid, x_m: NDArray[np.float64], y_m: NDArray[np.float64]) -> NDArray[Any]:
    import rasterio

    with rasterio.open(path) as source:
        observed = source.read(1)
    west, south, east, north = grid.bounds_m
    column = ((x_m - west) / (east - west) * observed.shape[1]).astype(np.intp)
    row = ((north - y_m) / (north - south) * observed.shape[0]).astype(np.intp)
    cells: NDArray[Any] = observed[row, column]
    return cells
