import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.embeddings.grid import GlobalGrid, land_grid

RESOLUTIONS = [0.5, 0.9, 1.0, 2.5, 4.0, 10.0, 22.5]


def test_rows_run_from_north_to_south_and_columns_from_west_to_east():
    grid = GlobalGrid(60.0)
    np.testing.assert_array_equal(grid.lon_deg, [-150, -90, -30, 30, 90, 150])
    np.testing.assert_array_equal(grid.lat_deg, [60, 0, -60])
    np.testing.assert_array_equal(grid.lonlat_deg()[:7], [[lon, 60] for lon in grid.lon_deg] + [[-150, 0]])


@pytest.mark.parametrize("resolution_deg", RESOLUTIONS)
def test_centers_are_symmetric_and_never_on_the_antimeridian_or_a_pole(resolution_deg):
    grid = GlobalGrid(resolution_deg)
    np.testing.assert_array_equal(grid.lon_deg, -grid.lon_deg[::-1])
    np.testing.assert_array_equal(grid.lat_deg, -grid.lat_deg[::-1])
    assert np.abs(grid.lon_deg).max() == pytest.approx(180 - resolution_deg / 2)
    assert np.abs(grid.lat_deg).max() == pytest.approx(90 - resolution_deg / 2)


@pytest.mark.parametrize("resolution_deg", RESOLUTIONS)
def test_cell_areas_sum_to_the_sphere(resolution_deg):
    lat = np.deg2rad(GlobalGrid(resolution_deg).lonlat_deg()[:, 1])
    half = np.deg2rad(resolution_deg) / 2
    areas = 2 * half * (np.sin(lat + half) - np.sin(lat - half))
    assert areas.sum() == pytest.approx(4 * np.pi)


def test_bounds_keep_the_rows_whose_centers_they_hold():
    grid = GlobalGrid(10.0, (-55.0, 74.0))
    assert (grid.lat_deg[0], grid.lat_deg[-1]) == (65.0, -55.0)
    assert grid.extent_deg == (-180.0, 180.0, -60.0, 70.0)


@given(
    st.sampled_from(RESOLUTIONS),
    st.lists(st.tuples(st.floats(-180, 180), st.floats(-90, 90)), min_size=1, max_size=30),
)
def test_every_place_lies_in_the_cell_it_is_given(resolution_deg, places):
    grid, lonlat_deg = GlobalGrid(resolution_deg), np.array(places)
    row, col = grid.row_col(lonlat_deg)
    lon_off = (lonlat_deg[:, 0] - grid.lon_deg[col] + 180) % 360 - 180
    assert np.abs(lon_off).max() <= resolution_deg / 2 + 1e-9
    assert np.abs(lonlat_deg[:, 1] - grid.lat_deg[row]).max() <= resolution_deg / 2 + 1e-9


def test_both_sides_of_the_antimeridian_are_one_column():
    row, col = GlobalGrid(1.0).row_col(np.array([[-180.0, 10.2], [180.0, 10.2], [179.9, 10.2]]))
    assert col.tolist() == [0, 0, 359]
    assert len(set(row.tolist())) == 1


def test_raster_lays_values_where_their_places_are_and_nothing_elsewhere():
    grid = GlobalGrid(30.0, (-60.0, 90.0))
    raster = grid.raster(np.array([[-165.0, 75.0], [165.0, -45.0]]), np.array([[1.0, 2.0], [3.0, 4.0]]))
    assert raster.shape == (5, 12, 2)
    np.testing.assert_array_equal(raster[0, 0], [1.0, 2.0])
    np.testing.assert_array_equal(raster[4, 11], [3.0, 4.0])
    assert np.isnan(raster).sum() == raster.size - 4


def test_a_place_beyond_the_grids_latitudes_is_refused():
    with pytest.raises(ValueError, match=r"beyond the grid's latitudes, the first at \[12.0, -80.0\]"):
        GlobalGrid(10.0, (-60.0, 84.0)).row_col(np.array([[0.0, 0.0], [12.0, -80.0]]))


def test_land_grid_keeps_the_order_and_only_land():
    def is_land(lonlat_deg):
        return (lonlat_deg[:, 0] > 100) & (lonlat_deg[:, 1] > 0)

    np.testing.assert_array_equal(land_grid(45.0, is_land, (-60.0, 60.0)), [[112.5, 22.5], [157.5, 22.5]])


@pytest.mark.parametrize(
    ("resolution_deg", "bounds", "message"),
    [
        (0.7, (-90.0, 90.0), "does not divide 180 degrees; use e.g. 0.700389"),
        (0.0, (-90.0, 90.0), r"expected a number in \[0.001, 180\]"),
        (1e-9, (-90.0, 90.0), r"expected a number in \[0.001, 180\]"),
        (1.0, (84.0, -56.0), "south < north"),
        (10.0, (1.0, 2.0), "no cell center"),
    ],
)
def test_an_impossible_grid_is_refused(resolution_deg, bounds, message):
    with pytest.raises(ValueError, match=message):
        GlobalGrid(resolution_deg, bounds)


def test_a_grid_without_land_is_refused():
    with pytest.raises(ValueError, match="none of the 72 cell centers"):
        land_grid(30.0, lambda lonlat_deg: np.zeros(len(lonlat_deg), dtype=bool))
