"""Where a STAC item has data, whichever way it says so."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from shapely import make_valid, transform
from shapely.affinity import translate
from shapely.errors import ShapelyError
from shapely.geometry import MultiPolygon, box, shape
from shapely.geometry.base import BaseGeometry

from pipelines.sampling.item_grid import numbers


def footprint_of_item(item: Mapping[str, Any]) -> BaseGeometry | None:
    """Where an item says that it has data, in longitude and latitude; None where it says nothing usable.

    A missing or broken geometry gives way to the bounding box. An outline that runs across the antimeridian becomes two
    parts, one on either side, whichever way the item writes it.
    """
    found = _shape(item.get("geometry"))
    if found is None or found.is_empty:
        found = _shape_of_box(numbers(item.get("bbox"), 4))
    if found is None or found.is_empty:
        return None
    west, south, east, north = found.bounds
    if not (south >= -180.0 and north <= 90.0 and south >= -90.0 and west >= -360.0 and east <= 360.0):
        return None
    parts = [_across_the_antimeridian(part) for part in getattr(found, "geoms", [found])]
    merged = parts[0]
    for part in parts[1:]:
        merged = merged.union(part)
    return merged if merged.area > 0 else None


def _shape(geometry: object) -> BaseGeometry | None:
    if not isinstance(geometry, Mapping) or geometry.get("type") not in ("Polygon", "MultiPolygon"):
        return None
    try:
        found = shape(geometry)
        finite = bool(np.isfinite(found.bounds).all())
    except (ShapelyError, ValueError, TypeError, AttributeError, IndexError, KeyError, OverflowError):
        return None
    return found if finite else None


def _shape_of_box(bounds: tuple[float, ...]) -> BaseGeometry | None:
    if not bounds:
        return None
    west, south, east, north = bounds if len(bounds) == 4 else (bounds[0], bounds[1], *bounds[-3:-1])
    if west > east:
        east += 360.0
    return box(west, south, east, north) if south < north else None


def _across_the_antimeridian(part: BaseGeometry) -> BaseGeometry:
    """A polygon within -180 to 180: one that spans more than half the globe is read as running across the date line."""
    west, _, east, _ = part.bounds
    if east - west > 180.0:
        part = transform(part, lambda xy: np.column_stack([np.where(xy[:, 0] < 0, xy[:, 0] + 360, xy[:, 0]), xy[:, 1]]))
    part = part if part.is_valid else make_valid(part)
    west, _, east, _ = part.bounds
    if west >= -180.0 and east <= 180.0:
        return part
    pieces = [
        translate(part.intersection(box(start, -90.0, start + 360.0, 90.0)), xoff=shift)
        for start, shift in ((-540.0, 360.0), (-180.0, 0.0), (180.0, -360.0))
    ]
    polygons = [each for piece in pieces for each in getattr(piece, "geoms", [piece])]
    return MultiPolygon([each for each in polygons if each.geom_type == "Polygon" and each.area > 0])
