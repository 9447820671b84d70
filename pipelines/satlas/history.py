"""When each object was there, and what a month shows."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from pipelines.satlas.geometry import WGS84, wrap_lon
from pipelines.satlas.merging import sorted_by_place
from pipelines.satlas.observations import ObservedMonth
from pipelines.satlas.smoothing import DETECTED, NO_IMAGE, NOT_DETECTED, SmoothingConfig, decode_presence
from pipelines.satlas.tracking import Tracks

if TYPE_CHECKING:
    import geopandas

ID_DIGITS: Final = 16


@dataclass(frozen=True)
class History:
    """Objects through months, smoothed.

    Attributes:
        months: Every month from the first to the last, ``YYYY-MM``.
        tracks: The objects.
        observations: Codes of `pipelines.satlas.smoothing`, shape (objects, months).
        episode: Number of the stay that a month belongs to, counted per object from 0, shape (objects, months); -1
            where the object is not there. A stay begins with a detection.
        object_ids: One per object; it depends on task, first month and first place only.
    """

    months: Sequence[str]
    tracks: Tracks
    observations: NDArray[np.uint8]
    episode: NDArray[np.int16]
    object_ids: Sequence[str]


def smooth_history(
    task: str, months: Sequence[str], tracks: Tracks, observed: Sequence[ObservedMonth], config: SmoothingConfig
) -> History:
    """Decides for every object and month whether it was there.

    Args:
        task: Part of the objects' ids.
        months: Every month from the first to the last.
        tracks: Detections of these months, linked.
        observed: Where each month had images.
        config: The hidden Markov model.
    """
    lonlat = places_of(tracks.objects)
    observations = np.full(tracks.row_of.shape, NO_IMAGE, dtype=np.uint8)
    for number, month in enumerate(observed):
        observations[month.num_periods(lonlat) > 0, number] = NOT_DETECTED
    observations[tracks.row_of >= 0] = DETECTED
    episode = _episodes(decode_presence(observations, config), observations)
    return History(months, tracks, observations, episode, _object_ids(task, months, tracks))


def places_of(objects: "geopandas.GeoDataFrame") -> NDArray[np.float64]:
    """A point of each object, shape (n, 2), longitude first in [-180, 180)."""
    import shapely

    geometry = objects.geometry.to_numpy()
    lonlat: NDArray[np.float64] = shapely.get_coordinates(shapely.point_on_surface(geometry)).reshape(-1, 2)
    lonlat[:, 0] = wrap_lon(lonlat[:, 0])
    return lonlat


def _episodes(present: NDArray[np.bool_], observations: NDArray[np.uint8]) -> NDArray[np.int16]:
    """Runs of presence from their first detection on, numbered per object; runs without a detection are none."""
    episode = np.full(present.shape, -1, dtype=np.int16)
    for row, states in enumerate(present):
        edges = np.flatnonzero(np.diff(np.concatenate([[0], states.astype(np.int8), [0]])))
        number = 0
        for start, end in edges.reshape(-1, 2).tolist():
            detected = np.flatnonzero(observations[row, start:end] == DETECTED)
            if len(detected):
                episode[row, start + detected[0] : end] = number
                number += 1
    return episode


def _object_ids(task: str, months: Sequence[str], tracks: Tracks) -> list[str]:
    first = (tracks.row_of >= 0).argmax(axis=1)
    places = [places_of(frame) for frame in tracks.detections]
    ids = []
    for rows, month in zip(tracks.row_of, first.tolist(), strict=True):
        lon, lat = places[month][rows[month]]
        text = f"{task} {months[month]} {lon:.5f} {lat:.5f}"
        ids.append(hashlib.sha256(text.encode()).hexdigest()[:ID_DIGITS])
    return ids


def stays(history: History) -> "geopandas.GeoDataFrame":
    """One row per stay of an object: from its first to its last detection.

    Columns: ``object_id``, ``category``, ``score`` (highest of the stay), ``first_month``, ``last_month``
    (seen), ``start_known`` (an image before did not show it), ``end_known`` (it was judged gone after), ``geometry``
    (as seen last).
    """
    detections = [_Detections.of(frame) for frame in history.tracks.detections]
    rows = []
    for number in range(len(history.object_ids)):
        for stay in range(int(history.episode[number].max(initial=-1)) + 1):
            rows.append(_stay(history, detections, number, stay))
    return _framed(rows, ("object_id", "category", "score", "first_month", "last_month", "start_known", "end_known"))


def _stay(history: History, detections: "Sequence[_Detections]", number: int, stay: int) -> dict[str, Any]:
    inside = np.flatnonzero(history.episode[number] == stay)
    seen = inside[history.observations[number, inside] == DETECTED].tolist()
    row_of = history.tracks.row_of[number]
    before = history.observations[number, : seen[0]][history.episode[number, : seen[0]] < 0]
    return {
        "object_id": history.object_ids[number],
        **detections[seen[-1]].row(row_of[seen[-1]]),
        "score": max(float(detections[month].score[row_of[month]]) for month in seen),
        "first_month": history.months[seen[0]],
        "last_month": history.months[seen[-1]],
        "start_known": bool((before == NOT_DETECTED).any()),
        "end_known": bool(inside[-1] + 1 < len(history.months)),
    }


def snapshot(history: History, month: str) -> "geopandas.GeoDataFrame":
    """Objects that were there in a month and whose place had an image in it.

    Columns: ``object_id``, ``category``, ``score`` (of the month's detection, else of the last before), ``first_month``
    of the stay, ``last_month`` (last month seen up to this one, so that later months change a snapshot only where they
    change a verdict), ``detected`` (in this month), ``geometry`` (of the same detection as the score).
    """
    column = history.months.index(month)
    detections = [_Detections.of(frame) for frame in history.tracks.detections]
    there = (history.episode[:, column] >= 0) & (history.observations[:, column] != NO_IMAGE)
    rows = []
    for number in np.flatnonzero(there).tolist():
        stay = np.flatnonzero(history.episode[number] == history.episode[number, column])
        seen = stay[(history.observations[number, stay] == DETECTED) & (stay <= column)]
        last = int(seen[-1])
        rows.append(
            {
                "object_id": history.object_ids[number],
                **detections[last].row(history.tracks.row_of[number, last]),
                "first_month": history.months[int(seen[0])],
                "last_month": history.months[last],
                "detected": last == column,
            }
        )
    return _framed(rows, ("object_id", "category", "score", "first_month", "last_month", "detected"))


@dataclass(frozen=True)
class _Detections:
    """Columns of a month's detections."""

    category: NDArray[np.object_]
    score: NDArray[np.float64]
    geometry: NDArray[Any]

    @classmethod
    def of(cls, frame: "geopandas.GeoDataFrame") -> "_Detections":
        category = frame["category"].to_numpy(dtype=object)
        return cls(category, frame["score"].to_numpy(dtype=np.float64), frame.geometry.to_numpy())

    def row(self, number: int) -> dict[str, Any]:
        return {
            "category": str(self.category[number]),
            "score": float(self.score[number]),
            "geometry": self.geometry[number],
        }


def _framed(rows: Sequence[dict[str, Any]], columns: Sequence[str]) -> "geopandas.GeoDataFrame":
    import geopandas

    values = {name: [row[name] for row in rows] for name in columns}
    geometry = [row["geometry"] for row in rows]
    return sorted_by_place(geopandas.GeoDataFrame(values, geometry=geometry, crs=WGS84))
