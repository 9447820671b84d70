"""On which continent a place lies, by the countries of Natural Earth."""

from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipelines.errors import MissingTableError, TableError
from pipelines.evaluation.tasks.download import download_file

TOLERANCE_KM: Final = 100.0
NO_CONTINENT: Final = "none"
CONTINENT_COLUMN: Final = "CONTINENT"
COUNTRY_COLUMN: Final = "ADMIN"
EARTH_RADIUS_KM: Final = 6371.0088
OUTLINE_STEP_DEG: Final = 0.1
"""Distances are to points of the outline no further apart than this, so that one of d km is too long by 15 / d km."""

SOURCE_URL: Final = (
    "https://raw.githubusercontent.com/nasaharvest/galileo/0f0b5b95ac81acef4b74cf4686dc877202f4541b/"
    "src/eval/cropharvest/country_shapefile/"
)
"""Natural Earth's 1:50m countries (public domain) at a fixed commit of a repository that carries them."""
FILES: Final = {
    "ne_50m_admin_0_countries.shx": "04081330b6a0a1e7c55f6c9cdcd9ebee862776fdf5900035d6f2a6bfa485f3b1",
    "ne_50m_admin_0_countries.dbf": "06171be8324d83b989d009e18e1c2d48474debef24023595c5ade937cf7845fd",
    "ne_50m_admin_0_countries.shp": "be7c2385e98180bc87288a4109388d3e38c4fff038de4f24d60546503f689ea2",
}
"""SHA-256 of each file at that address, of copies taken from that commit; the .shp, by which they are found, last."""


class Region(NamedTuple):
    """A part of a country that lies on another continent than the country is counted to; degrees, borders included."""

    country: str
    west: float
    south: float
    east: float
    north: float
    continent: str


MOVED: Final = (
    Region("Russia", 60, -90, 180, 90, "Asia"),
    Region("Russia", -180, -90, -100, 90, "Asia"),
    Region("France", -56, 0, -50, 8, "South America"),
    Region("France", -64, 10, -58, 20, "North America"),
    Region("France", 40, -25, 60, -5, "Africa"),
    Region("Netherlands", -72, 8, -58, 20, "North America"),
)
"""Natural Earth gives each country one continent: all of Russia, French Guiana and Reunion would be Europe."""


def continent_of(
    lonlat_deg: NDArray[np.float64],
    polygons: Path | None = None,
    *,
    tolerance_km: float = TOLERANCE_KM,
    download: bool = False,
) -> NDArray[np.str_]:
    """Continent of each place, shape (n,): Natural Earth's of the country it lies in, or is near.

    Names are Africa, Antarctica, Asia, Europe, North America, Oceania, South America, and ``Seven seas (open ocean)``
    for eight groups of islands such as Mauritius and the Maldives. A place in no country takes that of the nearest
    coast within the tolerance, else ``none``.

    Unlike in Natural Earth, Russia is Asia east of 60 degrees east, and French and Dutch lands overseas belong to
    where they lie (`MOVED`). As there, Turkey, Cyprus, the Caucasus and Kazakhstan are wholly Asia, Egypt with Sinai
    is Africa, Greenland, Hawaii and Central America are North America.

    Args:
        lonlat_deg: Places, shape (n, 2), longitude first in degrees.
        polygons: Countries with a column ``CONTINENT``: any file that geopandas reads, or a folder that holds a
            ``*admin_0_countries.shp``; None takes the user's cache (`default_polygons`).
        tolerance_km: How far from a coast a place may lie, along a great circle.
        download: Whether countries that are not there are fetched, to that folder or the cache; see `FILES`.

    Raises:
        MissingTableError: The countries are not there.
        TableError: The file cannot be read or has no column ``CONTINENT``, or cannot be fetched as declared.
        ValueError: The places are of another shape, or not finite.
    """
    places = np.asarray(lonlat_deg, dtype=np.float64)
    if places.ndim != 2 or places.shape[1] != 2 or not np.isfinite(places).all():
        raise ValueError(f"places have shape {places.shape}; expected (n, 2) of finite longitudes and latitudes")
    parts = _read_parts(_polygons_file(default_polygons() if polygons is None else polygons, download))
    part = _part_of(places, parts.geometry.to_numpy(), tolerance_km)
    continents = np.append(parts[CONTINENT_COLUMN].to_numpy(dtype=str), NO_CONTINENT)[part]
    countries = np.append(parts[COUNTRY_COLUMN].to_numpy(dtype=str), "")[part]
    continents = continents.astype(f"U{max(map(len, [*continents.tolist(), 'South America']))}")
    for region in MOVED:
        lon_deg, lat_deg = places.T
        inside = (lon_deg >= region.west) & (lon_deg <= region.east)
        inside &= (lat_deg >= region.south) & (lat_deg <= region.north)
        continents[inside & (countries == region.country)] = region.continent
    return continents


def default_polygons() -> Path:
    """The folder of the user's cache where downloaded countries lie."""
    return Path.home() / ".cache" / "satclip" / "natural_earth"


def _polygons_file(polygons: Path, download: bool) -> Path:
    found = sorted(polygons.rglob("*admin_0_countries.shp")) if polygons.is_dir() else [polygons]
    if found and found[0].exists():
        return found[0]
    if not download:
        raise MissingTableError(
            f"{polygons}: no countries of Natural Earth there, which hold-out continents need; give a file with a "
            f"column {CONTINENT_COLUMN} (naturalearthdata.com, Admin 0 - Countries), or ask for the download "
            "(--download)"
        )
    if polygons.suffix:
        raise TableError(f"{polygons}: no such file; the download needs a folder, or no path for the user's cache")
    for name, sha256 in FILES.items():
        download_file(SOURCE_URL + name, polygons / name, sha256)
    return polygons / "ne_50m_admin_0_countries.shp"


def _read_parts(path: Path) -> Any:  # noqa: ANN401
    import geopandas

    try:
        countries = geopandas.read_file(path)
    except (RuntimeError, OSError, ValueError) as error:
        raise TableError(f"{path}: cannot be read as polygons ({error}); expected Natural Earth's countries") from error
    known = {name.lower(): name for name in (CONTINENT_COLUMN, COUNTRY_COLUMN)}
    countries = countries.rename(columns=lambda column: known.get(str(column).lower(), column))
    if not isinstance(countries, geopandas.GeoDataFrame) or CONTINENT_COLUMN not in countries.columns:
        columns = ", ".join(map(str, countries.columns[:20]))
        raise TableError(
            f"{path}: no column {CONTINENT_COLUMN!r}, found {columns}; expected Natural Earth's Admin 0 - Countries"
        )
    if countries.crs is not None:
        countries = countries.to_crs("EPSG:4326")
    if COUNTRY_COLUMN not in countries.columns:
        countries[COUNTRY_COLUMN] = ""
    return countries[[CONTINENT_COLUMN, COUNTRY_COLUMN, "geometry"]].explode(index_parts=False, ignore_index=True)


def _part_of(places: NDArray[np.float64], parts: NDArray[Any], tolerance_km: float) -> NDArray[np.intp]:
    import shapely

    shapely.prepare(parts)
    holder, place = shapely.STRtree(shapely.points(places)).query(parts, predicate="intersects")
    part = np.full(len(places), len(parts))
    np.minimum.at(part, place, holder)
    outside = np.flatnonzero(part == len(parts))
    if len(outside):
        part[outside] = _nearest_part(places[outside], parts, tolerance_km)
    return np.where(part == len(parts), -1, part)


def _nearest_part(places: NDArray[np.float64], parts: NDArray[Any], tolerance_km: float) -> NDArray[np.intp]:
    import shapely
    from scipy.spatial import cKDTree

    outline, part = shapely.get_coordinates(shapely.segmentize(parts, OUTLINE_STEP_DEG), return_index=True)
    chord = 2 * np.sin(np.clip(tolerance_km / EARTH_RADIUS_KM, 0, np.pi) / 2)
    tree = cKDTree(_unit_vectors(outline), balanced_tree=False, compact_nodes=False)
    _, nearest = tree.query(_unit_vectors(places), distance_upper_bound=np.nextafter(chord, np.inf))
    nearest_part: NDArray[np.intp] = np.append(part, len(parts))[nearest]
    return nearest_part


def _unit_vectors(lonlat_deg: NDArray[np.float64]) -> NDArray[np.float64]:
    lon, lat = np.radians(lonlat_deg).T
    return np.column_stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)])
