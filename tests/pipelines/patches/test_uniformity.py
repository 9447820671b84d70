import numpy as np
import pytest

from pipelines.errors import ConfigurationError
from pipelines.patches.uniformity import (
    UNIFORM_SEED,
    LandReference,
    equal_area_lattice,
    land_reference,
    measure_uniformity,
    spherical_cap_discrepancy,
    uniform_discrepancies,
    uniform_discrepancy_quantile,
    worst_cap,
)
from pipelines.sampling.land import is_land
from pipelines.sampling.points import draw_uniform_points

GLOBE = (-180.0, -56.0, 180.0, 84.0)
FIJI = (170.0, -25.0, -170.0, -10.0)


@pytest.fixture(scope="module")
def reference() -> LandReference:
    return land_reference(GLOBE, lattice_size=1 << 18)


def independent(num_places: int, seed: int, bbox: tuple[float, float, float, float] = GLOBE) -> np.ndarray:
    return draw_uniform_points(num_places, seed, bbox)


def test_a_perfect_lattice_has_next_to_no_discrepancy(reference: LandReference) -> None:
    lattice = equal_area_lattice(70_001, GLOBE)
    places = lattice[is_land(lattice)]
    assert spherical_cap_discrepancy(places, reference) < 0.25 * 1.4 / np.sqrt(len(places))


def test_all_places_at_one_point_differ_by_all_but_the_land_beside_them(reference: LandReference) -> None:
    places = np.tile([23.7, -21.3], (500, 1))
    smallest = reference.cap_shares[:, 0].max()
    assert 1 - smallest <= spherical_cap_discrepancy(places, reference) <= 1


def test_places_of_one_hemisphere_differ_by_the_land_of_the_other(reference: LandReference) -> None:
    north = reference.lonlat_deg[reference.lonlat_deg[:, 1] > 0]
    missing = 1 - len(north) / len(reference.lonlat_deg)
    worst = worst_cap(north, reference)
    assert worst.discrepancy == pytest.approx(missing, abs=2e-3)
    assert worst.share_of_places - worst.share_of_land == pytest.approx(missing, abs=2e-3)
    assert (worst.lat_deg, worst.radius_deg) == pytest.approx((90.0, 90.0), abs=1.0)


@pytest.mark.parametrize("turns", [-1, 1, 2])
def test_whole_turns_of_longitude_change_nothing(reference: LandReference, turns: int) -> None:
    places = independent(3000, seed=5)
    turned = places + np.array([360.0 * turns, 0.0])
    assert spherical_cap_discrepancy(turned, reference) == pytest.approx(
        spherical_cap_discrepancy(places, reference), abs=1.5 / len(places)
    )


def test_independent_uniform_places_stay_below_their_95th_percentile_in_95_of_100_cases(
    reference: LandReference,
) -> None:
    limit = uniform_discrepancy_quantile(400, reference, quantile=0.95, num_draws=300)
    found = uniform_discrepancies(400, reference, num_draws=300, seed=UNIFORM_SEED + 1)
    assert 0.90 <= (found <= limit).mean() <= 0.99


def test_density_growing_with_latitude_lies_far_above_uniform(reference: LandReference) -> None:
    places = independent(60_000, seed=8)
    kept = np.random.default_rng(9).random(len(places)) < 0.15 / np.cos(np.deg2rad(places[:, 1]))
    report = measure_uniformity(places[kept][:5000], reference, num_draws=40)
    assert report.num_places == 5000
    assert not report.is_uniform
    assert report.discrepancy > 2 * report.uniform_quantile
    assert report.share_of_draws_above == 0
    uniform = measure_uniformity(places[:5000], reference, num_draws=40)
    assert uniform.is_uniform
    assert uniform.uniform_quantile == report.uniform_quantile


def test_the_quantile_falls_with_the_square_root_of_the_number(
    reference: LandReference, monkeypatch: pytest.MonkeyPatch
) -> None:
    simulated = uniform_discrepancies(8000, reference, num_draws=60)
    monkeypatch.setattr("pipelines.patches.uniformity.LARGEST_SIMULATED", 2000)
    scaled = uniform_discrepancies(8000, reference, num_draws=60)
    assert np.median(scaled) == pytest.approx(np.median(simulated), rel=0.12)


def test_equal_input_gives_an_equal_report(reference: LandReference) -> None:
    places = independent(700, seed=2)
    assert measure_uniformity(places, reference, num_draws=5) == measure_uniformity(places, reference, num_draws=5)
    again = land_reference(GLOBE, lattice_size=1 << 18)
    assert np.array_equal(again.cap_shares, reference.cap_shares)


def test_the_land_has_its_known_area(reference: LandReference) -> None:
    """About 149 million km2, less 13.5 of Antarctica south of 56 S and the little north of 84 N."""
    assert reference.land_area_km2 == pytest.approx(135.3e6, rel=0.01)


def test_a_box_across_the_antimeridian_is_judged_by_its_own_land() -> None:
    reference = land_reference(FIJI, num_centers=128, lattice_size=1 << 17)
    longitudes = reference.lonlat_deg[:, 0]
    assert ((longitudes >= 170) | (longitudes <= -170)).all()
    assert (longitudes > 0).any()
    assert (longitudes < 0).any()
    places = independent(400, seed=3, bbox=FIJI)
    limit = uniform_discrepancy_quantile(400, reference, num_draws=60)
    assert spherical_cap_discrepancy(places, reference) <= limit
    west_of_it = places[places[:, 0] < 178.0]
    assert spherical_cap_discrepancy(west_of_it[west_of_it[:, 0] > 0], reference) > limit


def test_a_box_without_land_says_so() -> None:
    with pytest.raises(ConfigurationError, match=r"none of 1024 lattice points is on land"):
        land_reference((-140.0, -40.0, -130.0, -35.0), lattice_size=1024)


@pytest.mark.parametrize("places", [np.zeros((0, 2)), np.array([[np.nan, 3.0]])])
def test_no_places_or_no_numbers_are_refused(reference: LandReference, places: np.ndarray) -> None:
    with pytest.raises(ValueError, match="expected at least one, all coordinates finite"):
        spherical_cap_discrepancy(places, reference)
