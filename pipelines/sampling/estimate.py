"""What a build will take, before it runs: places, requests, bytes, hours."""

from dataclasses import dataclass, replace
from datetime import date

import numpy as np
from numpy.typing import NDArray

from pipelines.patches.scale import BuildPrediction, BuildRates, Prices, predict_build
from pipelines.sampling.areas import search_groups
from pipelines.sampling.config import PlacesConfig, SearchConfig
from pipelines.sampling.points import draw_land_points
from pipelines.sampling.search import USUAL_PAGE

CLEAR_SCENES_PER_TILE_AND_DAY = 2_359_972 / 18_900 / 866
"""Scenes under 20 % cloud cover, tiles of land and days of the original's search."""
TILES_PER_PLACE = 1.45
"""Mean number of tiles that hold a place (39 % of land lies in more than one)."""
ROUND_TRIP_S = BuildRates().latency_s


@dataclass(frozen=True)
class BuildEstimate:
    """Expected cost of building a dataset: counted searches, everything else by the scale model."""

    num_places: int
    num_searches: int
    prediction: BuildPrediction


def estimate_build(
    places: PlacesConfig,
    search: SearchConfig,
    places_in_flight: int,
    num_cores: int,
    round_trip_s: float = ROUND_TRIP_S,
    num_workers: int = 1,
    prices: Prices | None = None,
) -> BuildEstimate:
    """Draws the places, groups them into searches, and asks the scale model.

    Args:
        places: Which places.
        search: How they are grouped.
        places_in_flight: Places that one worker reads at the same time.
        num_cores: Cores of a worker that decode.
        round_trip_s: Time from a request to its first byte.
        num_workers: Machines.
        prices: What hours and bytes cost; assumptions by default.
    """
    lonlat_deg = draw_land_points(places.num_places, places.seed, places.bbox, places.min_distance_m)
    groups = search_groups(lonlat_deg, search)
    num_pages = sum(_pages(lonlat_deg[rows], search) for rows, _ in groups)
    rates = replace(BuildRates(), latency_s=round_trip_s, cores_per_worker=num_cores)
    prediction = predict_build(rates, places.num_places, num_workers, places_in_flight, prices, num_pages)
    return BuildEstimate(places.num_places, len(groups), prediction)


def _pages(lonlat_deg: NDArray[np.float64], search: SearchConfig) -> int:
    """Pages of one search: the scenes of the tiles, about a degree wide, that its places lie in."""
    num_days = (date.fromisoformat(search.end_date) - date.fromisoformat(search.start_date)).days + 1
    stretched = lonlat_deg * np.array([np.cos(np.deg2rad(lonlat_deg[:, 1].mean())), 1.0])
    num_tiles = TILES_PER_PLACE * len(np.unique(np.floor(stretched), axis=0))
    share = search.max_cloud_cover_percent / 20.0
    return max(
        1, round(num_tiles * CLEAR_SCENES_PER_TILE_AND_DAY * num_days * share / (search.page_size or USUAL_PAGE) + 0.5)
    )


def describe_estimate(estimate: BuildEstimate, prices: Prices) -> list[str]:
    """The estimate as lines for people."""
    found = estimate.prediction
    waiting, transfer, computing, search = (
        f"{seconds / 3600:,.2f}" for seconds in (found.latency_s, found.bandwidth_s, found.cpu_s, found.search_s)
    )
    parts = f"search {search}, then the largest of waiting {waiting}, transfer {transfer}, computing {computing}"
    workers = "1 worker" if found.num_workers == 1 else f"{found.num_workers} workers"
    assumed = (
        f"{prices.worker_hour:g} per worker hour, {prices.read_gb:g} per GB read, "
        f"{prices.stored_gb_month:g} per GB and month"
    )
    return [
        f"places           {estimate.num_places:>12,}",
        f"searches         {estimate.num_searches:>12,}  in about {found.num_search_requests:,} requests",
        f"file requests    {found.num_file_requests:>12,}",
        f"bytes read       {found.read_bytes / 1e9:>12,.0f}  GB",
        f"bytes stored     {found.stored_bytes / 1e9:>12,.0f}  GB",
        f"hours            {found.hours:>12,.2f}  on {workers}: {parts}",
        f"cost once        {found.cost:>12,.2f}  {prices.currency}, assuming {assumed}",
        f"cost per month   {found.cost_per_month:>12,.2f}  {prices.currency}, for the store",
    ]
