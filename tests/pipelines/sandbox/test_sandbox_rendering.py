from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import numpy as np
import pytest

from pipelines.sandbox import spectra
from pipelines.sandbox.fields import Planet
from pipelines.sandbox.rendering import BLOCK_SIZE, Renderer
from pipelines.sandbox.scenes import (
    HALF_SWATH,
    Scene,
    covering_orbits,
    orbit_normals,
    scene_from_product_name,
    tile_scenes,
)
from pipelines.sandbox.tiling import tile_from_id, tiles_covering
from pipelines.sandbox.utm import from_utm, to_utm


@pytest.fixture(scope="module")
def planet():
    return Planet(0)


@pytest.fixture(scope="module")
def renderer(planet):
    return Renderer(planet)


def _scene(tile_id, day=datetime(2021, 7, 16, 10, 30, tzinfo=UTC), baseline="03.01", orbit=None):
    tile = tile_from_id(tile_id)
    lon, lat = np.radians(tile.boundary_lonlat_deg[:-1].mean(axis=0))
    centre = np.array([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)])
    nearest = min(covering_orbits(tile), key=lambda k: abs(orbit_normals()[k - 1] @ centre))
    return Scene("S2A", day, orbit or nearest, tile, baseline, day)


def _clear_scene(renderer, tile_id):
    scenes = tile_scenes(tile_from_id(tile_id), 0)
    return min(scenes, key=lambda s: (np.isin(renderer.scene_classes(s), (0, 3, 8, 9, 10))).mean())


def _pixel(renderer, scene, band, x_m, signed_y_m):
    resolution = spectra.RESOLUTION_M[band]
    row = int((scene.tile.signed_y_ul_m - signed_y_m) // resolution)
    col = int((x_m - scene.tile.x_ul_m) // resolution)
    block = renderer.render(scene, band, row // BLOCK_SIZE, col // BLOCK_SIZE)
    return block[row % BLOCK_SIZE, col % BLOCK_SIZE]


@pytest.mark.parametrize("band", list(spectra.RESOLUTION_M))
def test_blocks_do_not_depend_on_order_or_threads(planet, renderer, band):
    scene = _scene("32UNA")
    places = [(3, 4), (0, 0), (3, 4), (5, 1)]
    first = [renderer.render(scene, band, *place) for place in places]
    fresh = Renderer(Planet(0), capacity=1)
    with ThreadPoolExecutor(3) as pool:
        again = list(pool.map(lambda place: fresh.render(scene, band, *place), places[::-1]))[::-1]
    for one, two in zip(first, again, strict=True):
        np.testing.assert_array_equal(one, two)
    assert first[0].dtype == (np.uint8 if band in ("SCL", "visual") else np.uint16)


def test_another_seed_is_another_planet(renderer):
    scene = _scene("32UNA")
    assert (Renderer(Planet(5)).render(scene, "B04", 9, 9) != renderer.render(scene, "B04", 9, 9)).mean() > 0.9


def test_pixels_beyond_the_edge_are_nodata(renderer):
    block = renderer.render(_clear_scene(renderer, "32UNA"), "B02", 42, 42)
    assert (block[228:] == 0).all()
    assert (block[:, 228:] == 0).all()


@pytest.mark.parametrize(
    ("band", "lonlat"), [("B03", (6.0005, 48.6)), ("B03", (9.0, 48.6)), ("B05", (9.0, 48.6)), ("B01", (-66.0, -20.3))]
)
def test_overlapping_tiles_show_the_same_ground(renderer, band, lonlat):
    """Neighbours in one zone share the pixel grid; tiles of two zones meet within a pixel."""
    point = np.array(lonlat)
    tiles = tiles_covering(point)
    if len(tiles) < 2:
        tiles = tiles_covering(point + np.array([0.01, 0.0]))
    assert len(tiles) >= 2
    orbits = set.intersection(*(set(covering_orbits(tile)) for tile in tiles[:2]))
    day = datetime(2022, 5, 3, 10, 30, tzinfo=UTC)
    values = []
    for tile in tiles[:2]:
        scene = Scene("S2B", day, min(orbits), tile, "03.01", day)
        offsets = np.linspace(-300, 300, 31)
        zone_x, zone_y = (float(v) for v in to_utm(point, tiles[0].zone))
        ground = from_utm(zone_x + offsets, np.full(31, zone_y), tiles[0].zone)
        x, y = to_utm(ground, tile.zone)
        values.append([float(_pixel(renderer, scene, band, a, b)) for a, b in zip(x, y, strict=True)])
    one, two = np.array(values)
    if tiles[0].zone == tiles[1].zone and band == "B03":
        assert np.abs(one - two).max() <= 2
    else:
        assert np.abs(one / two - 1).mean() < 0.08


@pytest.mark.parametrize("factor", [2, 6])
def test_bands_of_all_resolutions_show_the_same_fields(renderer, factor):
    scene = _clear_scene(renderer, "35LNE")
    coarse = renderer.render(scene, "B04", 1, 1, resolution_m=10 * factor).astype(float)
    blocks = range(factor, 2 * factor)
    fine = np.block([[renderer.render(scene, "B04", row, col).astype(float) for col in blocks] for row in blocks])
    means = fine.reshape(256, factor, 256, factor).mean(axis=(1, 3))
    squares = (16, 16, 16, 16)
    found, expected = coarse.reshape(squares).mean(axis=(1, 3)), means.reshape(squares).mean(axis=(1, 3))
    assert expected.std() > 0
    assert np.abs(found / expected - 1).max() < 0.03
    assert np.corrcoef(found.ravel(), expected.ravel())[0, 1] > 0.9


def test_baseline_adds_1000_to_digital_numbers_and_to_nothing_else(renderer):
    old, new = _scene("32UNA", baseline="03.01"), _scene("32UNA", baseline="04.00")
    a, b = renderer.render(old, "B08", 7, 7).astype(int), renderer.render(new, "B08", 7, 7).astype(int)
    data = (a > 1) & (b > 0)
    assert data.any()
    np.testing.assert_array_equal((b - a)[data], 1000)
    np.testing.assert_array_equal(renderer.render(old, "visual", 7, 7), renderer.render(new, "visual", 7, 7))
    assert (old.boa_add_offset, new.boa_add_offset) == (0, -1000)


def test_clouds_agree_between_pixels_and_classes(renderer):
    for scene in tile_scenes(tile_from_id("20MRC"), 0):
        classes = renderer.render(scene, "SCL", 4, 4)
        share = np.isin(classes, (8, 9, 10)).mean()
        if 0.1 < share < 0.9 and (classes != 0).all():
            break
    red = renderer.render(scene, "B04", 4, 4, resolution_m=20).astype(float) + scene.boa_add_offset
    thick, clear = red[classes == 9], red[np.isin(classes, (4, 5, 6))]
    assert thick.size > 100
    assert clear.size > 100
    assert thick.min() > 4_500
    assert np.percentile(clear, 99) < thick.min()


def test_clouds_move_and_are_more_frequent_in_the_tropics(renderer):
    def cover(tile_id):
        scenes = tile_scenes(tile_from_id(tile_id), 0)
        return [
            np.isin(renderer.scene_classes(s), (8, 9, 10)).mean() / max(1e-9, (renderer.scene_classes(s) != 0).mean())
            for s in scenes
        ]

    tropics = np.concatenate(
        [cover(t) for t in ("20MRC", "35MNM", "48MYU", "19MGT", "33MVS", "50MKC", "21MXT", "34MBD")]
    )
    deserts = np.concatenate(
        [cover(t) for t in ("32RMQ", "50JQM", "37RGL", "13RCQ", "36RVU", "52JGN", "33RXP", "40RCN")]
    )
    assert tropics.mean() > deserts.mean() + 0.1
    assert (tropics < 0.2).mean() > 0.15
    assert tropics.std() > 0.2


def test_nodata_is_exactly_what_lies_outside_the_swath(renderer):
    tile = tile_from_id("32UNA")
    scene = next(s for s in tile_scenes(tile, 0) if 0.2 < (renderer.scene_classes(s) == 0).mean() < 0.8)
    row, col = next(
        (r, c)
        for r in range(3, 20, 4)
        for c in range(1, 20)
        if 0.2 < (renderer.render(scene, "B05", r, c) == 0).mean() < 0.8
    )
    red = renderer.render(scene, "B05", row, col)
    classes = renderer.render(scene, "SCL", row, col)
    np.testing.assert_array_equal(red == 0, classes == 0)
    x = tile.x_ul_m + (256 * (col) + np.arange(256) + 0.5) * 20.0
    y = np.full(256, tile.signed_y_ul_m - (256 * (row) + 100.5) * 20.0)
    lon, lat = np.radians(from_utm(x, y, tile.zone)).T
    cross = scene.swath_normal @ np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)])
    np.testing.assert_array_equal(red[100, 5:-5] == 0, (np.abs(cross) > HALF_SWATH)[5:-5])


@pytest.mark.parametrize("tile_id", ["01WCN", "60WXT", "27XVN", "22XEQ", "19HCC"])
def test_antimeridian_far_north_and_south_render(renderer, tile_id):
    tile = tile_from_id(tile_id)
    scenes = tile_scenes(tile, 0)
    assert 4 <= len(scenes) <= 16
    block = renderer.render(scenes[0], "B01", 3, 3)
    assert block.shape == (256, 256)
    assert any((renderer.scene_classes(s) != 0).mean() > 0.5 for s in scenes)


class _Runway:
    """A bright strip on eastings of a range, after a date."""

    def __init__(self, since):
        self.since = since

    def apply(self, view, plane):
        x = view.x_ul_m + (np.arange(plane.shape[1]) + 0.5) * view.resolution_m
        if view.scene.sensed >= self.since:
            plane[:, (x >= 590_000) & (x < 590_400)] = 5 if view.band == "SCL" else 0.9


def test_a_layer_changes_the_ground_from_its_date_on(planet, renderer):
    built = Renderer(planet, layers=[_Runway(datetime(2022, 1, 1, tzinfo=UTC))])
    before = _scene("32UNA", datetime(2021, 9, 26, 10, 14, 54, tzinfo=UTC))
    after = _scene("32UNA", datetime(2022, 6, 26, 10, 14, 54, tzinfo=UTC))
    col = (590_000 - before.tile.x_ul_m) // 2560
    np.testing.assert_array_equal(built.render(before, "B04", 5, col), renderer.render(before, "B04", 5, col))
    changed = built.render(after, "B04", 5, col) != renderer.render(after, "B04", 5, col)
    assert changed.any(axis=0).sum() in (39, 40, 41)


def test_unknown_bands_are_refused(renderer):
    with pytest.raises(ValueError, match="no band 'B10'"):
        renderer.render(_scene("32UNA"), "B10", 0, 0)


def test_product_names_carry_the_scene():
    for scene in tile_scenes(tile_from_id("58UGE"), 0):
        assert scene_from_product_name(scene.product_name) == scene
    with pytest.raises(ValueError, match="not the name"):
        scene_from_product_name("S2A_MSIL1C_20210704T101006")


def test_baselines_follow_dates_but_for_reprocessed_products():
    tiles = ["32UNA", "20MRC", "35LNE", "13TDE", "52HGH", "46XER", "58UGE", "21UYT", "31NBJ", "05WPS"]
    scenes = [s for t in tiles for s in tile_scenes(tile_from_id(t), 0)]
    start = datetime(2022, 1, 25, tzinfo=UTC)
    old = [s for s in scenes if s.sensed < start]
    assert all(s.baseline >= "04.00" for s in scenes if s.sensed >= start)
    assert 0 < sum(s.baseline >= "04.00" for s in old) < len(old) / 2
    keys = [(s.tile, s.sensed) for s in old]
    assert len(set(keys)) < len(keys)


@pytest.mark.parametrize("tile_id", ["32UNA", "20MRC", "35LNE", "01WCP", "19FDV"])
def test_a_tile_has_as_many_acquisitions_as_asked_for(tile_id: str) -> None:
    tile = tile_from_id(tile_id)
    usual, more = ({(scene.sensed, scene.relative_orbit) for scene in tile_scenes(tile, 0, most)} for most in (8, 12))
    assert len(usual) == 8
    assert 10 <= len(more) <= 12
    assert tile_scenes(tile, 0) == tile_scenes(tile, 0, 8)
