"""Scenes of the tiles that objects are planted in: several a month."""

from datetime import timedelta
from functools import cache
from typing import Final

import numpy as np

from pipelines.sandbox.planted.areas import AREA_SIZE_M, AREAS, NUM_MONTHS, first_day
from pipelines.sandbox.scenes import (
    FIRST_DAY,
    MAX_SOLAR_ZENITH_DEG,
    Scene,
    covering_orbits,
    orbit_passes,
    products,
    solar_angles_deg,
)
from pipelines.sandbox.tiling import Tile, tiles_covering

LEAD_MONTHS: Final = 5
"""Months before the first of which there are images, for the mosaics of the first."""
EVERY_DAYS: Final = 5


@cache
def planted_tiles() -> tuple[Tile, ...]:
    """Every tile that holds a part of an area, by name."""
    corners = np.array([-0.5, 0.0, 0.5]) * AREA_SIZE_M
    found: dict[str, Tile] = {}
    for area in AREAS:
        for lonlat in area.lonlat_deg(*np.meshgrid(corners, corners)).reshape(-1, 2):
            place = np.array([(lonlat[0] + 180.0) % 360.0 - 180.0, lonlat[1]])
            found.update({tile.tile_id: tile for tile in tiles_covering(place)})
    return tuple(found[name] for name in sorted(found))


def planted_scenes(tile: Tile, seed: int, max_per_month: int = 6) -> list[Scene]:
    """Products of a tile from some months before the first to the last, by time.

    Args:
        tile: One of `planted_tiles`.
        seed: Of the planet.
        max_per_month: Most acquisitions of a calendar month.
    """
    centre = tile.boundary_lonlat_deg[:-1].mean(axis=0)
    rng = np.random.default_rng([seed, 24, *tile.tile_id.encode()])
    scenes = []
    for number in range(1 - LEAD_MONTHS, NUM_MONTHS + 1):
        start, stop = first_day(number), first_day(number + 1)
        passes = []
        for orbit in covering_orbits(tile):
            anchor = orbit_passes(seed, orbit)[0]
            skipped = -(-(start - anchor) // timedelta(days=EVERY_DAYS))
            time = anchor + skipped * timedelta(days=EVERY_DAYS)
            while time < stop:
                if time >= FIRST_DAY and solar_angles_deg(centre, time)[0] < MAX_SOLAR_ZENITH_DEG:
                    passes.append((time, orbit))
                time += timedelta(days=EVERY_DAYS)
        kept = np.sort(rng.permutation(len(passes))[:max_per_month])
        passes.sort()
        for index in kept:
            sensed, orbit = passes[int(index)]
            scenes += products(tile, sensed, orbit, rng)
    return scenes
