"""Sentinel-2's tiling: 109.8 km squares on the 100 km grid of MGRS, named like 35XQA."""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import NDArray

from pipelines.sandbox.utm import FALSE_NORTHING_SOUTH_M, from_utm, to_utm

TILE_SIZE_M = 109_800
CELL_SIZE_M = 100_000
ROW_CYCLE_M = 2_000_000
BANDS = "CDEFGHJKLMNPQRSTUVWX"
SOUTHERNMOST_DEG = -84.0
"""The tiling goes on beyond 80 S under the letter C."""
COLUMN_SETS = ("STUVWXYZ", "ABCDEFGH", "JKLMNPQR")
ROWS = "ABCDEFGHJKLMNPQRSTUV"
_TILE_ID = re.compile(r"(\d{2})([C-HJ-NP-X])([A-HJ-NP-Z])([A-HJ-NP-V])")
_BOUNDARY_POINTS = 9
_EDGE_POINTS = 5


def band_latitudes_deg(band: str) -> tuple[float, float]:
    """South and north edge of a latitude band; bands are 8 degrees high, X is 12."""
    south = -80.0 + 8.0 * BANDS.index(band)
    return south, 84.0 if band == "X" else south + 8.0


def zone_longitudes_deg(zone: int, band: str) -> tuple[float, float] | None:
    """West and east edge of a zone within a band, with the exceptions of Norway and Svalbard; None if it is void."""
    west, east = 6.0 * zone - 186.0, 6.0 * zone - 180.0
    if band == "V" and zone in (31, 32):
        return (0.0, 3.0) if zone == 31 else (3.0, 12.0)
    if band == "X" and 31 <= zone <= 37:
        return {31: (0.0, 9.0), 33: (9.0, 21.0), 35: (21.0, 33.0), 37: (33.0, 42.0)}.get(zone)
    return west, east


@dataclass(frozen=True)
class Tile:
    """One square of the tiling.

    Attributes:
        tile_id: Zone, band, column and row letter, e.g. ``31TCJ``.
        x_ul_m: Easting of the upper left corner.
        y_ul_m: Northing of the upper left corner, with the false northing in the south, as in its EPSG code.
    """

    tile_id: str
    x_ul_m: int
    y_ul_m: int

    @property
    def zone(self) -> int:
        """UTM zone, 1 to 60."""
        return int(self.tile_id[:2])

    @property
    def is_south(self) -> bool:
        """Whether the tile's EPSG code is one of the southern hemisphere."""
        return self.tile_id[2] < "N"

    @property
    def epsg(self) -> int:
        """EPSG code: 326zz in the north, 327zz in the south."""
        return (32700 if self.is_south else 32600) + self.zone

    @property
    def signed_y_ul_m(self) -> float:
        """Northing of the upper left corner, signed from the equator."""
        return self.y_ul_m - (FALSE_NORTHING_SOUTH_M if self.is_south else 0.0)

    @property
    def bounds_m(self) -> tuple[int, int, int, int]:
        """West, south, east and north edge in the tile's EPSG code."""
        return self.x_ul_m, self.y_ul_m - TILE_SIZE_M, self.x_ul_m + TILE_SIZE_M, self.y_ul_m

    @cached_property
    def boundary_lonlat_deg(self) -> NDArray[np.float64]:
        """Closed ring of the tile's edge, counter-clockwise, shape (n, 2); longitudes continue past 180."""
        step = np.linspace(0.0, TILE_SIZE_M, _EDGE_POINTS)[:-1]
        zero, full = np.zeros_like(step), np.full_like(step, TILE_SIZE_M)
        right = np.concatenate([zero, step, full, TILE_SIZE_M - step])
        down = np.concatenate([step, full, TILE_SIZE_M - step, zero])
        ring = from_utm(self.x_ul_m + right, self.signed_y_ul_m - down, self.zone)
        return np.vstack([ring, ring[:1]])


def tile_from_id(tile_id: str) -> Tile:
    """The tile of that name.

    Raises:
        ValueError: The name is not zone, band, column letter and row letter of that zone.

    Source: the rule was derived from ESA's tiling grid; it reproduces each of its 56,686 corners.
    """
    match = _TILE_ID.fullmatch(tile_id)
    if match is None or not 1 <= int(match[1]) <= 60:
        raise ValueError(f"{tile_id!r} is not a Sentinel-2 tile: expected zone 01-60, band and two letters, e.g. 31TCJ")
    zone, band = int(match[1]), match[2]
    columns = COLUMN_SETS[zone % 3]
    if match[3] not in columns:
        raise ValueError(f"{tile_id!r} is not a Sentinel-2 tile: columns of zone {zone:02d} are {columns}")
    easting = CELL_SIZE_M * (columns.index(match[3]) + 1)
    row = (ROWS.index(match[4]) - (5 if zone % 2 == 0 else 0)) % 20
    south, north = band_latitudes_deg(band)
    middle = to_utm(np.array([[6.0 * zone - 183.0, (south + north) / 2]]), zone)[1][0]
    cycle = round((middle - CELL_SIZE_M * (row + 0.5)) / ROW_CYCLE_M)
    return _tile_at(tile_id, easting, CELL_SIZE_M * row + ROW_CYCLE_M * cycle)


def _tile_at(tile_id: str, cell_x_m: int, cell_signed_y_m: int) -> Tile:
    x_ul = cell_x_m // 60 * 60
    y_ul = -(-(cell_signed_y_m + CELL_SIZE_M) // 60) * 60
    return Tile(tile_id, x_ul, y_ul + (int(FALSE_NORTHING_SOUTH_M) if tile_id[2] < "N" else 0))


@lru_cache(maxsize=16_384)
def _cell_tile(zone: int, column: int, row: int) -> Tile | None:
    """The tile on cell (column, row) in units of 100 km, row signed from the equator; None where it has no land share.

    A cell across the edge of two bands bears the name of the band that holds more of it.
    """
    if not 1 <= column <= 8:
        return None
    inner = np.linspace(0.0, CELL_SIZE_M, _BOUNDARY_POINTS)
    x, y = np.meshgrid(CELL_SIZE_M * column + inner, CELL_SIZE_M * row + inner)
    lonlat = from_utm(x, y, zone).reshape(-1, 2)
    best, best_count = "", 0
    lowest, highest = (min(19, max(0, math.floor((v + 80.0) / 8.0))) for v in (lonlat[:, 1].min(), lonlat[:, 1].max()))
    for band in BANDS[lowest : highest + 1]:
        edges = zone_longitudes_deg(zone, band)
        south, north = band_latitudes_deg(band)
        south = SOUTHERNMOST_DEG if band == "C" else south
        if edges is None:
            continue
        inside = (lonlat[:, 1] >= south) & (lonlat[:, 1] <= north)
        inside &= (lonlat[:, 0] >= edges[0]) & (lonlat[:, 0] <= edges[1])
        if int(inside.sum()) > best_count:
            best, best_count = band, int(inside.sum())
    if not best:
        return None
    letter = ROWS[(row + (5 if zone % 2 == 0 else 0)) % 20]
    tile_id = f"{zone:02d}{best}{COLUMN_SETS[zone % 3][column - 1]}{letter}"
    return _tile_at(tile_id, CELL_SIZE_M * column, CELL_SIZE_M * row)


def tiles_covering(lonlat_deg: NDArray[np.float64]) -> list[Tile]:
    """All tiles that contain one point (shape (2,)), overlapping neighbours and other zones included, by name.

    Raises:
        ValueError: A latitude south of 80 S or north of 84 N, where the tiling ends.
    """
    point = np.asarray(lonlat_deg, dtype=np.float64).reshape(1, 2)
    if not -80.0 <= point[0, 1] <= 84.0:
        raise ValueError(f"latitude {point[0, 1]} is outside Sentinel-2's tiling, 80 S to 84 N")
    home = int(((point[0, 0] + 180.0) % 360.0) // 6.0) + 1
    reach = 1 if abs(point[0, 1]) < 72.0 else 3
    found = {}
    for zone in {(home - 1 + step) % 60 + 1 for step in range(-reach, reach + 1)}:
        easting, northing = (float(v[0]) for v in to_utm(point, zone))
        column, row = math.floor(easting / CELL_SIZE_M), math.floor(northing / CELL_SIZE_M)
        for tile in (_cell_tile(zone, c, r) for c in (column - 1, column) for r in (row, row + 1)):
            if tile is None:
                continue
            west, top = tile.x_ul_m, tile.signed_y_ul_m
            if west <= easting < west + TILE_SIZE_M and top - TILE_SIZE_M < northing <= top:
                found[tile.tile_id] = tile
    return [found[name] for name in sorted(found)]


def all_tiles() -> Iterator[Tile]:
    """Every tile between 84 S and 84 N, zone by zone."""
    for zone in range(1, 61):
        for row in range(-94, 94):
            for column in range(1, 9):
                tile = _cell_tile(zone, column, row)
                if tile is not None:
                    yield tile


def footprint(ring_lonlat_deg: NDArray[np.float64]) -> tuple[dict[str, object], list[float]]:
    """GeoJSON geometry and bounding box of a closed ring whose longitudes may continue past 180.

    Across the antimeridian the geometry is a MultiPolygon cut at 180, and the box has west > east (RFC 7946, 5.2).
    """
    west, south = (float(v) for v in ring_lonlat_deg.min(axis=0))
    east, north = (float(v) for v in ring_lonlat_deg.max(axis=0))
    shift = -360.0 * math.floor((west + 180.0) / 360.0)
    west, east = west + shift, east + shift
    ring = ring_lonlat_deg + np.array([shift, 0.0])
    if east <= 180.0:
        return {"type": "Polygon", "coordinates": [np.round(ring, 5).tolist()]}, [
            round(v, 5) for v in (west, south, east, north)
        ]
    import shapely

    polygon = shapely.Polygon(ring)
    parts = [
        polygon.intersection(shapely.box(-180.0, -90.0, 180.0, 90.0)),
        shapely.affinity.translate(polygon.intersection(shapely.box(180.0, -90.0, 540.0, 90.0)), xoff=-360.0),
    ]
    return _geojson(parts), [round(v, 5) for v in (west, south, east - 360.0, north)]


def _geojson(polygons: list[object]) -> dict[str, object]:
    import shapely

    rings = [
        [[round(float(x), 5), round(float(y), 5)] for x, y in shapely.geometry.polygon.orient(p).exterior.coords]
        for p in polygons
        if isinstance(p, shapely.Polygon) and not p.is_empty
    ]
    return {"type": "MultiPolygon", "coordinates": [[ring] for ring in rings]}
