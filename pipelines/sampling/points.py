"""Places drawn uniformly by area over land: stratified at every scale, or independent of each other."""

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipelines.errors import ConfigurationError
from pipelines.sampling.config import PlacesConfig
from pipelines.sampling.land import is_land
from pipelines.sampling.sequence import MAX_POINTS, scrambled_points
from pipelines.sampling.spacing import EARTH_RADIUS_M, SpacedPlaces
from pipelines.sampling.tables import read_table, write_table

DRAWS_PER_BLOCK = 65_536
MAX_BLOCKS_WITHOUT_PLACE = 64
WHOLE_RANGE = (-180.0, -56.0, 180.0, 84.0)
MAX_COVERAGE = 0.5
"""Discs of the smallest distance laid down at random jam when they cover 0.547 of a plane (Feder 1980)."""


def draw_land_points(
    num_places: int, seed: int, bbox: Sequence[float] = WHOLE_RANGE, min_distance_m: float = 0.0
) -> NDArray[np.float64]:
    """Places uniform by area on the land of a bounding box, stratified at every scale.

    Points of a scrambled (0, 2)-sequence in longitude and sine of latitude, of which those on water are skipped. The
    first n places of a longer draw are the places of a shorter one, so that a dataset can grow.

    Args:
        num_places: How many.
        seed: Of the scrambling.
        bbox: West, south, east, north in degrees; west > east crosses the antimeridian.
        min_distance_m: Smallest great-circle distance of two places; a place nearer to one drawn before it is skipped.
            0 skips none.

    Returns:
        Longitude in [-180, 180) and latitude, float64, shape (num_places, 2).

    Raises:
        ConfigurationError: the box holds no land, or not that many places at that distance.
    """
    spaced = SpacedPlaces(min_distance_m) if min_distance_m > 0 else None
    drawn: list[NDArray[np.float64]] = []
    found = num_land = num_draws = empty_blocks = 0
    for lonlat_deg in _blocks(lambda first, count: scrambled_points(first, count, seed), bbox):
        on_land = lonlat_deg[is_land(lonlat_deg)]
        num_draws += len(lonlat_deg)
        num_land += len(on_land)
        if spaced is not None:
            _validate_distance(num_places, min_distance_m, num_land / num_draws * _area_m2(bbox), num_land)
            on_land = on_land[spaced.choose(on_land)]
        empty_blocks = 0 if len(on_land) else empty_blocks + 1
        if empty_blocks == MAX_BLOCKS_WITHOUT_PLACE:
            break
        drawn.append(on_land)
        found += len(on_land)
        if found >= num_places:
            return np.concatenate(drawn)[:num_places]
    raise _exhausted(bbox, num_places, found, min_distance_m, num_draws)


def draw_uniform_points(num_places: int, seed: int, bbox: Sequence[float] = WHOLE_RANGE) -> NDArray[np.float64]:
    """Places on land, uniform by area and independent of each other: what a stratified draw is compared with.

    Args:
        num_places: How many.
        seed: Key of the counter-based generator (Philox).
        bbox: West, south, east, north in degrees; west > east crosses the antimeridian.

    Returns:
        Longitude in [-180, 180) and latitude, float64, shape (num_places, 2); longer draws begin with shorter ones.

    Raises:
        ConfigurationError: the box holds no land.
    """
    rng = np.random.Generator(np.random.Philox(key=seed))
    drawn: list[NDArray[np.float64]] = []
    found = empty_blocks = num_draws = 0
    block_size = min(DRAWS_PER_BLOCK, 4 * num_places + 64)
    for lonlat_deg in _blocks(lambda _, count: rng.random((count, 2)), bbox, block_size):
        on_land = lonlat_deg[is_land(lonlat_deg)]
        num_draws += len(lonlat_deg)
        empty_blocks = 0 if len(on_land) else empty_blocks + 1
        if empty_blocks * block_size >= MAX_BLOCKS_WITHOUT_PLACE * DRAWS_PER_BLOCK:
            break
        drawn.append(on_land)
        found += len(on_land)
        if found >= num_places:
            return np.concatenate(drawn)[:num_places]
    raise _exhausted(bbox, num_places, found, 0.0, num_draws)


def _blocks(
    draw: Callable[[int, int], NDArray[np.float64]], bbox: Sequence[float], block_size: int = DRAWS_PER_BLOCK
) -> Iterator[NDArray[np.float64]]:
    """Places of a box, block after block, from points of the unit square."""
    west, south, east, north = bbox
    width_deg = (east - west) % 360.0 or 360.0
    sin_range = np.sin(np.deg2rad([south, north]))
    for first in range(0, MAX_POINTS, block_size):
        unit = draw(first, block_size)
        lon_deg = (west + width_deg * unit[:, 0] + 180.0) % 360.0 - 180.0
        lat_deg = np.rad2deg(np.arcsin(sin_range[0] + (sin_range[1] - sin_range[0]) * unit[:, 1]))
        yield np.column_stack([lon_deg, np.clip(lat_deg, south, north)])


def _area_m2(bbox: Sequence[float]) -> float:
    west, south, east, north = bbox
    width_rad = math.radians((east - west) % 360.0 or 360.0)
    return EARTH_RADIUS_M**2 * width_rad * (math.sin(math.radians(north)) - math.sin(math.radians(south)))


def _validate_distance(num_places: int, min_distance_m: float, land_m2: float, num_land: int) -> None:
    if num_land < 1000:
        return
    coverage = num_places * math.pi * (min_distance_m / 2) ** 2 / land_m2
    if coverage > MAX_COVERAGE:
        farthest_m = min_distance_m * math.sqrt(MAX_COVERAGE / coverage)
        raise ConfigurationError(
            f"min_distance_m {min_distance_m:g}: {num_places} places that far apart do not fit on "
            f"{land_m2 / 1e12:.3g} million km2 of land; choose at most {math.floor(farthest_m)} or fewer places"
        )


def _exhausted(
    bbox: Sequence[float], num_places: int, found: int, min_distance_m: float, num_draws: int
) -> ConfigurationError:
    if found and min_distance_m:
        return ConfigurationError(
            f"bbox {list(bbox)}: found {found} of {num_places} places {min_distance_m:g} m apart in {num_draws} draws; "
            "lower min_distance_m or num_places"
        )
    return ConfigurationError(
        f"bbox {list(bbox)}: found no land in the last of {num_draws} draws, expected {num_places} places; "
        "choose a bounding box (west, south, east, north in degrees) that holds land"
    )


def write_sample_points(path: Path, config: PlacesConfig) -> pd.DataFrame:
    """Draws places and writes them as GeoParquet: place_id (0, 1, ...), lon_deg, lat_deg."""
    lonlat_deg = draw_land_points(config.num_places, config.seed, config.bbox, config.min_distance_m)
    places = pd.DataFrame(
        {"place_id": np.arange(len(lonlat_deg)), "lon_deg": lonlat_deg[:, 0], "lat_deg": lonlat_deg[:, 1]}
    )
    write_table(path, places, {"places_config": config.model_dump(mode="json")})
    return places


def read_sample_points(path: Path) -> pd.DataFrame:
    """Reads what `write_sample_points` wrote; raises ArtefactError where the file is missing."""
    return read_table(path, asset="sample_points")
