"""Planted objects and the cloud that does not clear, as a layer of the renderer."""

from dataclasses import dataclass
from datetime import datetime
from typing import Final

import numpy as np
from numpy.typing import NDArray

from pipelines.sandbox.bounded_cache import BoundedCache
from pipelines.sandbox.planted.areas import (
    AREA_SIZE_M,
    AREAS,
    CELL_M,
    CLOUDED_COLUMNS,
    CLOUDED_MONTHS,
    CLOUDED_ROWS,
    PlantedArea,
    first_day,
)
from pipelines.sandbox.planted.objects import PlantedObject, planted_objects, vessels
from pipelines.sandbox.planted.painting import LONGEST_SHADOW_M, Paint, PixelGrid, paints, tree_cover
from pipelines.sandbox.rendering import BlockView
from pipelines.sandbox.scenes import solar_angles_deg
from pipelines.sandbox.spectra import BANDS, CLOUD

CLOUD_CLASS: Final = 9
_FURTHEST_M: Final = 640.0
"""Further than any object with its shadow reaches from its middle."""


@dataclass(frozen=True)
class _Plan:
    """What changes one block on one date."""

    paints: tuple[Paint, ...]
    clouded: NDArray[np.bool_] | None


class PlantedLayer:
    """Draws what is planted; pixels outside the areas stay as they are. Safe to share between threads.

    Args:
        seed: Of the planet.
        capacity: Blocks and dates whose objects are kept for the next band.
    """

    def __init__(self, seed: int, capacity: int = 512) -> None:
        self.seed = seed
        self._plans: BoundedCache[_Plan] = BoundedCache(capacity)

    def apply(self, view: BlockView, plane: NDArray[np.float32] | NDArray[np.uint8]) -> None:
        """Changes reflectance, or classes where the cloud hides the ground, in place."""
        tile = view.scene.tile
        grid = PixelGrid(tile.zone, tile.is_south, view.x_ul_m, view.y_ul_m, view.resolution_m, plane.shape[0])
        near = [area for area in AREAS if _reaches(area, grid)]
        if not near:
            return
        plan = self._plans.get((grid, view.scene.sensed), lambda: self._plan(grid, near, view.scene.sensed))
        if view.band == "SCL":
            if plan.clouded is not None:
                plane[plan.clouded] = CLOUD_CLASS
            return
        reflectance = np.asarray(plane, dtype=np.float32)
        for paint in plan.paints:
            paint.on(view.band, reflectance)
        if plan.clouded is not None:
            reflectance[plan.clouded] = CLOUD[BANDS.index(view.band)]
        plane[...] = reflectance

    def _plan(self, grid: PixelGrid, near: list[PlantedArea], sensed: datetime) -> _Plan:
        names = {area.name for area in near}
        standing = [each for each in planted_objects(self.seed) if each.area in names and each.is_there(sensed)]
        standing += [each for each in vessels(self.seed, sensed.toordinal()) if each.area in names]
        found = []
        for planted in _within(standing, grid):
            zenith, azimuth = solar_angles_deg(np.array([planted.lon_deg, planted.lat_deg]), sensed)
            found += paints(planted, grid, zenith, azimuth)
        return _Plan(tuple(found), _clouded(grid, near, sensed))


def tree_cover_raster(seed: int, grid: PixelGrid, time: datetime) -> NDArray[np.float32]:
    """Share of each pixel under planted trees at a time, shape (size, size)."""
    cover = np.zeros((grid.size_px, grid.size_px), dtype=np.float32)
    forests = [each for each in planted_objects(seed) if each.kind == "forest" and each.is_there(time)]
    for planted in _within(forests, grid):
        paint = tree_cover(planted, grid)
        if paint is not None:
            part = cover[paint.rows, paint.columns]
            np.maximum(part, paint.coverage, out=part)
    return cover


def _within(standing: list[PlantedObject], grid: PixelGrid) -> list[PlantedObject]:
    """Objects whose middle lies in the grid or so near that they may reach into it."""
    if not standing:
        return []
    places = grid.positions(np.array([[each.lon_deg, each.lat_deg] for each in standing]))
    extent = grid.size_px * grid.resolution_m
    inside = (places[:, 0] > grid.west_m - _FURTHEST_M) & (places[:, 0] < grid.west_m + extent + _FURTHEST_M)
    inside &= (places[:, 1] < grid.north_m + _FURTHEST_M) & (places[:, 1] > grid.north_m - extent - _FURTHEST_M)
    return [standing[index] for index in np.flatnonzero(inside)]


def _reaches(area: PlantedArea, grid: PixelGrid) -> bool:
    extent = grid.size_px * grid.resolution_m
    x, y = grid.positions(np.array([[area.lon_deg, area.lat_deg]]))[0]
    reach = AREA_SIZE_M / 2 * 1.1 + LONGEST_SHADOW_M
    return bool(
        grid.west_m - reach < x < grid.west_m + extent + reach
        and grid.north_m - extent - reach < y < grid.north_m + reach
    )


def _clouded(grid: PixelGrid, near: list[PlantedArea], sensed: datetime) -> NDArray[np.bool_] | None:
    """Where the cloud lies that does not clear; None where there is none."""
    first, last = CLOUDED_MONTHS
    if not first_day(first) <= sensed < first_day(last + 1):
        return None
    hidden = np.zeros((grid.size_px, grid.size_px), dtype=np.bool_)
    for area in near:
        if area.is_clouded:
            east, north = _from_corner(area, grid)
            rows, columns = np.floor(-north / CELL_M), np.floor(east / CELL_M)
            hidden |= (rows >= 0) & (rows < CLOUDED_ROWS) & (columns >= 0) & (columns < CLOUDED_COLUMNS)
    return hidden if hidden.any() else None


def _from_corner(area: PlantedArea, grid: PixelGrid) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Meters east and north of an area's north-western corner, of every pixel's middle."""
    step = np.array([0.0, 1000.0, 0.0]), np.array([0.0, 0.0, 1000.0])
    middle, east, north = grid.positions(area.lonlat_deg(*step))
    inverse = np.linalg.inv(np.stack([east - middle, north - middle], axis=1) / 1000.0)
    middles = (np.arange(grid.size_px) + 0.5) * grid.resolution_m
    dx, dy = np.meshgrid(grid.west_m + middles - middle[0], grid.north_m - middles - middle[1])
    half = AREA_SIZE_M / 2
    return inverse[0, 0] * dx + inverse[0, 1] * dy + half, inverse[1, 0] * dx + inverse[1, 1] * dy - half
