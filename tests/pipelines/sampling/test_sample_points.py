from pathlib import Path

import geopandas
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.errors import ArtefactError, ConfigurationError
from pipelines.sampling.config import PlacesConfig
from pipelines.sampling.land import is_land
from pipelines.sampling.points import draw_land_points, draw_uniform_points, read_sample_points, write_sample_points
from pipelines.sampling.spacing import EARTH_RADIUS_M, SpacedPlaces, unit_vectors


def test_known_places_are_land_or_sea() -> None:
    land = np.array([[13.4, 52.5], [-60.0, -3.0], [140.0, -25.0], [-40.0, 75.0], [379.0, 0.0]])
    sea = np.array([[-30.0, 0.0], [180.0, 0.0], [-150.0, 40.0], [5.0, 80.0]])
    assert is_land(land).all()
    assert not is_land(sea).any()
    assert is_land(np.empty((0, 2))).shape == (0,)


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 2**32), num_places=st.integers(1, 400), more=st.integers(1, 400))
def test_a_longer_draw_begins_with_the_shorter_one(seed: int, num_places: int, more: int) -> None:
    short, long = draw_land_points(num_places, seed), draw_land_points(num_places + more, seed)
    np.testing.assert_array_equal(long[:num_places], short)
    assert is_land(long).all()


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 2**32), num_places=st.integers(1, 300), more=st.integers(1, 300))
def test_a_longer_draw_of_spaced_places_begins_with_the_shorter_one(seed: int, num_places: int, more: int) -> None:
    short = draw_land_points(num_places, seed, min_distance_m=150_000.0)
    long = draw_land_points(num_places + more, seed, min_distance_m=150_000.0)
    np.testing.assert_array_equal(long[:num_places], short)


def distances_m(lonlat_deg: np.ndarray) -> np.ndarray:
    xyz = unit_vectors(lonlat_deg)
    chord = np.linalg.norm(xyz[:, None] - xyz[None], axis=2)
    return 2 * EARTH_RADIUS_M * np.arcsin(np.minimum(chord / 2, 1))


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32), num=st.integers(1, 400), distance_m=st.floats(1e3, 3e6), cuts=st.integers(1, 6))
def test_spacing_is_the_greedy_choice_however_the_places_come(
    seed: int, num: int, distance_m: float, cuts: int
) -> None:
    rng = np.random.default_rng(seed)
    places = np.column_stack([rng.uniform(-180, 180, num), np.rad2deg(np.arcsin(rng.uniform(-1, 1, num)))])
    apart_m = distances_m(places)
    kept: list[int] = []
    for row in range(num):
        if all(apart_m[row, other] >= distance_m for other in kept):
            kept.append(row)
    spaced = SpacedPlaces(distance_m)
    chosen = np.concatenate([spaced.choose(part) for part in np.array_split(places, cuts)])
    assert np.flatnonzero(chosen).tolist() == kept


def test_spaced_places_keep_their_distance_across_poles_and_antimeridian() -> None:
    places = draw_land_points(150, seed=2, bbox=(150.0, -90.0, -120.0, -70.0), min_distance_m=80_000.0)
    apart_m = distances_m(places)[~np.eye(150, dtype=bool)]
    assert apart_m.min() >= 80_000.0
    assert apart_m.min() < 90_000.0
    assert (places[:, 0] > 0).any()
    assert (places[:, 0] < 0).any()


def test_more_places_than_fit_are_told_before_they_are_drawn() -> None:
    with pytest.raises(ConfigurationError, match=r"min_distance_m 100000: .* do not fit .*choose at most \d+ or fewer"):
        draw_land_points(100_000, seed=0, min_distance_m=100_000.0)


def test_a_draw_is_more_even_than_independent_points() -> None:
    """Variance of the number of places per cell of equal area: that of a stratified draw is far below Poisson's."""

    def spread(places: np.ndarray) -> float:
        column = np.floor((places[:, 0] + 180.0) / 360.0 * 64).astype(int)
        row = np.floor((np.sin(np.deg2rad(places[:, 1])) + 1.0) / 2.0 * 64).astype(int)
        inland = np.bincount(column * 64 + row, minlength=4096)
        full = [each for each in range(4096) if inland_cells[each]]
        return float(inland[full].var() / inland[full].mean())

    grid = np.stack(np.meshgrid((np.arange(640) + 0.5) / 640, (np.arange(640) + 0.5) / 640), axis=-1).reshape(-1, 2)
    lonlat = np.column_stack([grid[:, 0] * 360 - 180, np.rad2deg(np.arcsin(grid[:, 1] * 2 - 1))])
    cells = np.floor(grid * 64).astype(int) @ np.array([64, 1])
    inside = is_land(lonlat) & (lonlat[:, 1] > -56) & (lonlat[:, 1] < 84)
    inland_cells = np.bincount(cells, weights=inside, minlength=4096) == 100
    assert inland_cells.sum() > 400
    assert spread(draw_land_points(20_000, 1)) < 0.35
    assert 0.8 < spread(draw_uniform_points(20_000, 1)) < 1.2


def test_independent_places_are_land_and_extendable() -> None:
    long, short = draw_uniform_points(900, seed=4), draw_uniform_points(300, seed=4)
    np.testing.assert_array_equal(long[:300], short)
    assert is_land(long).all()
    assert not np.array_equal(draw_uniform_points(300, seed=5), short)
    with pytest.raises(ConfigurationError, match=r"found no land"):
        draw_uniform_points(1, seed=0, bbox=(-35.0, 0.0, -34.0, 1.0))


def test_a_box_to_the_pole_is_drawn_to_the_pole() -> None:
    places = draw_land_points(2000, seed=0, bbox=(-180.0, -90.0, 180.0, -85.0))
    assert (places[:, 1] >= -90).all()
    assert (places[:, 1] <= -85).all()
    assert places[:, 1].min() < -89.5


def test_places_are_uniform_by_area() -> None:
    """The share of land north of 60 degrees must be the one of an equal-area grid, not of a latitude-longitude grid."""
    places = draw_land_points(20_000, seed=3)
    sin_lat = np.linspace(np.sin(np.deg2rad(-56)), np.sin(np.deg2rad(84)), 1201)[:-1] + 1e-4
    lon_deg, lat_deg = np.meshgrid(np.arange(-180, 180, 0.5), np.rad2deg(np.arcsin(sin_lat)))
    grid = np.column_stack([lon_deg.ravel(), lat_deg.ravel()])
    grid = grid[is_land(grid)]
    for low, high in [(-56, -20), (-20, 20), (20, 50), (50, 70), (70, 84)]:
        expected = ((grid[:, 1] >= low) & (grid[:, 1] < high)).mean()
        found = ((places[:, 1] >= low) & (places[:, 1] < high)).mean()
        assert found == pytest.approx(expected, abs=4 * np.sqrt(expected / 20_000))
    assert places[:, 1].min() >= -56
    assert places[:, 1].max() <= 84


def test_a_box_across_the_antimeridian_holds_places_on_both_sides() -> None:
    places = draw_land_points(200, seed=0, bbox=(175.0, 60.0, -170.0, 70.0))
    assert ((places[:, 0] >= 175) | (places[:, 0] <= -170)).all()
    assert (places[:, 0] > 0).any()
    assert (places[:, 0] < 0).any()


def test_a_box_without_land_is_told() -> None:
    with pytest.raises(ConfigurationError, match=r"found no land in .* draws.*choose a bounding box"):
        draw_land_points(1, seed=0, bbox=(-35.0, 0.0, -34.0, 1.0))


@pytest.mark.parametrize(
    ("bbox", "message"),
    [
        ([0.0, 10.0, 5.0, 10.0], "south < north"),
        ([0.0, -91.0, 5.0, 10.0], "-90 <= south"),
        ([5.0, 0.0, 5.0, 10.0], "must differ"),
        ([0.0, 0.0, 5.0], "expected four numbers"),
    ],
)
def test_an_impossible_box_is_told(bbox: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PlacesConfig(bbox=bbox)


def test_the_file_holds_the_places_and_gives_the_same_bytes_twice(tmp_path: Path) -> None:
    config = PlacesConfig(num_places=50, seed=7)
    for name in ("a", "b"):
        write_sample_points(tmp_path / f"{name}.parquet", config)
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()
    places = read_sample_points(tmp_path / "a.parquet")
    np.testing.assert_array_equal(places[["lon_deg", "lat_deg"]].to_numpy(), draw_land_points(50, 7))
    points = geopandas.read_parquet(tmp_path / "a.parquet")
    assert points.crs.equals("OGC:CRS84")
    assert points.geometry.x.tolist() == places["lon_deg"].tolist()


def test_a_missing_file_names_the_asset_to_materialize(tmp_path: Path) -> None:
    with pytest.raises(ArtefactError, match="materialize sample_points first"):
        read_sample_points(tmp_path / "none.parquet")
