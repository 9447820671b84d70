"""What a build will take, before it runs: places, requests, bytes, hours."""

from dataclasses import dataclass, replace

from pipelines.patches.scale import BuildPrediction, BuildRates, Prices, predict_build
from pipelines.sampling.config import PlacesConfig, SearchConfig
from pipelines.sampling.points import draw_land_points
from pipelines.sampling.scenes import group_places

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
    lonlat_deg = draw_land_points(places.num_places, places.seed, places.bbox)
    num_searches = sum(1 for _ in group_places(lonlat_deg, search))
    rates = replace(BuildRates(), latency_s=round_trip_s, cores_per_worker=num_cores)
    prediction = predict_build(rates, places.num_places, num_workers, places_in_flight, prices, num_searches)
    return BuildEstimate(places.num_places, num_searches, prediction)


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
