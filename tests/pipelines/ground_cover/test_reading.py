"""A map classified by construction comes back pixel for pixel, on any grid."""

from pathlib import Path

import numpy as np
import pytest
import rasterio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rasterio.crs import CRS
from rasterio.transform import from_origin
from rasterio.warp import Resampling, reproject

from pipelines.errors import SceneReadError
from pipelines.ground_cover.classes import NODATA, UNKNOWN, read_classes
from pipelines.ground_cover.grids import PatchGrid
from pipelines.ground_cover.map_items import MapItem, MapItems, map_item
from pipelines.ground_cover.reading import read_class_map
from pipelines.patches.file_reader import FileReader
from pipelines.sampling.catalog import Catalog, unopened_catalog
from tests.pipelines.ground_cover.map_files import MapFile, days, expected_codes, file_under, grid_around

WORLDCOVER = read_classes("esa_worldcover")
ANNUAL = read_classes("io_lulc_annual")
SIZE = 96


def _catalog(folder: Path) -> Catalog:
    return unopened_catalog(f"file://{folder}", "land-cover")


def _items(folder: Path, files: list[MapFile], classes=WORLDCOVER) -> MapItems:
    for file in files:
        file.write(folder, classes)
    items = [map_item(each.item(str(folder)), _catalog(folder), ("map",)) for each in files]
    assert all(isinstance(each, MapItem) for each in items), items
    return MapItems(items)


def _read(folder: Path, files: list[MapFile], grid: PatchGrid, classes=WORLDCOVER):
    (year,) = _items(folder, files, classes).at(grid.footprint(), days("2021-06-01"), grid.epsg)
    return read_class_map(FileReader(_catalog(folder), 2, 0.0), grid, year.items, classes)


@pytest.mark.parametrize("shift_m", [0.0, 3.7])
@pytest.mark.parametrize("place", [(9.1, 48.2, 32632), (-62.3, -3.1, 32720), (147.2, 69.5, 32655)])
def test_a_map_in_degrees_comes_back_pixel_for_pixel_in_utm(tmp_path, place, shift_m):
    grid = grid_around(*place, SIZE, shift_m)
    found = _read(tmp_path, [file_under(grid, "all", "EPSG:4326")], grid)
    np.testing.assert_array_equal(found.codes, expected_codes(grid, "EPSG:4326", WORLDCOVER))
    assert (found.positions >= 0).all()
    assert len(np.unique(found.codes)) == len(WORLDCOVER)


def test_a_patch_across_four_files_has_neither_seam_nor_gap(tmp_path):
    grid = grid_around(12.0, 48.0, 32632, SIZE)
    whole = file_under(grid, "all", "EPSG:4326")
    right, below = whole.width // 2, whole.height // 3
    files = [
        MapFile("nw", "EPSG:4326", whole.col, whole.row, right, below),
        MapFile("ne", "EPSG:4326", whole.col + right, whole.row, whole.width - right, below),
        MapFile("sw", "EPSG:4326", whole.col, whole.row + below, right, whole.height - below),
        MapFile("se", "EPSG:4326", whole.col + right, whole.row + below, whole.width - right, whole.height - below),
    ]
    found = _read(tmp_path, files, grid)
    np.testing.assert_array_equal(found.codes, expected_codes(grid, "EPSG:4326", WORLDCOVER))
    assert sorted(found.item_ids) == ["ne", "nw", "se", "sw"]


def test_a_map_on_the_grid_of_the_patch_is_cut_out(tmp_path):
    grid = grid_around(7.3, -12.4, 32732, SIZE)
    file = file_under(grid, "all", "EPSG:32732")
    found = _read(tmp_path, [file], grid, ANNUAL)
    row, col = int(-grid.y_ul_m / 10) - file.row, int(grid.x_ul_m / 10) - file.col
    np.testing.assert_array_equal(found.codes, file.values(ANNUAL)[row : row + SIZE, col : col + SIZE])


def test_a_map_in_the_neighbouring_utm_zone_comes_back_pixel_for_pixel(tmp_path):
    grid = grid_around(11.98, 52.0, 32632, SIZE)
    found = _read(tmp_path, [file_under(grid, "east", "EPSG:32633")], grid, ANNUAL)
    np.testing.assert_array_equal(found.codes, expected_codes(grid, "EPSG:32633", ANNUAL))


def test_where_two_zones_overlap_the_patch_s_own_grid_is_taken(tmp_path):
    grid = grid_around(11.98, 52.0, 32632, SIZE)
    own = file_under(grid, "z_own", "EPSG:32632", extra={"properties": _properties(32632)})
    other = file_under(grid, "a_other", "EPSG:32633", extra={"properties": _properties(32633)})
    found = _read(tmp_path, [other, own], grid, ANNUAL)
    assert found.item_ids == ("z_own",)
    np.testing.assert_array_equal(found.codes, expected_codes(grid, "EPSG:32632", ANNUAL))


def _properties(epsg: int) -> dict:
    return {"start_datetime": "2021-01-01T00:00:00Z", "end_datetime": "2022-01-01T00:00:00Z", "proj:epsg": epsg}


@pytest.mark.parametrize("epsg", [32701, 32760])
def test_a_patch_across_the_antimeridian_is_whole(tmp_path, epsg):
    grid = grid_around(180.0 if epsg == 32760 else -180.0, -17.0, epsg, SIZE)
    one = file_under(grid, "one", "EPSG:4326")
    east_px = 180 * 12_000 - one.col
    files = [
        MapFile("west", "EPSG:4326", one.col, one.row, east_px, one.height),
        MapFile("east", "EPSG:4326", -180 * 12_000, one.row, one.width - east_px, one.height),
    ]
    expected = expected_codes(grid, "EPSG:4326", WORLDCOVER)
    found = _read(tmp_path, files, grid)
    np.testing.assert_array_equal(found.codes, expected)
    assert len(found.item_ids) == 2
    beyond = _read(tmp_path, [one], grid)
    np.testing.assert_array_equal(beyond.codes, expected)
    other_zone = 32760 if epsg == 32701 else 32701
    neighbour = _read(tmp_path, [file_under(grid, "zone", f"EPSG:{other_zone}")], grid)
    np.testing.assert_array_equal(neighbour.codes, expected_codes(grid, f"EPSG:{other_zone}", WORLDCOVER))


@given(lon=st.floats(-179.0, 179.0), lat=st.floats(-75.0, 80.0), shift=st.floats(0.0, 9.9))
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_anywhere_on_earth_pixels_are_those_at_the_middles(tmp_path, lon, lat, shift):
    epsg = (32600 if lat >= 0 else 32700) + int((lon + 180) // 6) + 1
    grid = grid_around(lon, lat, epsg, 24, shift)
    found = _read(tmp_path, [file_under(grid, "all", "EPSG:4326", margin=4)], grid)
    np.testing.assert_array_equal(found.codes, expected_codes(grid, "EPSG:4326", WORLDCOVER))


def test_gdal_warps_to_the_same_pixels_when_it_may_not_approximate(tmp_path):
    grid = grid_around(21.4, 61.3, 32634, SIZE)
    file = file_under(grid, "all", "EPSG:4326")
    found = _read(tmp_path, [file], grid)
    warped = np.zeros((SIZE, SIZE), dtype=np.uint8)
    with rasterio.open(tmp_path / "all.tif") as source:
        reproject(
            source.read(1), warped, src_transform=source.transform, src_crs=source.crs, dst_crs=CRS.from_epsg(32634),
            dst_transform=from_origin(grid.x_ul_m, grid.y_ul_m, 10.0, 10.0), resampling=Resampling.nearest,
            tolerance=0.0,
        )  # fmt: skip
    assert (warped != found.codes).mean() < 1e-3


def test_holes_edges_and_unknown_codes_are_told_apart(tmp_path):
    grid = grid_around(7.3, -12.4, 32732, SIZE)
    file = file_under(grid, "all", "EPSG:32732", margin=0)
    holes = [(slice(0, 10), slice(0, 96), 0), (slice(10, 20), slice(0, 96), 10), (slice(20, 22), slice(0, 96), 6)]
    cut = MapFile("all", file.crs, file.col, file.row, SIZE, SIZE - 30, holes=holes)
    found = _read(tmp_path, [cut], grid, ANNUAL)
    assert (found.positions[:20] == NODATA).all()
    assert (found.positions[20:22] == UNKNOWN).all()
    assert (found.positions[22:66] >= 0).all()
    assert (found.positions[66:] == NODATA).all()
    assert found.unknown_codes == {6: 2 * SIZE}
    assert found.counts(len(ANNUAL)).sum() == 44 * SIZE


def test_a_missing_or_damaged_file_is_named_and_the_others_serve(tmp_path):
    grid = grid_around(7.3, -12.4, 32732, SIZE)
    files = [file_under(grid, name, "EPSG:32732") for name in ("a_missing", "b_damaged", "c_whole")]
    items = _items(tmp_path, files, ANNUAL)
    (tmp_path / "a_missing.tif").unlink()
    with rasterio.open(tmp_path / "b_damaged.tif") as source:
        offset = int(source.get_tag_item("BLOCK_OFFSET_0_0", "TIFF", bidx=1))
    with (tmp_path / "b_damaged.tif").open("r+b") as handle:
        handle.seek(offset)
        handle.write(bytes(60))
    (year,) = items.at(grid.footprint(), days("2021-06-01"), grid.epsg)
    found = read_class_map(FileReader(_catalog(tmp_path), 2, 0.0), grid, year.items, ANNUAL)
    assert found.failures == {"a_missing": "missing_file:map", "b_damaged": "unreadable:map"}
    assert found.item_ids == ("c_whole",)
    np.testing.assert_array_equal(found.codes, expected_codes(grid, "EPSG:32732", ANNUAL))


def test_a_map_of_fractions_is_refused(tmp_path):
    grid = grid_around(7.3, -12.4, 32732, 16)
    file = file_under(grid, "all", "EPSG:32732")
    items = _items(tmp_path, [file], ANNUAL)
    with rasterio.open(
        tmp_path / "all.tif", "w", driver="GTiff", dtype="float32", count=1, height=file.height, width=file.width,
        crs=file.crs, transform=from_origin(file.left, file.top, 10.0, 10.0),
    ) as target:  # fmt: skip
        target.write(np.full((1, file.height, file.width), 0.5, dtype=np.float32))
    (year,) = items.at(grid.footprint(), None, grid.epsg)
    found = read_class_map(FileReader(_catalog(tmp_path), 1, 0.0), grid, year.items, ANNUAL)
    assert found.failures == {"all": "wrong_type:map"}


def test_a_fault_of_the_moment_is_no_verdict(tmp_path):
    grid = grid_around(7.3, -12.4, 32732, 16)
    item = _items(tmp_path, [file_under(grid, "all", "EPSG:32732")], ANNUAL).items[0]
    away = MapItem("away", "http://127.0.0.1:9/all.tif", item.first_day, item.last_day, 0, item.footprint)
    reader = FileReader(unopened_catalog("http://127.0.0.1:9/stac", "land-cover"), 2, 0.0)
    with pytest.raises(SceneReadError, match="could not be read in 2 attempts"):
        read_class_map(reader, grid, [away], ANNUAL)
