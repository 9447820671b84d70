"""What a build will take, before it runs: places, requests, bytes, hours."""

from dataclasses import dataclass
from datetime import date

import numpy as np
from numpy.typing import NDArray

from pipelines.sampling.areas import search_groups
from pipelines.sampling.config import PlacesConfig, SearchConfig
from pipelines.sampling.points import draw_land_points
from pipelines.sampling.search import USUAL_PAGE

REQUESTS_PER_PATCH = 47
"""HEAD and range requests for a window of 12 bands in COGs of 512-pixel tiles, as benchmarks/reading.py counts them."""
BYTES_PER_PATCH = 8_100_000
"""Compressed bytes of those requests for real texture in DEFLATE tiles; the smooth synthetic planet needs fewer."""
REQUESTS_PER_SCL = 3
BYTES_PER_SCL = 60_000
CANDIDATES_TRIED_PER_PLACE = 1.5
"""Scenes whose SCL is read per place until one is clear; every run reports its own figure as rejected scenes."""
CLEAR_SCENES_PER_TILE_AND_DAY = 2_359_972 / 18_900 / 866
"""Scenes under 20 % cloud cover, tiles of land and days of the original's search."""
TILES_PER_PLACE = 1.45
"""Mean number of tiles that hold a place (39 % of land lies in more than one)."""
ROUND_TRIP_S = 0.03
SECONDS_PER_PATCH_CORE = 0.12
"""CPU seconds to read, decode and store a patch of real texture on one core."""


@dataclass(frozen=True)
class BuildEstimate:
    """Expected cost of building a dataset; every figure beside the first two is an estimate."""

    num_places: int
    num_searches: int
    num_search_requests: int
    num_file_requests: int
    num_bytes: int
    hours: float


def estimate_build(
    places: PlacesConfig,
    search: SearchConfig,
    places_in_flight: int,
    num_cores: int,
    round_trip_s: float = ROUND_TRIP_S,
) -> BuildEstimate:
    """Draws the places, groups them into searches, and multiplies.

    Args:
        places: Which places.
        search: How they are grouped.
        places_in_flight: Places read at the same time, over all processes.
        num_cores: Cores that decode.
        round_trip_s: Time from a request to its first byte.
    """
    lonlat_deg = draw_land_points(places.num_places, places.seed, places.bbox, places.min_distance_m)
    groups = search_groups(lonlat_deg, search)
    num_pages = sum(_pages(lonlat_deg[rows], search) for rows, _ in groups)
    scl_reads = round(places.num_places * CANDIDATES_TRIED_PER_PLACE)
    file_requests = places.num_places * REQUESTS_PER_PATCH + scl_reads * REQUESTS_PER_SCL
    waiting_s = file_requests * round_trip_s / max(places_in_flight, 1)
    computing_s = places.num_places * SECONDS_PER_PATCH_CORE / max(num_cores, 1)
    searching_s = num_pages * round_trip_s
    return BuildEstimate(
        num_places=places.num_places,
        num_searches=len(groups),
        num_search_requests=num_pages,
        num_file_requests=file_requests,
        num_bytes=places.num_places * BYTES_PER_PATCH + scl_reads * BYTES_PER_SCL,
        hours=(max(waiting_s, computing_s) + searching_s) / 3600,
    )


def _pages(lonlat_deg: NDArray[np.float64], search: SearchConfig) -> int:
    """Pages of one search: the scenes of the tiles, about a degree wide, that its places lie in."""
    num_days = (date.fromisoformat(search.end_date) - date.fromisoformat(search.start_date)).days + 1
    stretched = lonlat_deg * np.array([np.cos(np.deg2rad(lonlat_deg[:, 1].mean())), 1.0])
    num_tiles = TILES_PER_PLACE * len(np.unique(np.floor(stretched), axis=0))
    share = search.max_cloud_cover_percent / 20.0
    return max(
        1, round(num_tiles * CLEAR_SCENES_PER_TILE_AND_DAY * num_days * share / (search.page_size or USUAL_PAGE) + 0.5)
    )
