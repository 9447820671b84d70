"""One set of objects from overlapping tiles: nothing twice at a seam, a zone border or the antimeridian."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from pipelines.evaluation.sphere import unit_vectors
from pipelines.satlas.geometry import (
    EARTH_RADIUS_M,
    WGS84,
    areas_m2,
    as_polygon,
    chord,
    frame_of,
    objects_to_lonlat,
    wrap_lon,
)

if TYPE_CHECKING:
    import geopandas

COLUMNS: Final = ("category", "score", "geometry")
NEAR_ANTIMERIDIAN_DEG: Final = 5.0


def usable_objects(
    objects: "geopandas.GeoDataFrame", categories: Sequence[str], *, polygons: bool
) -> tuple["geopandas.GeoDataFrame", Counter[str]]:
    """Objects of a tile that can be published, and why the others cannot, counted by reason.

    A self-intersecting polygon is repaired; what has no area after that is left out, as are missing or unknown
    categories, scores outside [0, 1] and points that are not finite.
    """
    import shapely

    geometry = objects.geometry.to_numpy()
    if polygons:
        geometry = np.array([_repaired(each) for each in geometry], dtype=object)
    kinds = {"Polygon", "MultiPolygon"} if polygons else {"Point"}
    fits = np.array([each is not None and each.geom_type in kinds and not each.is_empty for each in geometry], bool)
    finite = np.array([bool(np.isfinite(shapely.get_coordinates(each)).all()) for each in geometry], dtype=bool)
    score = objects["score"].to_numpy(dtype=np.float64, na_value=np.nan)
    verdicts = {
        "missing or unknown category": ~objects["category"].isin(list(categories)).to_numpy(dtype=bool),
        "score missing or outside 0 to 1": ~((score >= 0) & (score <= 1)),
        "invalid geometry": ~(fits & finite),
    }
    rejected: Counter[str] = Counter()
    keep = np.ones(len(objects), dtype=bool)
    for reason, wrong in verdicts.items():
        rejected[reason] += int((keep & wrong).sum())
        keep &= ~wrong
    return objects.assign(geometry=geometry)[keep], +rejected


def _repaired(geometry: Any) -> Any:  # noqa: ANN401
    if geometry is None or geometry.geom_type not in {"Polygon", "MultiPolygon"} or geometry.is_valid:
        return geometry
    return as_polygon(geometry)


def gather_lonlat(tiles: Sequence["geopandas.GeoDataFrame"]) -> "geopandas.GeoDataFrame":
    """Objects of tiles, each in its own reference system, as one table in WGS 84."""
    import geopandas
    import pandas as pd

    by_system = defaultdict(list)
    for tile in tiles:
        if len(tile):
            by_system[str(tile.crs)].append(tile[list(COLUMNS)])
    parts = [objects_to_lonlat(pd.concat(same, ignore_index=True)) for same in by_system.values()]
    if not parts:
        empty = {"category": pd.Series([], dtype=str), "score": pd.Series([], dtype=np.float64)}
        return geopandas.GeoDataFrame(empty, geometry=[], crs=WGS84)
    return geopandas.GeoDataFrame(pd.concat(parts, ignore_index=True), crs=WGS84)


def merge_points(points: "geopandas.GeoDataFrame", distance_m: float) -> "geopandas.GeoDataFrame":
    """Of points within a distance of one another the best, whatever their categories: non-maximum suppression.

    Distances run along great circles. The result does not depend on the order of the rows; it is sorted by score,
    the highest first, then place.

    Args:
        points: WGS 84, columns category, score, geometry.
        distance_m: Points not further apart are one object.
    """
    import shapely
    from scipy.spatial import cKDTree

    if points.empty:
        return points.reset_index(drop=True)
    lonlat = shapely.get_coordinates(points.geometry.to_numpy())
    lonlat[:, 0] = wrap_lon(lonlat[:, 0])
    order = np.lexsort(
        (points["category"].to_numpy(dtype=str), lonlat[:, 1], lonlat[:, 0], -points["score"].to_numpy())
    )
    lonlat = lonlat[order]
    pairs = cKDTree(unit_vectors(lonlat)).query_pairs(chord(distance_m), output_type="ndarray")
    keep = _keep_first(len(lonlat), np.sort(pairs, axis=1))
    merged = points.iloc[order].set_geometry(shapely.points(lonlat), crs=WGS84)
    return merged[keep].reset_index(drop=True)


def _keep_first(number: int, pairs: NDArray[np.intp]) -> NDArray[np.bool_]:
    """Which of objects in order of merit stay, where each that stays suppresses those paired with it."""
    keep = np.ones(number, dtype=bool)
    pairs = pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))]
    for better, worse in pairs.tolist():
        if keep[better]:
            keep[worse] = False
    return keep


def merge_polygons(polygons: "geopandas.GeoDataFrame", gap_m: float) -> "geopandas.GeoDataFrame":
    """Union of polygons of one category that touch or are no further apart than the gap.

    Parts of an object that a seam cut are closed over the gap and keep their outline elsewhere; the score is the
    mean by area. A polygon without neighbors stays as it is. Sorted by category, score and place.

    Args:
        polygons: WGS 84, columns category, score, geometry; longitudes may pass 180 degrees.
        gap_m: Widest gap that is closed, about a pixel.
    """
    import geopandas

    if polygons.empty:
        return polygons.reset_index(drop=True)
    polygons = sorted_by_place(polygons)
    geometry = polygons.geometry.to_numpy()
    category = polygons["category"].to_numpy(dtype=str)
    score = polygons["score"].to_numpy(dtype=np.float64)
    near = pairs_within(geometry, gap_m)
    group = connected(len(geometry), near[category[near[:, 0]] == category[near[:, 1]]])
    rows = []
    for members in np.split(np.argsort(group, kind="stable"), np.cumsum(np.bincount(group))[:-1]):
        area = areas_m2(geometry[members])
        merged = geometry[members[0]] if len(members) == 1 else union_of(geometry[members], gap_m)
        rows.append((category[members[0]], float(np.average(score[members], weights=area)), merged))
    frame = geopandas.GeoDataFrame(dict(zip(COLUMNS, zip(*rows, strict=True), strict=True)), crs=WGS84)
    return sorted_by_place(frame)


def sorted_by_place(frame: "geopandas.GeoDataFrame") -> "geopandas.GeoDataFrame":
    """Rows by category, then from west to east and south to north: an order that no tiling decides."""
    bounds = frame.geometry.bounds
    west = wrap_lon(bounds["minx"].to_numpy()).round(6)
    keys = (bounds["maxy"], bounds["miny"], west, frame["category"].to_numpy(dtype=str))
    return frame.iloc[np.lexsort(keys)].reset_index(drop=True)


def pairs_within(geometry: NDArray[Any], distance_m: float) -> NDArray[np.intp]:
    """Pairs (i < j) of geometries of longitude and latitude that are no further apart, shape (pairs, 2)."""
    pairs = candidate_pairs(geometry, distance_m)
    close = [_distance_m(geometry[i], geometry[j]) <= distance_m for i, j in pairs.tolist()]
    found: NDArray[np.intp] = pairs[np.array(close, dtype=bool)]
    return found


def candidate_pairs(geometry: NDArray[Any], distance_m: float) -> NDArray[np.intp]:
    """Pairs (i < j) of geometries whose bounds are no further apart, shape (pairs, 2): all that are near, and more."""
    import shapely

    turned, owner = _with_other_turns(geometry)
    grown = _grown_boxes(turned, distance_m)
    left, right = shapely.STRtree(grown).query(grown, predicate="intersects")
    pairs = np.unique(np.column_stack([owner[left], owner[right]]), axis=0)
    ordered: NDArray[np.intp] = pairs[pairs[:, 0] < pairs[:, 1]]
    return ordered


def _with_other_turns(geometry: NDArray[Any]) -> tuple[NDArray[Any], NDArray[np.intp]]:
    """Geometries about -180 to 180 degrees, those near the antimeridian also one turn on; and whose each is."""
    import shapely

    bounds = shapely.bounds(geometry)
    turn = -360.0 * np.floor(((bounds[:, 0] + bounds[:, 2]) / 2 + 180.0) / 360.0)
    base = np.array([_moved(g, t) for g, t in zip(geometry, turn, strict=True)], dtype=object)
    west = shapely.bounds(base)[:, 0]
    again = np.flatnonzero(west < -180.0 + NEAR_ANTIMERIDIAN_DEG)
    copies = np.array([_moved(each, 360.0) for each in base[again]], dtype=object)
    return np.concatenate([base, copies]), np.concatenate([np.arange(len(base)), again])


def _moved(geometry: Any, degrees: float) -> Any:  # noqa: ANN401
    import shapely

    return shapely.transform(geometry, lambda lonlat: lonlat + np.array([degrees, 0.0])) if degrees else geometry


def _grown_boxes(geometry: NDArray[Any], distance_m: float) -> NDArray[Any]:
    import shapely

    west, south, east, north = shapely.bounds(geometry).T
    lat_deg = np.degrees(distance_m / EARTH_RADIUS_M)
    lon_deg = lat_deg / np.clip(np.cos(np.radians(np.maximum(np.abs(south), np.abs(north)))), 1e-3, None)
    boxes: NDArray[Any] = shapely.box(west - lon_deg, south - lat_deg, east + lon_deg, north + lat_deg)
    return boxes


def _distance_m(first: Any, second: Any) -> float:  # noqa: ANN401
    frame = frame_of([first])
    return float(frame.to_meters(first).distance(frame.to_meters(second)))


def union_of(geometry: NDArray[Any], gap_m: float) -> Any:  # noqa: ANN401
    """Union of neighbors with gaps up to ``gap_m`` closed, on the first one's turn of the globe."""
    import shapely

    frame = frame_of(geometry)
    reach = gap_m / 2 + 0.01
    grown = [frame.to_meters(each).buffer(reach, join_style="mitre") for each in geometry]
    return as_polygon(frame.to_lonlat(shapely.union_all(grown).buffer(-reach, join_style="mitre")))


def connected(number: int, pairs: NDArray[np.intp]) -> NDArray[np.intp]:
    """Number of the connected component of each of ``number`` nodes; components count by their first node."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    edges = coo_array((np.ones(len(pairs), dtype=np.int8), (pairs[:, 0], pairs[:, 1])), shape=(number, number))
    _, label = connected_components(edges, directed=False)
    first = np.unique(label, return_index=True)[1]
    rank: NDArray[np.intp] = np.argsort(np.argsort(first))[label]
    return rank
