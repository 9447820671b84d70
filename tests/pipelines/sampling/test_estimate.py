import pytest

from pipelines.patches.scale import Prices
from pipelines.sampling.areas import search_groups
from pipelines.sampling.config import PlacesConfig, SearchConfig
from pipelines.sampling.estimate import describe_estimate, estimate_build
from pipelines.sampling.points import draw_land_points


def test_the_dry_run_counts_the_searches_that_a_run_makes() -> None:
    places, search = PlacesConfig(num_places=500, seed=4), SearchConfig(search_cell_deg=3.0)
    estimate = estimate_build(places, search, places_in_flight=8, num_cores=2)
    assert estimate.num_places == 500
    assert estimate.num_searches == len(search_groups(draw_land_points(500, 4), search))
    twice = estimate_build(PlacesConfig(num_places=1000, seed=4), search, places_in_flight=8, num_cores=2)
    assert twice.prediction.num_file_requests == 2 * estimate.prediction.num_file_requests
    assert twice.prediction.read_bytes == pytest.approx(2 * estimate.prediction.read_bytes)
    slower = estimate_build(places, search, places_in_flight=1, num_cores=2, round_trip_s=3.0)
    assert slower.prediction.bound_by == "latency"
    assert slower.prediction.hours > 5 * estimate.prediction.hours


def test_the_estimate_names_its_prices_as_assumptions() -> None:
    places, prices = PlacesConfig(num_places=50, seed=4), Prices(worker_hour=0.25)
    estimate = estimate_build(places, SearchConfig(), places_in_flight=8, num_cores=2, num_workers=3, prices=prices)
    lines = describe_estimate(estimate, prices)
    assert any("on 3 workers" in line for line in lines)
    assert any("assuming 0.25 per worker hour" in line for line in lines)
    assert estimate.prediction.cost == pytest.approx(0.25 * estimate.prediction.worker_hours)
