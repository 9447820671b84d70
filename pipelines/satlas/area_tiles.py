"""An area cut into tiles: squares of whole pixels on one grid per UTM zone, wherever the area begins."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import shapely
from shapely.geometry import shape
from shapely.geometry.base import BaseGeometry

from pipelines.errors import ConfigurationError
from pipelines.satlas.predictions import TileGrid
from pipelines.satlas.windows_config import WindowsConfig

RESOLUTION_M: Final = 10.0
MAX_TILES: Final = 1_000_000
_DENSE_DEG: Final = 0.05
"""Longest edge of an area that is projected as a straight line; it is then less than a meter off."""


@dataclass(frozen=True)
class AreaTile:
    """A tile.

    Attributes:
        name: Zone, and column and row of its grid: the same place always has the same name.
        grid: Its pixels.
    """

    name: str
    grid: TileGrid


def tiles_of_area(config: WindowsConfig) -> list[AreaTile]:
    """Tiles that share more than their edge with the area, by name; across a zone's border each zone has its own.

    Raises:
        ConfigurationError: The file of the area cannot be read, or there are too many tiles.
    """
    return sorted(_tiles(read_area(config), config), key=lambda tile: tile.name)


def cells_under(grid: TileGrid, side_px: int) -> list[AreaTile]:
    """Squares of a zone's unmoved grid that share pixels with a grid of the zone, row by row."""
    side, (west, south, east, north) = side_px * RESOLUTION_M, grid.bounds_m
    return [
        AreaTile(
            f"{grid.epsg}_{column:04d}_{row:05d}",
            TileGrid(grid.epsg, column * side, (row + 1) * side, RESOLUTION_M, side_px, side_px),
        )
        for row in range(int(south // side), int(-(-north // side)))
        for column in range(int(west // side), int(-(-east // side)))
    ]


def read_area(config: WindowsConfig) -> BaseGeometry:
    """Boxes and polygons of a configuration in degrees, longitudes in -180 to 180.

    Raises:
        ConfigurationError: The file of the area cannot be read, or holds no polygon.
    """
    parts: list[BaseGeometry] = []
    for west, south, east, north in config.boxes:
        spans = [(west, east)] if west < east else [(west, 180.0), (-180.0, east)]
        parts += [shapely.box(first, south, last, north) for first, last in spans if first < last]
    if config.area:
        parts.append(_read_geojson(Path(config.area)))
    return shapely.union_all(parts)


def _read_geojson(path: Path) -> BaseGeometry:
    try:
        content = json.loads(path.read_text())
        features = content.get("features", [content])
        geometries = [shape(each.get("geometry", each)) for each in features]
    except (OSError, ValueError, AttributeError, TypeError, KeyError) as error:
        raise ConfigurationError(
            f"{path}: no GeoJSON that can be read ({error}); expected polygons in degrees"
        ) from error
    polygons = [each for each in geometries if each.geom_type in ("Polygon", "MultiPolygon") and not each.is_empty]
    if not polygons:
        found = ", ".join(sorted({each.geom_type for each in geometries})) or "nothing"
        raise ConfigurationError(f"{path}: holds {found}; expected polygons of the area in degrees")
    united = shapely.union_all([shapely.make_valid(each) for each in polygons])
    west, south, east, north = united.bounds
    if west < -180 or east > 180 or south < -80 or north > 84:
        raise ConfigurationError(
            f"{path}: reaches from {west:.1f}, {south:.1f} to {east:.1f}, {north:.1f}; expected longitudes from "
            "-180 to 180 (cut polygons at the antimeridian, RFC 7946) and latitudes from -80 to 84"
        )
    return united


def _tiles(area: BaseGeometry, config: WindowsConfig) -> Iterator[AreaTile]:
    number = 0
    for epsg, strip in _zones(area):
        part = shapely.intersection(area, strip)
        if part.is_empty or part.area == 0:
            continue
        for tile in _tiles_of_zone(_projected(part, epsg), epsg, config):
            number += 1
            if number > MAX_TILES:
                raise ConfigurationError(
                    f"the area has more than {MAX_TILES:,} tiles of {config.tile_px} px; make tiles larger or cut "
                    "the area"
                )
            yield tile


def _zones(area: BaseGeometry) -> Iterator[tuple[int, BaseGeometry]]:
    """UTM zones that the bounds of an area reach, and their strips; six degrees wide everywhere."""
    west, south, east, north = area.bounds
    for zone in range(1, 61):
        first, last = 6.0 * zone - 186.0, 6.0 * zone - 180.0
        if last < west or first > east:
            continue
        if north > 0:
            yield 32600 + zone, shapely.box(first, 0.0, last, 84.0)
        if south < 0:
            yield 32700 + zone, shapely.box(first, -80.0, last, 0.0)


def _projected(part: BaseGeometry, epsg: int) -> BaseGeometry:
    from pyproj import Transformer

    transformer = Transformer.from_crs(4326, epsg, always_xy=True)
    dense = shapely.segmentize(part, _DENSE_DEG)
    return shapely.transform(dense, lambda places: np.column_stack(transformer.transform(*places.T)))


def _tiles_of_zone(part: BaseGeometry, epsg: int, config: WindowsConfig) -> Iterator[AreaTile]:
    side, shift = config.tile_px * RESOLUTION_M, config.grid_shift_px % config.tile_px * RESOLUTION_M
    shapely.prepare(part)
    west, south, east, north = part.bounds
    suffix = f"_{config.grid_shift_px}" if shift else ""
    for row in range(int((south + shift) // side), int((north + shift) // side) + 1):
        for column in range(int((west - shift) // side), int((east - shift) // side) + 1):
            left, top = column * side + shift, (row + 1) * side - shift
            square = shapely.box(left, top - side, left + side, top)
            if shapely.intersects(part, square) and shapely.intersection(part, square).area > 0:
                grid = TileGrid(epsg, left, top, RESOLUTION_M, config.tile_px, config.tile_px)
                yield AreaTile(f"{epsg}_{column:04d}_{row:05d}{suffix}", grid)
