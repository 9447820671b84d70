"""Places kept apart: the greedy choice in the order of drawing."""

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

EARTH_RADIUS_M = 6_371_008.8
"""Mean radius (IUGG)."""


class SpacedPlaces:
    """Chooses of a stream of places those at least a great-circle distance from every place chosen before.

    The choice depends on the order of the places alone, not on how the stream is cut into blocks.

    Args:
        min_distance_m: Smallest distance; places exactly this far apart are kept.
    """

    def __init__(self, min_distance_m: float) -> None:
        angle_rad = min(min_distance_m / EARTH_RADIUS_M, np.pi)
        # the largest chord below the one that is allowed, as trees count what lies at the distance itself
        self._reach = float(np.nextafter(2.0 * np.sin(angle_rad / 2.0), 0.0))
        self._trees: list[cKDTree] = []

    def choose(self, lonlat_deg: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Which of the next places, shape (n, 2), are kept."""
        xyz = unit_vectors(lonlat_deg)
        free = np.ones(len(xyz), dtype=np.bool_)
        for tree in self._trees:
            left = np.flatnonzero(free)
            if len(left):
                distance, _ = tree.query(xyz[left], distance_upper_bound=np.nextafter(self._reach, np.inf))
                free[left] = np.isinf(distance)
        kept = np.flatnonzero(free)
        kept = kept[_greedy(xyz[kept], self._reach)]
        chosen = np.zeros(len(xyz), dtype=np.bool_)
        chosen[kept] = True
        self._add(xyz[kept])
        return chosen

    def _add(self, xyz: NDArray[np.float64]) -> None:
        """Keeps trees of falling size, so that adding n places one block at a time takes n log n."""
        if not len(xyz):
            return
        while self._trees and self._trees[-1].n <= len(xyz):
            xyz = np.concatenate([self._trees.pop().data, xyz])
        self._trees.append(cKDTree(xyz))


def unit_vectors(lonlat_deg: NDArray[np.float64]) -> NDArray[np.float64]:
    """Directions on the unit sphere, shape (n, 3), of places in degrees, shape (n, 2)."""
    lon, lat = np.deg2rad(lonlat_deg).T
    return np.column_stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)])


def _greedy(xyz: NDArray[np.float64], reach: float) -> NDArray[np.bool_]:
    """Of places in order, those farther than ``reach`` from every earlier kept one."""
    kept = np.ones(len(xyz), dtype=np.bool_)
    if len(xyz) < 2:
        return kept
    pairs = cKDTree(xyz).query_pairs(reach, output_type="ndarray")
    earlier, later = pairs.min(axis=1), pairs.max(axis=1)
    for first, second in zip(*(each[np.lexsort((earlier, later))].tolist() for each in (earlier, later)), strict=True):
        if kept[first]:
            kept[second] = False
    return kept
