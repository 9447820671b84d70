"""Which detections of different months are the same object."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from pipelines.evaluation.sphere import unit_vectors
from pipelines.satlas.geometry import WGS84, areas_m2, chord, frame_of
from pipelines.satlas.merging import candidate_pairs, connected, union_of

if TYPE_CHECKING:
    import geopandas

SHARED_FRACTION: Final = 0.1
"""Polygons of two months are one object where they share at least this part of the smaller."""


@dataclass(frozen=True)
class Tracks:
    """Objects through months.

    Attributes:
        objects: Per object its category, score (highest of all months) and latest geometry, WGS 84.
        row_of: Row of the month's detections that is the object's, int, shape (objects, months); -1 where none is.
        detections: Per month the detections, each one of one object only; polygons of one object are united.
    """

    objects: "geopandas.GeoDataFrame"
    row_of: NDArray[np.intp]
    detections: Sequence["geopandas.GeoDataFrame"]


def track_points(months: Mapping[str, "geopandas.GeoDataFrame"], distance_m: float) -> Tracks:
    """Links each month's points to the objects known so far: nearest pairs first, one to one, within a distance.

    An object is where it was detected last, so that one seen again after months without an image is found again.
    Points without an object begin one.

    Args:
        months: Merged points by month, in order; WGS 84 with columns category and score.
        distance_m: Furthest that detections of one object lie apart.
    """
    import shapely

    rows: list[NDArray[np.intp]] = []
    where = np.zeros((0, 3))
    for points in months.values():
        xyz = unit_vectors(shapely.get_coordinates(points.geometry.to_numpy()))
        known = pair_nearest(where, xyz, distance_m)
        new = np.setdiff1d(np.arange(len(xyz)), known)
        row = np.concatenate([known, new])
        where = np.concatenate([where, np.zeros((len(new), 3))])
        where[row >= 0] = xyz[row[row >= 0]]
        rows.append(row)
    row_of = np.full((len(where), len(rows)), -1, dtype=np.intp)
    for month, row in enumerate(rows):
        row_of[: len(row), month] = row
    return _described(list(months.values()), row_of)


def pair_nearest(known_xyz: NDArray[np.float64], found_xyz: NDArray[np.float64], distance_m: float) -> NDArray[np.intp]:
    """Pairs places one to one, the nearest first; per known place the row of the found one, -1 where none is near.

    Args:
        known_xyz: Unit vectors, shape (n, 3).
        found_xyz: Unit vectors, shape (m, 3).
        distance_m: Furthest that a pair lies apart along a great circle.
    """
    from scipy.spatial import cKDTree

    row = np.full(len(known_xyz), -1, dtype=np.intp)
    if not len(known_xyz) or not len(found_xyz):
        return row
    near = cKDTree(known_xyz).sparse_distance_matrix(cKDTree(found_xyz), chord(distance_m), output_type="coo_matrix")
    taken: set[int] = set()
    for index in np.lexsort((near.col, near.row, near.data)).tolist():
        known, found = int(near.row[index]), int(near.col[index])
        if row[known] < 0 and found not in taken:
            row[known] = found
            taken.add(found)
    return row


def track_polygons(months: Mapping[str, "geopandas.GeoDataFrame"], gap_m: float) -> Tracks:
    """Groups polygons of one category that overlap what was last seen there; a group is one object, however it grows.

    Two farms that grow together are one object in all months, in earlier ones with two parts.

    Args:
        months: Merged polygons by month, in order; WGS 84 with columns category and score.
        gap_m: Widest gap closed between parts of an object.
    """
    import pandas as pd

    numbered = [frame.assign(month=number) for number, frame in enumerate(months.values())]
    joined = pd.concat(numbered, ignore_index=True)
    if joined.empty:
        return _described(list(months.values()), np.zeros((0, len(months)), dtype=np.intp))
    group = _overlapping_groups(joined)
    detections, row_of = [], np.full((int(group.max()) + 1, len(months)), -1, dtype=np.intp)
    for month in range(len(months)):
        rows = np.flatnonzero(joined["month"].to_numpy() == month)
        rows = rows[np.argsort(group[rows], kind="stable")]
        present, starts = np.unique(group[rows], return_index=True)
        row_of[present, month] = np.arange(len(present))
        detections.append(_united(joined.iloc[rows], starts, gap_m))
    return _described(detections, row_of)


def _overlapping_groups(joined: "geopandas.GeoDataFrame") -> NDArray[np.intp]:
    """Groups of polygons that overlap what was last seen there, month after month."""
    geometry, month = joined.geometry.to_numpy(), joined["month"].to_numpy()
    category, area = joined["category"].to_numpy(dtype=str), areas_m2(geometry)
    edges = [np.zeros((0, 2), dtype=np.intp)]
    last_seen = np.zeros(0, dtype=np.intp)
    for number in np.unique(month).tolist():
        new = np.flatnonzero(month == number)
        rows = np.concatenate([last_seen, new])
        pairs = candidate_pairs(geometry[rows], 0.0)
        pairs = rows[pairs[(pairs[:, 0] < len(last_seen)) & (pairs[:, 1] >= len(last_seen))]]
        pairs = pairs[category[pairs[:, 0]] == category[pairs[:, 1]]]
        share = [_shared_area(geometry[i], geometry[j]) / min(area[i], area[j]) for i, j in pairs.tolist()]
        pairs = pairs[np.array(share, dtype=np.float64) >= SHARED_FRACTION]
        edges.append(pairs)
        last_seen = np.concatenate([np.setdiff1d(last_seen, pairs[:, 0]), new])
    return connected(len(geometry), np.concatenate(edges))


def _shared_area(first: Any, second: Any) -> float:  # noqa: ANN401
    frame = frame_of([first])
    return float(frame.to_meters(first).intersection(frame.to_meters(second)).area)


def _united(sorted_parts: "geopandas.GeoDataFrame", starts: NDArray[np.intp], gap_m: float) -> "geopandas.GeoDataFrame":
    """One polygon per object, of a month's parts sorted by object; an object's parts begin at each of ``starts``."""
    import geopandas

    geometry = sorted_parts.geometry.to_numpy()
    score = sorted_parts["score"].to_numpy(dtype=np.float64)[starts]
    whole = geometry[starts]
    ends = np.append(starts[1:], len(geometry))
    for number in np.flatnonzero(ends - starts > 1).tolist():
        parts = slice(int(starts[number]), int(ends[number]))
        score[number] = np.average(sorted_parts["score"].to_numpy()[parts], weights=areas_m2(geometry[parts]))
        whole[number] = union_of(geometry[parts], gap_m)
    category = sorted_parts["category"].to_numpy(dtype=object)[starts]
    return geopandas.GeoDataFrame({"category": category, "score": score}, geometry=whole, crs=WGS84)


def _described(detections: Sequence["geopandas.GeoDataFrame"], row_of: NDArray[np.intp]) -> Tracks:
    """Objects by their latest category and geometry and their highest score."""
    import geopandas

    number = len(row_of)
    category, geometry = np.full(number, "", dtype=object), np.full(number, None, dtype=object)
    score = np.zeros(number)
    for month, frame in enumerate(detections):
        seen = np.flatnonzero(row_of[:, month] >= 0)
        rows = row_of[seen, month]
        category[seen] = frame["category"].to_numpy(dtype=object)[rows]
        geometry[seen] = frame.geometry.to_numpy()[rows]
        score[seen] = np.maximum(score[seen], frame["score"].to_numpy(dtype=np.float64)[rows])
    objects = geopandas.GeoDataFrame({"category": category, "score": score}, geometry=geometry, crs=WGS84)
    return Tracks(objects, row_of, detections)
