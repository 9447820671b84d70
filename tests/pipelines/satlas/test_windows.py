"""Windows and mosaics from a STAC API and a range server on loopback; every pixel carries its coordinates."""

import itertools
import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, date, datetime
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyproj import Transformer

from pipelines.errors import ArtefactError, ConfigurationError
from pipelines.sampling.catalog import open_catalog
from pipelines.satlas.area_tiles import tiles_of_area
from pipelines.satlas.images import MODEL_BANDS, TileImage, band_channels
from pipelines.satlas.mosaics import mosaic, periods_of_month
from pipelines.satlas.predictions import TileGrid
from pipelines.satlas.window_stage import WindowsRun, build_windows
from pipelines.satlas.windows import list_windows, read_windows, read_windows_record, windows_folder
from pipelines.satlas.windows_config import WindowsConfig
from tests.loopback.cog import CogServer
from tests.loopback.coordinate_scene import BANDS, CoordinateScene, SclBlock, collection
from tests.loopback.faults import status
from tests.loopback.stub_stac import StubStac

SCENE = CoordinateScene(
    epsg=32632, x_ul_m=399960, y_ul_m=5300040, mgrs_tile="32TLT", acquired=datetime(2022, 6, 11, 10, 20, tzinfo=UTC)
)
CLOUDY_CORNER = SclBlock(0, 0, 549, 200, 9)
MONTH = "2022-06"
SIDE_PX = 128


class Planet:
    """A STAC API and its files behind one origin, and windows made of them."""

    def __init__(self, server: CogServer, stub: StubStac, root: Path) -> None:
        self.server, self.stub, self.root = server, stub, root

    def add(self, *scenes: CoordinateScene) -> None:
        for scene in scenes:
            scene.write(self.server.folder)
            self.stub.items.append(scene.item(self.server.cog_url))

    def build(self, month: str = MONTH, **settings: object) -> WindowsRun:
        config = WindowsConfig.model_validate(
            {"tile_px": SIDE_PX, "margin_px": 0, "num_periods": 2, "backoff_s": 0.0, "max_attempts": 2, **settings}
        )
        return build_windows(self.root, month, config, open_catalog(self.server.stac_url, "sentinel-2-l2a"))


@pytest.fixture
def planet(token_endpoint: CogServer, tmp_path: Path) -> Iterator[Planet]:
    with StubStac(collection()) as stub:
        token_endpoint.hand_on_to(stub.url)
        yield Planet(token_endpoint, stub, tmp_path / "workspace")


def _box(scene: CoordinateScene, row: int, column: int, size_px: int = 20) -> tuple[float, float, float, float]:
    """A small box around a pixel, which lies in one tile as a rule."""
    west, north = scene.lonlat_at(row, column)
    east, south = scene.lonlat_at(row + size_px, column + size_px)
    return west, south, east, north


def _expected(scene: CoordinateScene, grid: TileGrid, offset: int = -1000) -> TileImage:
    row, column = round((scene.y_ul_m - grid.north_m) / 10), round((grid.west_m - scene.x_ul_m) / 10)
    patch = scene.expected_patch(row, column, grid.height_px)
    channels, present = band_channels({band: patch[BANDS.index(band)] for band in MODEL_BANDS}, offset)
    return TileImage(channels, present)


def test_a_window_holds_the_pixels_of_its_tile(planet: Planet) -> None:
    planet.add(SCENE)
    run = planet.build(boxes=[_box(SCENE, 300, 400)])
    assert (len(run.made), run.kept, run.failures, run.without_image) == (1, [], {}, [])
    windows = read_windows(run.made[0])
    wanted = _expected(SCENE, windows.grid)
    np.testing.assert_array_equal(windows.images[0].channels, wanted.channels)
    assert windows.images[0].present.all()
    assert (windows.periods, windows.missing_periods) == (("2022-06-01", "2022-05-02"), ("2022-05-02",))
    entry = windows.record["periods"][0]
    assert entry["items"][0]["id"] == SCENE.item_id
    assert (entry["items"][0]["boa_add_offset"], entry["items"][0]["used"]) == (-1000, 1.0)
    assert "no image of the tile in these days" in windows.record["periods"][1]["missing"]


def test_the_clearest_over_the_tile_lies_on_top_and_others_fill_its_holes(planet: Planet) -> None:
    """Scene 1 is said to be cloudy as a whole and is clear here; scene 2 is said to be clear and is not."""
    clear_here = replace(SCENE, cloud_cover_percent=80.0, scl_blocks=[SclBlock(0, 0, 549, 230, 8)])
    cloudy_here = replace(
        SCENE, acquired=datetime(2022, 6, 16, 10, 20, tzinfo=UTC), cloud_cover_percent=1.0, scene_number=5,
        scl_blocks=[SclBlock(0, 235, 549, 314, 9)],
    )  # fmt: skip
    planet.add(clear_here, cloudy_here)
    run = planet.build(boxes=[_box(SCENE, 300, 470)])
    (folder,) = run.made
    windows = read_windows(folder)
    first, second = (_expected(scene, windows.grid) for scene in (clear_here, cloudy_here))
    columns = round((windows.grid.west_m - SCENE.x_ul_m) / 10) + np.arange(SIDE_PX)
    from_first, from_second = columns >= 460, columns < 460
    image = windows.images[0]
    np.testing.assert_array_equal(image.channels[:, :, from_first], first.channels[:, :, from_first])
    np.testing.assert_array_equal(image.channels[:, :, from_second], second.channels[:, :, from_second])
    items = windows.record["periods"][0]["items"]
    assert [item["id"] for item in items] == [clear_here.item_id, cloudy_here.item_id]
    assert sum(item["used"] for item in items) == pytest.approx(image.present.mean())
    assert items[0]["clear"] == pytest.approx(from_first.mean())


@pytest.mark.parametrize("margin_px", [16, 64])
def test_a_window_reaches_into_its_neighbours(planet: Planet, margin_px: int) -> None:
    planet.add(SCENE)
    (folder,) = planet.build(boxes=[_box(SCENE, 300, 400)], margin_px=margin_px).made
    windows = read_windows(folder)
    side = SIDE_PX + 2 * margin_px
    assert (windows.grid.height_px, windows.grid.width_px, windows.margin_px) == (side, side, margin_px)
    np.testing.assert_array_equal(windows.images[0].channels, _expected(SCENE, windows.grid).channels)
    alone = windows.without_margin()
    assert alone.grid == TileGrid(**windows.record["grid"]) == windows.grid.padded(-margin_px)
    np.testing.assert_array_equal(alone.images[0].channels, _expected(SCENE, alone.grid).channels)


@pytest.mark.parametrize("max_images", [1, 3])
def test_every_tile_that_holds_a_place_shows_the_same_pixels_there(planet: Planet, max_images: int) -> None:
    """Tiles of a moved grid, their margins among them, over scenes whose clouds differ from square to square."""
    clouds = (
        [SclBlock(0, 0, 549, 225, 9)],
        [SclBlock(0, 190, 140, 549, 9), SclBlock(300, 0, 549, 549, 8)],
        [SclBlock(150, 150, 200, 260, 3)],
    )
    for number, blocks in enumerate(clouds):
        planet.add(
            replace(SCENE, acquired=datetime(2022, 6, 6 + 5 * number, 10, 20, tzinfo=UTC), scene_number=number,
                    cloud_cover_percent=float(number), scl_blocks=blocks)
        )  # fmt: skip
    settings = {"boxes": [_box(SCENE, 260, 380, 200)], "margin_px": 32, "num_periods": 1, "max_images": max_images}
    still = [read_windows(folder) for folder in planet.build(**settings).made]
    moved = [read_windows(folder) for folder in planet.build(grid_shift_px=64, **settings).made]
    compared, used = 0, set()
    for one, other in itertools.product(still, still + moved):
        here, there = one.grid.shared_part(other.grid), other.grid.shared_part(one.grid)
        if one is other or not one.images[0].present[here].size:
            continue
        compared += one.images[0].present[here].size
        np.testing.assert_array_equal(one.images[0].present[here], other.images[0].present[there])
        every = (slice(None),)
        np.testing.assert_array_equal(one.images[0].channels[every + here], other.images[0].channels[every + there])
        used |= {item["id"] for item in one.record["periods"][0]["items"]}
    assert compared > 10 * SIDE_PX**2
    assert len(used) == 3


@given(st.integers(-5, 5), st.integers(-5, 5), st.integers(1, 9), st.integers(1, 9), st.integers(0, 3))
def test_shared_parts_of_two_grids_are_the_same_places(row: int, column: int, one: int, other: int, by: int) -> None:
    first = TileGrid(32632, 0.0, 0.0, 10.0, one, one).padded(by)
    second = TileGrid(32632, column * 10.0, row * 10.0, 10.0, other, other)
    here, there = _places(first)[first.shared_part(second)], _places(second)[second.shared_part(first)]
    common = {tuple(each) for each in _places(first).reshape(-1, 2)} & {
        tuple(each) for each in _places(second).reshape(-1, 2)
    }
    assert here.shape[0] * here.shape[1] == len(common)
    if common:
        np.testing.assert_array_equal(here, there)


def _places(grid: TileGrid) -> np.ndarray:
    rows, columns = np.indices((grid.height_px, grid.width_px))
    return np.stack([grid.west_m + 10 * columns, grid.north_m - 10 * rows], axis=-1)


def test_a_period_of_clouds_is_missing_and_says_so(planet: Planet) -> None:
    planet.add(replace(SCENE, background_class=9, cloud_cover_percent=0.0))
    run = planet.build(boxes=[_box(SCENE, 300, 400)])
    windows = read_windows(run.made[0])
    assert run.without_image == [windows.tile]
    assert windows.images == []
    assert windows.missing_periods == windows.periods
    assert "of 1 images the clearest of 1 shows 0.0%" in windows.record["periods"][0]["missing"]


def test_a_tile_at_the_edge_of_a_scene_is_present_within_it(planet: Planet) -> None:
    planet.add(SCENE)
    run = planet.build(boxes=[_box(SCENE, 1, 1, 5)])
    windows = read_windows(run.made[0])
    grid = windows.grid
    rows = round((SCENE.y_ul_m - grid.north_m) / 10) + np.arange(SIDE_PX)
    columns = round((grid.west_m - SCENE.x_ul_m) / 10) + np.arange(SIDE_PX)
    inside = (rows >= 0)[:, None] & (columns >= 0)[None, :]
    assert 0 < inside.sum() < inside.size
    np.testing.assert_array_equal(windows.images[0].present, inside)
    wanted = SCENE.expected_patch(0, 0, SIDE_PX)[BANDS.index("B08")]
    part = windows.images[0].channels[MODEL_BANDS.index("B08")][np.ix_(rows >= 0, columns >= 0)]
    scaled = np.minimum(np.maximum(wanted.astype(int) - 1000, 0) / 32, 255).astype(np.uint8)
    np.testing.assert_array_equal(part, scaled[: part.shape[0], : part.shape[1]])
    assert not windows.images[0].channels[:, ~inside].any()


def test_months_share_images_and_a_second_run_asks_for_nothing(planet: Planet) -> None:
    planet.add(SCENE)
    box = _box(SCENE, 300, 400)
    june = planet.build("2022-06", boxes=[box])
    before = (june.made[0] / "record.json").read_bytes()
    reads = planet.server.count("*.tif*")
    assert reads > 0
    july = planet.build("2022-07", boxes=[box])
    assert planet.server.count("*.tif*") == reads
    assert read_windows(july.made[0]).missing_periods == ("2022-07-02",)
    again = planet.build("2022-06", boxes=[box])
    assert (again.made, again.kept) == ([], june.made)
    assert (june.made[0] / "record.json").read_bytes() == before
    assert list_windows(planet.root, "2022-06") == june.made


def test_a_lacking_band_leaves_the_image_out_and_another_serves(planet: Planet) -> None:
    other = replace(SCENE, acquired=datetime(2022, 6, 21, 10, 20, tzinfo=UTC), scene_number=3)
    planet.add(SCENE, other)
    planet.server.script(f"*{SCENE.file_name('B11')}*", status(404, times=None))
    run = planet.build(boxes=[_box(SCENE, 300, 400)], num_periods=1)
    assert run.failures == {}
    assert [item["id"] for item in read_windows_record(run.made[0])["periods"][0]["items"]] == [other.item_id]


def test_a_tile_that_cannot_be_read_now_is_named_and_made_by_the_next_run(planet: Planet) -> None:
    far = replace(SCENE, x_ul_m=600000, mgrs_tile="32TPT")
    planet.add(SCENE, far)
    boxes = [_box(SCENE, 300, 400), _box(far, 320, 440, 5)]
    planet.server.script(f"*{far.file_name('B04')}*", status(503, times=None))
    run = planet.build(boxes=boxes)
    assert len(run.made) == 1
    ((name, cause),) = run.failures.items()
    assert "B04" in cause
    assert not windows_folder(planet.root, MONTH, name).exists()
    planet.server.heal()
    again = planet.build(boxes=boxes)
    assert (again.kept, [folder.name for folder in again.made], again.failures) == (run.made, [name], {})


def test_an_acquisition_processed_twice_is_used_once_as_it_was_processed_last(planet: Planet) -> None:
    again = replace(SCENE, processed=datetime(2023, 1, 1, tzinfo=UTC), processing_baseline="05.10", scene_number=7)
    planet.add(SCENE, again)
    run = planet.build(boxes=[_box(SCENE, 300, 400)])
    assert [item["id"] for item in read_windows_record(run.made[0])["periods"][0]["items"]] == [again.item_id]


def test_a_changed_file_of_a_window_is_told(planet: Planet) -> None:
    planet.add(SCENE)
    (folder,) = planet.build(boxes=[_box(SCENE, 300, 400)]).made
    (folder / "period_0.tif").write_bytes(b"short")
    with pytest.raises(ArtefactError, match="missing or changed since it was recorded"):
        read_windows(folder)
    (folder / "record.json").unlink()
    with pytest.raises(ArtefactError, match="no finished window"):
        read_windows(folder)


@pytest.mark.parametrize(
    ("box", "zones"),
    [
        ((11.99, 51.6, 12.01, 51.62), {32632, 32633}),
        ((179.98, -17.6, -179.98, -17.58), {32760, 32701}),
        ((3.0, -0.01, 3.02, 0.01), {32631, 32731}),
    ],
)
def test_an_area_across_a_border_has_tiles_of_both_sides(box: tuple[float, ...], zones: set[int]) -> None:
    tiles = tiles_of_area(WindowsConfig.model_validate({"boxes": [box], "tile_px": 64}))
    assert {tile.grid.epsg for tile in tiles} == zones
    assert len({tile.name for tile in tiles}) == len(tiles)
    for lon in (box[0] + 1e-4, box[2] - 1e-4):
        for lat in (box[1] + 1e-4, box[3] - 1e-4):
            assert _tiles_at(tiles, lon, lat) == 1


def _tiles_at(tiles: list, lon_deg: float, lat_deg: float) -> int:
    """How many tiles of its own zone hold a place."""
    epsg = (32600 if lat_deg > 0 else 32700) + int((lon_deg + 180) // 6) + 1
    x, y = Transformer.from_crs(4326, epsg, always_xy=True).transform(lon_deg, lat_deg)
    bounds = [tile.grid.bounds_m for tile in tiles if tile.grid.epsg == epsg]
    return sum(west <= x < east and south < y <= north for west, south, east, north in bounds)


@given(
    st.floats(-179.9, 179.8), st.floats(-70, 70), st.floats(0.001, 0.05), st.floats(0.001, 0.05), st.integers(0, 255)
)
def test_every_place_of_an_area_lies_in_one_tile_whose_name_says_where(
    west: float, south: float, width: float, height: float, shift: int
) -> None:
    box = (west, south, west + width, south + height)
    config = WindowsConfig.model_validate({"boxes": [box], "tile_px": 256, "grid_shift_px": shift})
    tiles = tiles_of_area(config)
    assert _tiles_at(tiles, west + width / 3, south + height / 3) == 1
    wider = config.model_copy(update={"boxes": ((west, south, west + width + 0.02, south + height),)})
    assert {tile.name: tile.grid for tile in tiles}.items() <= {t.name: t.grid for t in tiles_of_area(wider)}.items()


def test_an_area_of_polygons_leaves_the_rest_of_its_box_out(tmp_path: Path) -> None:
    path = tmp_path / "area.geojson"
    triangle = {"type": "Polygon", "coordinates": [[[9, 47], [9.2, 47], [9, 47.2], [9, 47]]]}
    path.write_text(json.dumps({"type": "Feature", "geometry": triangle, "properties": {}}))
    config = WindowsConfig(area=str(path), tile_px=128)
    whole = WindowsConfig(boxes=((9.0, 47.0, 9.2, 47.2),), tile_px=128)
    assert 0.45 < len(tiles_of_area(config)) / len(tiles_of_area(whole)) < 0.6


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "no GeoJSON that can be read"),
        ('{"type": "Point", "coordinates": [9, 47]}', "holds Point; expected polygons"),
        ('{"type": "Polygon", "coordinates": [[[179, 0], [181, 0], [181, 1], [179, 0]]]}', "cut polygons at the"),
    ],
)
def test_an_area_that_is_none_is_told(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "area.geojson"
    path.write_text(content)
    with pytest.raises(ConfigurationError, match=message):
        tiles_of_area(WindowsConfig(area=str(path)))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "neither boxes nor area"),
        ({"boxes": [(0, 10, 1, 5)]}, "south below north"),
        ({"boxes": [(0, 80, 1, 88)]}, "84 N"),
        ({"boxes": [(0, 0, 1, 1)], "tile_px": 100}, "multiple of 32"),
    ],
)
def test_settings_that_cannot_be_honoured_are_told(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        WindowsConfig.model_validate(settings)


@given(st.integers(2016, 2030), st.integers(1, 12), st.integers(1, 12), st.integers(1, 60))
def test_periods_end_with_the_month_and_follow_without_gaps(year: int, month: int, number: int, days: int) -> None:
    periods = periods_of_month(f"{year}-{month:02d}", number, days)
    assert len(periods) == number
    following = date(year + month // 12, month % 12 + 1, 1)
    assert (following - periods[0].end).days == 1
    assert all((each.end - each.start).days == days - 1 for each in periods)
    assert all((newer.start - older.end).days == 1 for newer, older in itertools.pairwise(periods))


@given(st.integers(1, 5), st.randoms(use_true_random=False))
def test_a_mosaic_shows_the_first_image_that_is_present(number: int, random: object) -> None:
    rng = np.random.default_rng(random.getrandbits(32))  # type: ignore[attr-defined]
    images = [
        TileImage(rng.integers(1, 255, (9, 6, 6), dtype=np.uint8), rng.random((6, 6)) < 0.5) for _ in range(number)
    ]
    whole, shares = mosaic(images)
    for row in range(6):
        for column in range(6):
            first = next((image for image in images if image.present[row, column]), None)
            shown = np.zeros(9, dtype=np.uint8) if first is None else first.channels[:, row, column]
            np.testing.assert_array_equal(whole.channels[:, row, column], shown)
            assert whole.present[row, column] == (first is not None)
    assert sum(shares) == pytest.approx(whole.present.mean())
