"""The 10 m grid of a scene, from whatever its item says of it."""

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

from pyproj import CRS
from pyproj.exceptions import CRSError

TILE_SIZE_PX: Final = 10_980
TILE_RESOLUTION_M: Final = 10.0
MAX_SIDE_PX: Final = 100_000
_TILE_ID: Final = re.compile(r"(\d{1,2})([C-HJ-NP-X])([A-HJ-NP-Z])([A-HJ-NP-V])")
_EPSG: Final = re.compile(r"(?:EPSG:)?(\d{4,6})(?:\.0)?", re.IGNORECASE)
_COLUMNS: Final = ("STUVWXYZ", "ABCDEFGH", "JKLMNPQR")
_ROWS: Final = "ABCDEFGHJKLMNPQRSTUV"
_BANDS: Final = "CDEFGHJKLMNPQRSTUVWX"
_METRES_PER_DEGREE: Final = 110_900.0
_FALSE_NORTHING_M: Final = 10_000_000


@dataclass(frozen=True)
class ItemGrid:
    """EPSG code, upper-left corner, size and resolution of a scene's 10 m bands."""

    epsg: int
    x_ul_m: float
    y_ul_m: float
    width_px: int
    height_px: int
    resolution_m: float


def grid_of_item(
    properties: Mapping[str, Any], band_assets: Sequence[Mapping[str, Any]], mgrs_tile: str
) -> ItemGrid | str:
    """The grid of an item, or why there is none.

    The first of these that is complete decides: transform and shape, transform and box, or box and shape of the 10 m
    item assets in their order, then of the item; at last, the Sentinel-2 tile. The CRS is that of the item, the
    item asset or the tile.

    Args:
        properties: The item's.
        band_assets: The item's entries of 10 m bands.
        mgrs_tile: Tile like ``31TCJ``, or nothing.

    Returns:
        The grid, or ``no_grid``, ``grid_not_north_up`` or ``grid_not_metric``.
    """
    tile = tile_grid(mgrs_tile)
    epsg = next((code for code in map(_epsg, (properties, *band_assets)) if code), tile.epsg if tile else 0)
    if not epsg:
        return "no_grid"
    if not _is_metric(epsg):
        return "grid_not_metric"
    reason = "no_grid"
    for fields in (*band_assets, properties):
        for corner in _corners(fields):
            if isinstance(corner, str):
                reason = corner
                continue
            return ItemGrid(epsg, *corner)
    if reason == "no_grid" and tile and tile.epsg == epsg:
        return tile
    return reason


def tile_grid(mgrs_tile: str) -> ItemGrid | None:
    """The grid of a Sentinel-2 tile by its name; None for what is no tile.

    A tile covers its cell of 100 km and 9.8 km beyond, to the east and to the south; its corner is on the 60 m grid.

    Source: derived from ESA's tiling grid; see the tests for the items it was checked on.
    """
    match = _TILE_ID.fullmatch(mgrs_tile)
    if match is None or not 1 <= int(match[1]) <= 60:
        return None
    zone, band = int(match[1]), _BANDS.index(match[2])
    columns = _COLUMNS[zone % 3]
    if match[3] not in columns:
        return None
    east_m = 100_000 * (columns.index(match[3]) + 1)
    row = (_ROWS.index(match[4]) - (0 if zone % 2 else 5)) % 20
    centre_deg = -76.0 + 8.0 * band + (2.0 if match[2] == "X" else 0.0)
    cycle = round((centre_deg * _METRES_PER_DEGREE - 100_000 * (row + 0.5)) / 2_000_000)
    north_m = 100_000 * (row + 1) + 2_000_000 * cycle
    is_south = match[2] < "N"
    return ItemGrid(
        epsg=(32_700 if is_south else 32_600) + zone,
        x_ul_m=float(east_m // 60 * 60),
        y_ul_m=float(-(-north_m // 60) * 60 + (_FALSE_NORTHING_M if is_south else 0)),
        width_px=TILE_SIZE_PX,
        height_px=TILE_SIZE_PX,
        resolution_m=TILE_RESOLUTION_M,
    )


def numbers(value: object, minimum: int) -> tuple[float, ...]:
    """The finite numbers of a list of at least ``minimum`` of them; empty for anything else."""
    if not isinstance(value, list | tuple) or len(value) < minimum:
        return ()
    plain = all(isinstance(each, int | float) and not isinstance(each, bool) for each in value)
    return tuple(float(each) for each in value) if plain and all(abs(each) < 1e12 for each in value) else ()


def _corners(fields: Mapping[str, Any]) -> Iterator[tuple[float, float, int, int, float] | str]:
    """x, y, width, height and resolution, as far as the fields give them."""
    transform = numbers(fields.get("proj:transform"), 6)
    shape = numbers(fields.get("proj:shape"), 2)
    box = numbers(fields.get("proj:bbox"), 4)
    if transform and (shape or box):
        yield _from_transform(transform, shape, box)
    elif shape and box and all(side >= 1 for side in shape[:2]):
        height, width = shape[:2]
        west, south, east, north = box if len(box) == 4 else (box[0], box[1], box[3], box[4])
        resolution = (east - west) / width
        if resolution > 0 and math.isclose(resolution, (north - south) / height, rel_tol=1e-9):
            yield _checked(west, north, width, height, resolution)
        else:
            yield "grid_not_north_up"


def _from_transform(
    transform: tuple[float, ...], shape: tuple[float, ...], box: tuple[float, ...]
) -> tuple[float, float, int, int, float] | str:
    a, b, c, d, e, f = transform[:6]
    if e == 0 and c == 0:  # GDAL's order of the six numbers
        a, b, c, d, e, f = b, c, a, e, f, d
    if a <= 0 or a != -e or b or d:
        return "grid_not_north_up"
    if shape:
        height, width = shape[:2]
    else:
        height, width = round((box[3] - box[1]) / a), round((box[2] - box[0]) / a)
    return _checked(c, f, width, height, a)


def _checked(
    x: float, y: float, width: float, height: float, resolution: float
) -> tuple[float, float, int, int, float] | str:
    sides_are_whole = width == int(width) and height == int(height)
    if not sides_are_whole or not (1 <= width <= MAX_SIDE_PX and 1 <= height <= MAX_SIDE_PX):
        return "no_grid"
    return x, y, int(width), int(height), resolution


def _epsg(fields: Mapping[str, Any]) -> int:
    """EPSG code of an item or an item asset; 0 where it names none."""
    for name in ("proj:code", "proj:epsg", "eo:epsg"):
        value = fields.get(name)
        match = _EPSG.fullmatch(str(value).strip()) if value is not None else None
        if match:
            return int(match[1])
    described = fields.get("proj:projjson") or fields.get("proj:wkt2")
    if isinstance(described, Mapping):
        try:
            described = json.dumps(described)
        except (TypeError, ValueError):
            return 0
    return _epsg_of_text(described) if isinstance(described, str) else 0


@lru_cache(maxsize=256)
def _epsg_of_text(text: str) -> int:
    try:
        return CRS.from_user_input(text).to_epsg() or 0
    except CRSError:
        return 0


@lru_cache(maxsize=1024)
def _is_metric(epsg: int) -> bool:
    if 32_601 <= epsg <= 32_660 or 32_701 <= epsg <= 32_760:
        return True
    try:
        crs = CRS.from_epsg(epsg)
    except CRSError:
        return False
    return bool(crs.is_projected) and all(axis.unit_name == "metre" for axis in crs.axis_info)
