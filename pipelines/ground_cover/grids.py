"""The grid of a patch, and which pixels of any raster lie at the middles of its pixels."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

import numpy as np
import shapely
from numpy.typing import NDArray
from pyproj import CRS, Transformer
from shapely.geometry.base import BaseGeometry

from pipelines.errors import SceneContentError
from pipelines.sampling.footprints import normalized_footprint

_EDGE_POINTS: Final = 5


@dataclass(frozen=True)
class PatchGrid:
    """A square of pixels, north up.

    Attributes:
        epsg: Code of its projected reference system.
        x_ul_m: Easting of the upper-left corner.
        y_ul_m: Northing of that corner.
        resolution_m: Side of a pixel.
        size_px: Rows and columns.
    """

    epsg: int
    x_ul_m: float
    y_ul_m: float
    resolution_m: float
    size_px: int

    def middles_xy_m(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Eastings and northings of the middles of all pixels, both (size_px, size_px), row 0 in the north."""
        steps = (np.arange(self.size_px) + 0.5) * self.resolution_m
        x, y = np.meshgrid(self.x_ul_m + steps, self.y_ul_m - steps)
        return x, y

    def footprint(self) -> BaseGeometry:
        """Outline in lon/lat, cut at the antimeridian."""
        share = np.linspace(0.0, self.size_px * self.resolution_m, _EDGE_POINTS)
        low, high = np.zeros_like(share), np.full_like(share, share[-1])
        right = np.concatenate([share, high[1:], share[::-1][1:], low[1:]])
        down = np.concatenate([low, share[1:], high[1:], share[::-1][1:]])
        lon, lat = transformer(self.epsg, "EPSG:4326").transform(self.x_ul_m + right, self.y_ul_m - down)
        return normalized_footprint(shapely.Polygon(np.column_stack([lon, lat])))


@lru_cache(maxsize=256)
def transformer(epsg: int, target: str) -> Transformer:
    """From an EPSG code to another reference system, eastings or longitudes first on both sides."""
    return Transformer.from_crs(epsg, CRS.from_user_input(target), always_xy=True)


@dataclass(frozen=True)
class PixelsAt:
    """Which pixels of a raster lie at the middles of a grid's pixels.

    Attributes:
        rows: Rows of the raster, (size_px, size_px); meaningless where not inside.
        cols: Columns of the raster.
        inside: Where the raster has a pixel at all.
    """

    rows: NDArray[np.int64]
    cols: NDArray[np.int64]
    inside: NDArray[np.bool_]

    @property
    def window(self) -> tuple[range, range]:
        """Rows and columns that hold all pixels; empty ranges where there are none."""
        if not self.inside.any():
            return range(0), range(0)
        rows, cols = self.rows[self.inside], self.cols[self.inside]
        return range(int(rows.min()), int(rows.max()) + 1), range(int(cols.min()), int(cols.max()) + 1)


def pixels_at(grid: PatchGrid, source: Any) -> PixelsAt:  # noqa: ANN401
    """The pixels of an open raster that hold the middles of a grid's pixels: nearest neighbour, without tolerance.

    The middle of every pixel is transformed by itself. On an edge between pixels the one to the right, or below, is
    taken. Longitudes of a raster in degrees may be counted from anywhere.

    Args:
        grid: Of the patch.
        source: A dataset that rasterio has opened.

    Raises:
        SceneContentError: no_grid: the raster has no reference system.
    """
    if source.crs is None:
        raise SceneContentError("no_grid", f"{source.name.partition('?')[0]}: no reference system, expected one")
    x, y = grid.middles_xy_m()
    if source.crs.to_epsg() != grid.epsg:
        x, y = transformer(grid.epsg, source.crs.to_wkt()).transform(x, y)
        if source.crs.is_geographic:
            x = _turned(x, source.bounds.left, source.bounds.right)
    inverse = ~source.transform
    with np.errstate(invalid="ignore"):
        cols = np.floor(inverse.a * x + inverse.b * y + inverse.c)
        rows = np.floor(inverse.d * x + inverse.e * y + inverse.f)
        inside = (cols >= 0) & (cols < source.width) & (rows >= 0) & (rows < source.height)
    return PixelsAt(
        np.where(inside, rows, 0).astype(np.int64), np.where(inside, cols, 0).astype(np.int64), np.asarray(inside)
    )


def _turned(lon_deg: NDArray[np.float64], west_deg: float, east_deg: float) -> NDArray[np.float64]:
    """Longitudes turned by whole circles into those of a raster, where they are beyond its edges."""
    beyond = (lon_deg < west_deg) | (lon_deg >= east_deg)
    return np.where(beyond, west_deg + (lon_deg - west_deg) % 360.0, lon_deg)
