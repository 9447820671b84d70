"""The land-cover map follows the fields that make the pixels."""

import numpy as np
import pytest

from pipelines.ground_cover.classes import read_classes
from pipelines.sampling.points import draw_land_points
from pipelines.sandbox import kernels
from pipelines.sandbox.fields import Planet
from pipelines.sandbox.land_cover import (
    CODES,
    ICE_CODE,
    WATER_CODE,
    LandCoverMap,
    codes_of_fields,
    land_cover_item,
    map_from_path,
)
from pipelines.sandbox.rendering import BLOCK_SIZE, Renderer
from pipelines.sandbox.scenes import tile_scenes
from pipelines.sandbox.tiling import tile_from_id
from pipelines.sandbox.utm import central_meridian_deg


@pytest.fixture(scope="module")
def renderer():
    return Renderer(Planet(0))


def test_codes_are_those_of_the_shipped_mapping():
    assert sorted([*CODES.ravel().tolist(), ICE_CODE, WATER_CODE]) == list(read_classes("sandbox").codes)


def test_every_class_of_land_is_found_and_none_dominates(renderer):
    codes = codes_of_fields(renderer.planet.fields(draw_land_points(2000, 0)))
    shares = {code: float((codes == code).mean()) for code in read_classes("sandbox").codes}
    assert shares.pop(WATER_CODE) == 0.0
    assert min(shares.values()) > 0.01
    assert max(shares.values()) < 0.25


def test_a_pixel_at_a_lattice_point_has_the_class_of_its_fields(renderer):
    tile = tile_from_id("32TMT")
    block = renderer.land_cover(tile, 3, 5, 10.0)
    extent = BLOCK_SIZE * 10.0
    lonlat = kernels.position_lattice(
        tile.x_ul_m + 5 * extent, tile.signed_y_ul_m - 3 * extent, 80.0, 32, np.radians(central_meridian_deg(tile.zone))
    )
    expected = codes_of_fields(renderer.planet.fields(np.degrees(lonlat))).reshape(32, 32)
    seen = block[::8, ::8]
    on_land = seen != WATER_CODE
    assert on_land.mean() > 0.9
    np.testing.assert_array_equal(seen[on_land], expected[on_land])


def test_water_is_where_the_pixels_show_it(renderer):
    coast = tile_from_id("30UWB")
    codes = renderer.land_cover(coast, 0, 0, 80.0)
    assert 0.05 < (codes == WATER_CODE).mean() < 0.95
    found = 0
    for scene in tile_scenes(coast, 0)[2:6]:
        classes = renderer.classify(scene, 0, 0, 80.0)
        ground = np.isin(classes, (4, 5, 6, 11))
        found += int((classes == 6).sum())
        np.testing.assert_array_equal((codes == WATER_CODE)[ground], (classes == 6)[ground])
    assert found > 1000


def test_classes_differ_in_what_a_clear_scene_shows(renderer):
    """Forest is greener than grass in the same climate."""
    scene = max(
        tile_scenes(tile_from_id("30UXB"), 0), key=lambda each: np.isin(renderer.scene_classes(each), (4, 5)).mean()
    )
    codes = renderer.land_cover(scene.tile, 0, 1, 80.0)
    clear = np.isin(renderer.classify(scene, 0, 1, 80.0), (4, 5))
    red, nir = (
        renderer.render(scene, band, 0, 1, 80.0).astype(np.float64) + scene.boa_add_offset for band in ("B04", "B08")
    )
    greenness = (nir - red) / (nir + red)
    forest, grass = (greenness[clear & (codes == code)] for code in (12, 32))
    assert min(len(forest), len(grass)) > 1000
    assert np.median(forest) > np.median(grass) + 0.02


def test_beyond_the_edge_of_a_tile_there_is_no_class(renderer):
    block = renderer.land_cover(tile_from_id("32TMT"), 42, 42, 10.0)
    edge = 10_980 - 42 * BLOCK_SIZE
    assert (block[:edge, :edge] > 0).all()
    assert not block[edge:].any()
    assert not block[:, edge:].any()


def test_paths_and_items_name_tile_and_year():
    land_cover = LandCoverMap(tile_from_id("01KAB"), 2022)
    assert map_from_path(land_cover.path) == land_cover
    item = land_cover_item(land_cover, "http://here")
    assert item["assets"]["map"]["href"] == "http://here/cog/land-cover/2022/01KAB.tif"
    assert item["bbox"][0] > item["bbox"][2] or item["geometry"]["type"] == "Polygon"
    for path in ("land-cover/2019/32TMT.tif", "land-cover/2021/99TMT.tif", "land-cover/2021/32TMT.tiff"):
        assert map_from_path(path) is None
