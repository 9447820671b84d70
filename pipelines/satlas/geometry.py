"""Objects of many reference systems in one: longitude and latitude, also across the antimeridian."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import geopandas

EARTH_RADIUS_M: Final = 6_371_008.8
WGS84: Final = "EPSG:4326"
COORDINATE_DIGITS: Final = 7
"""Decimal digits of a degree that products carry: about a centimeter."""


def wrap_lon(lon_deg: NDArray[np.float64], around_deg: float = 0.0) -> NDArray[np.float64]:
    """Longitudes moved by whole turns to less than half a turn from ``around_deg``, its western end included."""
    wrapped: NDArray[np.float64] = (lon_deg - around_deg + 180.0) % 360.0 - 180.0 + around_deg
    return wrapped


def chord(distance_m: float) -> float:
    """Distance of two unit vectors whose places are that far apart along a great circle."""
    return float(2 * np.sin(distance_m / EARTH_RADIUS_M / 2))


class LocalFrame(NamedTuple):
    """A plane in meters about a place, true to scale there and to some tens of kilometers around it."""

    lon_deg: float
    lat_deg: float

    def to_meters(self, geometry: Any) -> Any:  # noqa: ANN401
        """Geometries of longitude and latitude, on whatever turn of the globe, as meters from the place."""
        import shapely

        return shapely.transform(geometry, self._forward)

    def to_lonlat(self, geometry: Any) -> Any:  # noqa: ANN401
        """The way back; longitudes lie around the place's and may pass 180 degrees."""
        import shapely

        return shapely.transform(geometry, self._back)

    def _scale(self) -> NDArray[np.float64]:
        meters_per_deg = np.radians(1.0) * EARTH_RADIUS_M
        return np.array([meters_per_deg * max(np.cos(np.radians(self.lat_deg)), 1e-6), meters_per_deg])

    def _forward(self, lonlat_deg: NDArray[np.float64]) -> NDArray[np.float64]:
        lon_deg = wrap_lon(lonlat_deg[:, 0], self.lon_deg)
        meters: NDArray[np.float64] = np.column_stack([lon_deg - self.lon_deg, lonlat_deg[:, 1] - self.lat_deg])
        meters *= self._scale()
        return meters

    def _back(self, meters: NDArray[np.float64]) -> NDArray[np.float64]:
        lonlat: NDArray[np.float64] = meters / self._scale() + np.array([self.lon_deg, self.lat_deg])
        return lonlat


def objects_to_lonlat(objects: "geopandas.GeoDataFrame") -> "geopandas.GeoDataFrame":
    """Objects of a projected reference system in WGS 84; each keeps its shape, so longitudes may pass 180 degrees."""
    import geopandas
    import shapely
    from pyproj import Transformer

    transformer = Transformer.from_crs(objects.crs, WGS84, always_xy=True)
    meters, owner = shapely.get_coordinates(objects.geometry.to_numpy(), return_index=True)
    lonlat = np.column_stack(transformer.transform(meters[:, 0], meters[:, 1])) if len(meters) else meters
    if len(lonlat):
        first = lonlat[np.searchsorted(owner, owner), 0]
        lonlat[:, 0] = first + wrap_lon(lonlat[:, 0] - first)
    moved = shapely.set_coordinates(objects.geometry.to_numpy().copy(), lonlat)
    columns = objects.drop(columns=objects.geometry.name)
    return geopandas.GeoDataFrame(columns, geometry=moved, crs=WGS84)


def frame_of(geometries: Sequence[Any] | NDArray[Any]) -> LocalFrame:
    """A frame about the first of some geometries of longitude and latitude that are near one another."""
    import shapely

    west, south, east, north = shapely.bounds(geometries[0])
    return LocalFrame(float(west + east) / 2, float(south + north) / 2)


def areas_m2(geometries: NDArray[Any]) -> NDArray[np.float64]:
    """Area of each geometry of longitude and latitude, each in a frame of its own."""
    import shapely

    meters = [frame_of([geometry]).to_meters(geometry) for geometry in geometries]
    return np.asarray(shapely.area(np.array(meters, dtype=object)), dtype=np.float64).reshape(-1)


def split_at_antimeridian(geometry: Any) -> Any:  # noqa: ANN401
    """A geometry with every longitude in [-180, 180], cut in two where it passes 180 degrees.

    Source: RFC 7946, section 3.1.9.
    """
    import shapely

    west, _, east, _ = shapely.bounds(geometry)
    turns = np.floor((west + 180.0) / 360.0)
    geometry = _shift(geometry, -360.0 * turns)
    if east - 360.0 * turns <= 180.0:
        return geometry
    if geometry.geom_type == "Point":
        return _shift(geometry, -360.0)
    near = shapely.intersection(geometry, shapely.box(-180, -90, 180, 90))
    far = _shift(shapely.intersection(geometry, shapely.box(180, -90, 540, 90)), -360.0)
    return shapely.multipolygons(polygon_parts([near, far]))


def polygon_parts(geometries: Sequence[Any]) -> list[Any]:
    """The polygons of positive area among the parts of geometries."""
    import shapely

    parts = shapely.get_parts(shapely.get_parts(np.array(geometries, dtype=object)))
    return [part for part in parts if part.geom_type == "Polygon" and part.area > 0]


def as_polygon(geometry: Any) -> Any:  # noqa: ANN401
    """A valid polygon or multipolygon of what is two-dimensional in a geometry; an empty polygon where nothing is."""
    import shapely

    parts = polygon_parts([geometry if geometry.is_valid else shapely.make_valid(geometry)])
    if not parts:
        return shapely.Polygon()
    return parts[0] if len(parts) == 1 else shapely.multipolygons(parts)


def _shift(geometry: Any, degrees: float) -> Any:  # noqa: ANN401
    import shapely

    return shapely.transform(geometry, lambda lonlat: lonlat + np.array([degrees, 0.0])) if degrees else geometry
