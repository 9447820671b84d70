"""How places share searches: which go together, and the area that is asked for."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.sampling.config import SearchConfig
from pipelines.sampling.land import is_land

Area = dict[str, Any]

TILE_REACH_DEG = 1.3
"""Degrees on a great circle by which a scene, 109.8 km wide and high, can lie beyond a place, with room to spare."""
BESIDE_ANTIMERIDIAN_DEG = 179.9999
ANTIMERIDIAN_STEP_DEG = 0.25
BOX_CELL_DEG = 2.0
DENSE_FACTOR = 2
"""A box of two degrees names about twice as many scenes as a search for 16 places in it."""
_MORTON_BITS = 16


def group_places(lonlat_deg: NDArray[np.float64], cell_deg: float, max_places: int) -> Iterator[NDArray[np.intp]]:
    """Row numbers of the places that share a search: neighbours in one cell, at most ``max_places``.

    Cells are ``cell_deg`` high, and as wide in kilometres at every latitude, so that near the poles they span more
    degrees of longitude. None crosses the antimeridian. Within a cell the places are parted along a curve that fills
    it, into groups of about the same size.

    Args:
        lonlat_deg: Shape (n, 2).
        cell_deg: Height of a cell.
        max_places: Most places of a group.
    """
    rows_of_cells = np.floor((lonlat_deg[:, 1] + 90.0) / cell_deg).astype(np.int64)
    middle_deg = np.clip((rows_of_cells + 0.5) * cell_deg - 90.0, -90.0, 90.0)
    cells_around = np.maximum(1, np.round(360.0 * np.cos(np.deg2rad(middle_deg)) / cell_deg))
    column = (lonlat_deg[:, 0] + 180.0) % 360.0 / 360.0 * cells_around
    inner = np.column_stack([column % 1.0, (lonlat_deg[:, 1] + 90.0) / cell_deg % 1.0])
    columns = np.floor(column).astype(np.int64)
    order = np.lexsort((np.arange(len(lonlat_deg)), _morton(inner), columns, rows_of_cells))
    cells = np.column_stack([rows_of_cells, columns])[order]
    boundaries = np.flatnonzero((np.diff(cells, axis=0) != 0).any(axis=1)) + 1
    for cell in np.split(order, boundaries):
        if len(cell):
            yield from np.array_split(cell, -(-len(cell) // max_places))


def search_groups(
    lonlat_deg: NDArray[np.float64], config: SearchConfig, boxes_only: bool = False
) -> list[tuple[NDArray[np.intp], bool]]:
    """The searches for many places: row numbers, and whether to ask for a box around them instead of each place.

    Where places lie so close that several searches would name the same few scenes, one box serves them all.

    Args:
        lonlat_deg: Shape (n, 2).
        config: Cells, places per search, and whether boxes or places are wanted.
        boxes_only: Ask for boxes everywhere.
    """
    if boxes_only or config.search_area == "box":
        cell_deg = min(config.search_cell_deg, BOX_CELL_DEG)
        return [(rows, True) for rows in group_places(lonlat_deg, cell_deg, len(lonlat_deg) or 1)]
    dense: list[NDArray[np.intp]] = []
    if config.search_area == "auto":
        cells = group_places(lonlat_deg, BOX_CELL_DEG, len(lonlat_deg) or 1)
        dense = [rows for rows in cells if len(rows) > DENSE_FACTOR * config.max_places_per_search]
    sparse = np.setdiff1d(np.arange(len(lonlat_deg)), np.concatenate([np.empty(0, np.intp), *dense]))
    groups = group_places(lonlat_deg[sparse], config.search_cell_deg, config.max_places_per_search)
    return [*((rows, True) for rows in dense), *((sparse[rows], False) for rows in groups)]


def area_of_places(lonlat_deg: NDArray[np.float64]) -> Area:
    """The places of one search as GeoJSON MultiPoint, with `beside_antimeridian` where they need it."""
    points = np.vstack([lonlat_deg, beside_antimeridian(lonlat_deg)])
    return {"type": "MultiPoint", "coordinates": points.round(7).tolist()}


def area_of_box(lonlat_deg: NDArray[np.float64], margin_deg: float = 1e-4) -> Area:
    """A box around the places of one search as GeoJSON; several boxes near the antimeridian."""
    extra = beside_antimeridian(lonlat_deg)
    corners = [(lonlat_deg.min(axis=0), lonlat_deg.max(axis=0)), *((point, point) for point in extra)]
    polygons = [_box(low - margin_deg, high + margin_deg) for low, high in corners]
    if len(polygons) == 1:
        return {"type": "Polygon", "coordinates": polygons[0]}
    return {"type": "MultiPolygon", "coordinates": polygons}


def beside_antimeridian(lonlat_deg: NDArray[np.float64]) -> NDArray[np.float64]:
    """More points to ask for where a scene that holds a place may cross the antimeridian, shape (m, 2).

    A server sees longitudes as a plane. A footprint drawn on to 181 degrees holds no place at -179.5, but it holds one
    just west of 180; one drawn the wrong way around the globe holds neither, but it holds the sea at that latitude.
    """
    reach_deg = TILE_REACH_DEG / np.maximum(np.cos(np.deg2rad(lonlat_deg[:, 1])), 0.02)
    near = lonlat_deg[np.abs(lonlat_deg[:, 0]) > 180.0 - np.minimum(reach_deg, 90.0)]
    points = []
    for lat_deg in np.unique(np.round(near[:, 1] / ANTIMERIDIAN_STEP_DEG) * ANTIMERIDIAN_STEP_DEG):
        points += [(BESIDE_ANTIMERIDIAN_DEG, lat_deg), (-BESIDE_ANTIMERIDIAN_DEG, lat_deg)]
        points.append((_longitude_at_sea(lat_deg), lat_deg))
    return np.unique(np.array(points).reshape(-1, 2), axis=0)


def _longitude_at_sea(lat_deg: float) -> float:
    """A longitude far from the antimeridian with no land within a scene's width, so with hardly an item; else 0."""
    around = np.array([(lon, lat) for lon in (-8.0, 0.0, 8.0) for lat in (-TILE_REACH_DEG, 0.0, TILE_REACH_DEG)])
    for lon_deg in range(-150, 150, 10):
        lonlat_deg = np.array([lon_deg, lat_deg]) + around
        if not is_land(np.clip(lonlat_deg, [-180.0, -90.0], [180.0, 90.0])).any():
            return float(lon_deg)
    return 0.0


def _box(low: NDArray[np.float64], high: NDArray[np.float64]) -> list[list[list[float]]]:
    west, south = np.maximum(low, (-180.0, -90.0)).round(7).tolist()
    east, north = np.minimum(high, (180.0, 90.0)).round(7).tolist()
    return [[[west, south], [east, south], [east, north], [west, north], [west, south]]]


def _morton(inner: NDArray[np.float64]) -> NDArray[np.uint64]:
    """Position along a curve that fills the unit square (bits of both coordinates in turn)."""
    code = np.zeros(len(inner), dtype=np.uint64)
    scaled = (inner * 2**_MORTON_BITS).astype(np.uint64)
    for bit in range(_MORTON_BITS):
        for axis in range(2):
            code |= ((scaled[:, axis] >> np.uint64(bit)) & np.uint64(1)) << np.uint64(2 * bit + axis)
    return code
