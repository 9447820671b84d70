import pytest

from pipelines.sampling.areas import search_groups
from pipelines.sampling.config import PlacesConfig, SearchConfig
from pipelines.sampling.estimate import estimate_build
from pipelines.sampling.points import draw_land_points


def test_the_dry_run_counts_the_searches_that_a_run_makes() -> None:
    places, search = PlacesConfig(num_places=500, seed=4), SearchConfig(search_cell_deg=3.0)
    estimate = estimate_build(places, search, places_in_flight=8, num_cores=2)
    assert estimate.num_places == 500
    assert estimate.num_searches == len(search_groups(draw_land_points(500, 4), search))
    twice = estimate_build(PlacesConfig(num_places=1000, seed=4), search, places_in_flight=8, num_cores=2)
    assert twice.num_file_requests == 2 * estimate.num_file_requests
    assert twice.num_bytes == pytest.approx(2 * estimate.num_bytes)
    slower = estimate_build(places, search, places_in_flight=8, num_cores=2, round_trip_s=0.3)
    assert slower.hours > 5 * estimate.hours
