"""Objects planted on the sandbox's planet: where they are drawn, when, and that no pixel alone gives them away."""

from datetime import UTC, datetime, timedelta
from functools import cache

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, f1_score, precision_recall_curve
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from pipelines.sandbox.catalog import item
from pipelines.sandbox.fields import Planet
from pipelines.sandbox.planted.acquisitions import planted_scenes, planted_tiles
from pipelines.sandbox.planted.areas import AREAS, CLOUDED_MONTHS, NUM_MONTHS, first_day, month_text
from pipelines.sandbox.planted.layer import PlantedLayer, tree_cover_raster
from pipelines.sandbox.planted.objects import planted_objects, planted_truth, vessels
from pipelines.sandbox.planted.painting import METAL, PixelGrid, paints
from pipelines.sandbox.rendering import BLOCK_SIZE, Renderer
from pipelines.sandbox.scenes import Scene
from pipelines.sandbox.tiling import tile_from_id, tiles_covering
from pipelines.sandbox.utm import to_utm

BLOCK_M = BLOCK_SIZE * 10
BANDS = ("B02", "B03", "B04", "B05", "B06", "B07", "B08", "B11", "B12")


@pytest.fixture(scope="module")
def planet():
    return Planet(0)


@pytest.fixture(scope="module")
def renderer(planet):
    return Renderer(planet, layers=[PlantedLayer(0)])


def _area(name):
    return next(area for area in AREAS if area.name == name)


def _position(tile, lon_deg, lat_deg):
    """Pixel column and row of a place on a tile's 10 m grid, fractional."""
    x, y = (float(v[0]) for v in to_utm(np.array([[lon_deg, lat_deg]]), tile.zone))
    return (x - tile.x_ul_m) / 10, (tile.signed_y_ul_m - y) / 10


@cache
def _scenes(tile):
    return planted_scenes(tile, 0)


def _scene(tile, day):
    return min(_scenes(tile), key=lambda scene: abs(scene.sensed - day))


def _surface(renderer, scene, band, column, row):
    """Reflectance of the ground of the block around a pixel, as layers leave it, without the sky."""
    block_row, block_column = int(row // BLOCK_SIZE), int(column // BLOCK_SIZE)
    clear = Scene(scene.satellite, scene.sensed, scene.relative_orbit, scene.tile, scene.baseline, scene.generated)
    plane = np.full((BLOCK_SIZE, BLOCK_SIZE), 0.1, dtype=np.float32)
    renderer.apply_layers(clear, band, block_row, block_column, 10.0, plane)
    return plane, column - block_column * BLOCK_SIZE, row - block_row * BLOCK_SIZE


def _grid(resolution_m, size_px, planted, zone):
    x, y = (float(v[0]) for v in to_utm(np.array([[planted.lon_deg, planted.lat_deg]]), zone))
    half = resolution_m * size_px / 2
    return PixelGrid(
        zone, planted.lat_deg < 0, x - half, y + half + (1e7 if planted.lat_deg < 0 else 0), resolution_m, size_px
    )


def test_pixels_outside_the_areas_are_those_of_the_bare_planet(planet, renderer):
    bare = Renderer(planet)
    tile = tile_from_id("32UPD")
    scene = planted_scenes(tile, 0)[0]
    area = _area("altmark")
    column, row = (int(v // BLOCK_SIZE) for v in _position(tile, area.lon_deg, area.lat_deg))
    for band in ("B04", "B11", "SCL"):
        np.testing.assert_array_equal(renderer.render(scene, band, 0, 0), bare.render(scene, band, 0, 0))
    inside = renderer.render(scene, "B04", row, column) != bare.render(scene, "B04", row, column)
    assert 0.005 < inside.mean() < 0.3


def test_the_plan_is_a_function_of_the_seed():
    assert planted_objects(3) == planted_objects(3)
    assert planted_objects(3) != planted_objects(4)
    one, other = vessels(0, 738_000), vessels(0, 738_001)
    assert {(each.lon_deg, each.lat_deg) for each in one}.isdisjoint((each.lon_deg, each.lat_deg) for each in other)


@pytest.mark.parametrize("resolution_m", [10.0, 20.0, 60.0])
@pytest.mark.parametrize("kind", ["solar_farm", "greenhouse"])
def test_an_object_covers_its_area_at_every_resolution(kind, resolution_m):
    planted = next(each for each in planted_objects(0) if each.kind == kind and each.area == "altmark")
    grid = _grid(resolution_m, int(1_200 / resolution_m), planted, 32)
    ground, panel = paints(planted, grid, 40.0, 150.0)
    assert ground.coverage.sum() * resolution_m**2 == pytest.approx(planted.length_m * planted.width_m, rel=0.02)
    assert panel.coverage.sum() / ground.coverage.sum() == pytest.approx(0.5, abs=0.15)


@pytest.mark.parametrize(
    ("name", "zones"), [("zone_border", (32, 33)), ("north_sea", (31, 32)), ("antimeridian", (60, 1))]
)
def test_an_object_stands_at_the_same_place_in_both_zones(renderer, name, zones):
    kinds = ("wind_turbine", "offshore_turbine")
    planted = [
        each for each in planted_objects(0) if each.area == name and each.kind in kinds and each.first_event is None
    ]
    day = first_day(1) + timedelta(days=10)
    found = 0
    for each in planted:
        lon = (each.lon_deg + 180.0) % 360.0 - 180.0
        for zone in zones:
            for tile in (t for t in tiles_covering(np.array([lon, each.lat_deg])) if t.zone == zone):
                column, row = _position(tile, lon, each.lat_deg)
                plane, column, row = _surface(renderer, _scene(tile, day), "B04", column, row)
                if not (8 < column < BLOCK_SIZE - 8 and 8 < row < BLOCK_SIZE - 8):
                    continue
                near = plane[int(row) - 3 : int(row) + 4, int(column) - 3 : int(column) + 4]
                weight = np.clip(near - 0.11, 0, None)
                middles = np.arange(7) + 0.5 - 3
                offset = (
                    weight.sum(0) @ middles / weight.sum() - column % 1,
                    weight.sum(1) @ middles / weight.sum() - row % 1,
                )
                np.testing.assert_allclose(offset, 0.0, atol=0.25)
                found += 1
    assert found >= 2 * len(zones)


def test_an_object_is_seen_between_its_months_only(renderer):
    tile = tile_from_id("14SNG")
    chosen = [
        each for each in planted_objects(0)
        if each.area == "kansas" and each.kind == "wind_turbine" and (each.first_event or each.last_event)
    ]  # fmt: skip
    bright = {True: [], False: []}
    for each in chosen:
        column, row = _position(tile, each.lon_deg, each.lat_deg)
        for number in range(1, NUM_MONTHS + 1, 4):
            scene = _scene(tile, first_day(number) + timedelta(days=14))
            if CLOUDED_MONTHS[0] <= number <= CLOUDED_MONTHS[1]:
                continue
            plane, at_column, at_row = _surface(renderer, scene, "B04", column, row)
            bright[each.is_there(scene.sensed)].append(plane[int(at_row), int(at_column)])
    assert min(len(values) for values in bright.values()) > 20
    assert min(bright[True]) > 0.2
    assert max(bright[False]) < 0.15


def test_truth_tells_events_within_the_months_that_have_them():
    truth = planted_truth(0, "wind_turbine")
    dates = truth[["first_month", "last_month"]]
    assert truth.crs.to_epsg() == 4326
    assert truth.geometry.is_valid.all()
    assert set(truth["category"]) == {"wind_turbine"}
    assert {month_text(number) for number in range(5, 14)} >= set(dates["first_month"].dropna())
    assert {month_text(number) for number in range(4, 13)} >= set(dates["last_month"].dropna())
    assert 0.3 < dates.isna().all(axis=1).mean() < 0.6
    assert set(planted_truth(0, "marine_infrastructure")["category"]) == {"platform", "turbine"}
    assert set(planted_truth(0, "solar_farm")["continent"]) >= {"Africa", "Asia", "Europe", "North America", "Oceania"}
    with pytest.raises(KeyError):
        planted_truth(0, "tree_cover")


def test_a_corner_never_clears_for_half_a_year(renderer):
    area = _area("kansas")
    tile = tile_from_id("14SNG")
    lon, lat = area.lonlat_deg(np.float64(-3_800.0), np.float64(3_000.0))
    column, row = _position(tile, lon, lat)
    for number, hidden in ((5, False), (6, True), (11, True), (12, False)):
        scene = _scene(tile, first_day(number) + timedelta(days=14))
        classes = np.zeros((BLOCK_SIZE, BLOCK_SIZE), dtype=np.uint8)
        renderer.apply_layers(scene, "SCL", int(row // 256), int(column // 256), 10.0, classes)
        assert (classes[int(row) % 256, int(column) % 256] == 9) == hidden


def test_tree_cover_is_the_density_within_forests_that_stand():
    forest = next(each for each in planted_objects(0) if each.kind == "forest" and each.area == "pampas" and each.built)
    grid = _grid(10.0, 64, forest, 20)
    after, before = (tree_cover_raster(0, grid, forest.built + timedelta(days=days)) for days in (1, -1))
    middle = after[28:36, 28:36]
    np.testing.assert_allclose(middle, forest.density, atol=1e-6)
    assert before[28:36, 28:36].max() == 0
    assert 0.05 < (after > 0).mean() < 0.8


def test_tiles_with_objects_have_scenes_in_every_month():
    ids = [scene.item_id for tile in planted_tiles() for scene in _scenes(tile)]
    assert len(ids) == len(set(ids))
    for tile in planted_tiles():
        months = [f"{scene.sensed:%Y-%m}" for scene in _scenes(tile)]
        assert all(2 <= months.count(month_text(number)) <= 12 for number in range(1, NUM_MONTHS + 1))


def test_an_item_of_a_planted_scene_names_its_offset(renderer):
    scene = _scene(tile_from_id("14SNG"), datetime(2022, 6, 1, tzinfo=UTC))
    assert item(scene, renderer)["properties"]["s2:processing_baseline"] == "04.00"
    assert scene.boa_add_offset == -1000


@pytest.fixture(scope="module")
def pixels(renderer):
    """Channels of clear pixels of three areas on one day each, and the block each came from."""
    found = []
    for name, tile_id in (("altmark", "32UPD"), ("free_state", "35JMJ"), ("pampas", "20HPH")):
        area, tile = _area(name), tile_from_id(tile_id)
        scene = _scene(tile, first_day(2))
        column, row = (int(v // BLOCK_SIZE) for v in _position(tile, area.lon_deg, area.lat_deg))
        for block_row in (row - 1, row):
            for block_column in (column - 1, column):
                planes = [_ground(renderer, scene, band, block_row, block_column) for band in BANDS]
                found.append((scene, block_row, block_column, np.stack(planes, axis=-1)))
    return found


def _ground(renderer, scene, band, row, column):
    """Ground seen through no sky: the surface of a planet of one color, with what is planted."""
    plane = np.full((BLOCK_SIZE, BLOCK_SIZE), 0.15 if band in ("B02", "B03", "B04") else 0.25, dtype=np.float32)
    renderer.apply_layers(scene, band, row, column, 10.0, plane)
    return plane


def _target(kind, scene, row, column):
    tile = scene.tile
    grid = PixelGrid(
        tile.zone, tile.is_south, tile.x_ul_m + column * BLOCK_M, tile.y_ul_m - row * BLOCK_M, 10.0, BLOCK_SIZE
    )
    target = np.zeros((BLOCK_SIZE, BLOCK_SIZE), dtype=np.bool_)
    for each in planted_objects(0):
        if each.kind == kind and each.is_there(scene.sensed):
            for paint in paints(each, grid, 45.0, 150.0):
                if kind == "solar_farm" or paint.spectrum == METAL:
                    target[paint.rows, paint.columns] |= paint.coverage > 0.5
    return target


@pytest.mark.parametrize("kind", ["solar_farm", "wind_turbine"])
def test_no_pixel_alone_gives_an_object_away(pixels, kind):
    targets = [_target(kind, scene, row, column) for scene, row, column, _ in pixels]
    assert sum(target.sum() for target in targets) > 30
    train, test = ([p for k, p in enumerate(pixels) if k % 2 == side] for side in (0, 1))
    target_train, target_test = (
        np.concatenate([t.ravel() for k, t in enumerate(targets) if k % 2 == side]) for side in (0, 1)
    )
    features_train, features_test = (
        np.concatenate([p[3].reshape(-1, len(BANDS)) for p in part]) for part in (train, test)
    )
    model = make_pipeline(StandardScaler(), LogisticRegression(class_weight="balanced", max_iter=300))
    score = model.fit(features_train, target_train).predict_proba(features_test)[:, 1]
    if kind == "solar_farm":
        precision, recall, thresholds = precision_recall_curve(target_test, score)
        best = thresholds[np.argmax((2 * precision * recall / np.maximum(precision + recall, 1e-9))[:-1])]
        assert 0.2 < f1_score(target_test, score >= best) < 0.5
    else:
        assert average_precision_score(target_test, score) < 0.4
