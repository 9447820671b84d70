"""Footprints as they should be: in lon/lat within [-180, 180], cut at the antimeridian, whatever the catalog drew."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely.geometry import shape
from shapely.geometry.base import BaseGeometry

HALF_TURN_DEG = 180.0


def footprint_of_item(item: dict[str, Any]) -> BaseGeometry:
    """Where an item has data: a polygon or, across the antimeridian, a multipolygon cut there.

    Longitudes beyond 180 are brought back. A ring that spans more than 180 degrees of longitude is taken for one that
    crosses the antimeridian (no scene is that wide) or, where it goes once around, for one that holds a pole. Without
    a usable geometry the bounding box serves, in which west > east crosses the antimeridian (RFC 7946, 5.2).

    Returns:
        2D, valid; empty where the item says nothing.
    """
    drawn = _shape(item.get("geometry"))
    footprint = shapely.MultiPolygon() if drawn is None else normalized_footprint(drawn)
    return _of_box(item.get("bbox")) if footprint.is_empty else footprint


def normalized_footprints(geometries: NDArray[np.object_]) -> NDArray[np.object_]:
    """`normalized_footprint` of many geometries, shape (n,)."""
    flat: NDArray[np.object_] = shapely.force_2d(geometries)
    bounds = shapely.bounds(flat)
    with np.errstate(invalid="ignore"):
        usual = (bounds[:, 0] >= -HALF_TURN_DEG) & (bounds[:, 2] <= HALF_TURN_DEG)
        usual &= bounds[:, 2] - bounds[:, 0] <= HALF_TURN_DEG
    usual &= shapely.is_valid(flat) & np.isin(shapely.get_type_id(flat), (3, 6))
    for index in np.flatnonzero(~usual):
        flat[index] = _redrawn(flat[index])
    return flat


def normalized_footprint(geometry: BaseGeometry) -> BaseGeometry:
    """A geometry with longitudes in [-180, 180], cut at the antimeridian, 2D and valid."""
    drawn = np.empty(1, dtype=np.object_)
    drawn[0] = geometry
    normalized: BaseGeometry = normalized_footprints(drawn)[0]
    return normalized


def _redrawn(geometry: BaseGeometry | None) -> BaseGeometry:
    if geometry is None:
        return shapely.MultiPolygon()
    if isinstance(geometry, shapely.MultiPolygon) and geometry.is_valid:
        bounds = shapely.bounds(shapely.get_parts(geometry))
        if (np.abs(bounds[:, ::2]) <= HALF_TURN_DEG).all() and (np.ptp(bounds[:, ::2], axis=1) <= HALF_TURN_DEG).all():
            return geometry
    parts = [
        part
        for polygon in shapely.get_parts(geometry)
        if isinstance(polygon, shapely.Polygon) and not polygon.is_empty
        for part in _polygon_parts(polygon)
    ]
    return _joined(parts)


def _joined(polygons: Sequence[shapely.Polygon]) -> BaseGeometry:
    if len(polygons) == 1:
        return polygons[0]
    whole = shapely.MultiPolygon(polygons)
    return whole if whole.is_valid else shapely.union_all(polygons)


def _polygon_parts(polygon: shapely.Polygon) -> list[shapely.Polygon]:
    """The polygon on an unwrapped longitude axis, cut into pieces of one turn each."""
    shell = _unwrapped(np.asarray(polygon.exterior.coords)[:, :2])
    middle_deg = float(shell[:, 0].min() + shell[:, 0].max()) / 2
    holes = []
    for ring in polygon.interiors:
        hole = _unwrapped(np.asarray(ring.coords)[:, :2])
        turns = np.round((middle_deg - (hole[:, 0].min() + hole[:, 0].max()) / 2) / 360.0)
        holes.append(hole + np.array([360.0 * turns, 0.0]))
    valid = shapely.make_valid(shapely.Polygon(shell, holes))
    pieces = [piece for piece in shapely.get_parts(shapely.get_parts(valid)) if isinstance(piece, shapely.Polygon)]
    return [part for piece in pieces for part in _cut_at_antimeridian(piece)]


def _cut_at_antimeridian(geometry: shapely.Polygon) -> list[shapely.Polygon]:
    west, _, east, _ = geometry.bounds
    parts = []
    for turn in range(int(np.floor((west + 180.0) / 360.0)), int(np.ceil((east + 180.0) / 360.0))):
        window = shapely.box(360.0 * turn - 180.0, -90.0, 360.0 * turn + 180.0, 90.0)
        moved = shapely.transform(geometry.intersection(window), lambda xy, by=turn: xy - [360.0 * by, 0.0])
        parts += [part for part in shapely.get_parts(moved) if isinstance(part, shapely.Polygon) and part.area > 0]
    return parts


def _unwrapped(ring: NDArray[np.float64]) -> NDArray[np.float64]:
    """A ring whose longitudes run on across the antimeridian; closed over the pole where it goes once around."""
    lon_deg = ring[:, 0]
    if lon_deg.max() - lon_deg.min() <= HALF_TURN_DEG:
        return ring
    lon_deg = np.unwrap(lon_deg, period=360.0)
    opened = np.column_stack([lon_deg, ring[:, 1]])
    if abs(lon_deg[-1] - lon_deg[0]) < HALF_TURN_DEG:
        return opened
    pole_deg = 90.0 if ring[:, 1].mean() > 0 else -90.0
    return np.vstack([opened, [[lon_deg[-1], pole_deg], [lon_deg[0], pole_deg]], opened[:1]])


def _shape(geometry: object) -> BaseGeometry | None:
    """A GeoJSON geometry; None where it is none, or has numbers that are none."""
    if not isinstance(geometry, dict):
        return None
    try:
        drawn = shape(geometry)
    except (shapely.errors.ShapelyError, ValueError, TypeError, AttributeError, KeyError, IndexError):
        return None
    return drawn if np.isfinite(shapely.get_coordinates(drawn)).all() else None


def _of_box(bbox: object) -> BaseGeometry:
    try:
        bounds = np.asarray(bbox, dtype=np.float64).ravel().tolist()
    except (ValueError, TypeError):
        bounds = []
    if len(bounds) not in (4, 6) or not np.isfinite(bounds).all():
        return shapely.MultiPolygon()
    west, south = bounds[:2]
    east, north = bounds[len(bounds) // 2 : len(bounds) // 2 + 2]
    turned_east = east + 360.0 if west > east else east
    return _joined(_cut_at_antimeridian(shapely.box(west, south, turned_east, north)))
