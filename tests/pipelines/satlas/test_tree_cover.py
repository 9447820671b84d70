"""Tree cover on Web Mercator tiles: placed right, blended, classed, and 0 where there was no image."""

from pathlib import Path

import numpy as np
import pytest
import rasterio
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from pyproj import Transformer

from pipelines.errors import ArtefactError
from pipelines.satlas.pending import clear_pending, mark_pending
from pipelines.satlas.predictions import TileGrid, TilePredictions, prediction_folder, write_predictions
from pipelines.satlas.tree_cover import (
    HALF_WORLD_M,
    MercatorTile,
    TreeCoverConfig,
    build_tree_cover,
    classify,
    edge_distance,
)
from pipelines.satlas.versions import products_folder, read_version, version_folders

MONTH = "2022-07"
CONFIG = TreeCoverConfig(zoom=7, tile_px=256, block_px=256)
PX_M = 2000.0


def write_cover(root: Path, tile: str, epsg: int, west_m: float, north_m: float, values: NDArray[np.float32]) -> None:
    height, width = values.shape
    grid = TileGrid(epsg, west_m, north_m, PX_M, height, width)
    observed = np.isfinite(values).astype(np.uint8)
    write_predictions(root, TilePredictions("tree_cover", MONTH, tile, grid, observed, values=values))


def sample(root: Path, lon: float, lat: float, zoom: int = 7) -> int:
    x, y = Transformer.from_crs("EPSG:4326", "EPSG:3857", always_xy=True).transform(lon, lat)
    side = 2 * HALF_WORLD_M / 2**zoom
    name = f"{int((x + HALF_WORLD_M) // side)}_{int((HALF_WORLD_M - y) // side)}.tif"
    with rasterio.open(products_folder(root, "tree_cover") / MONTH / name) as source:
        return int(next(source.sample([(x, y)]))[0])


def test_seattle_is_in_the_tile_that_the_published_product_names() -> None:
    west, south, east, north = MercatorTile(7, 20, 44).bounds_m
    x, y = Transformer.from_crs("EPSG:4326", "EPSG:3857", always_xy=True).transform(-122.33, 47.6)
    assert west < x < east
    assert south < y < north


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("cover")
    left = np.full((60, 80), 0.2, np.float32)
    left[10:20, 10:20] = np.nan
    write_cover(root, "left", 32632, 500_000, 5_200_000, left)
    write_cover(root, "right", 32632, 500_000 + 40 * PX_M, 5_200_000, np.full((60, 80), 0.8, np.float32))
    # Both sides of the antimeridian, one tile across it.
    write_cover(root, "date", 32760, 750_000, 8_200_000, np.full((50, 60), 0.95, np.float32))
    build_tree_cover(root, MONTH, CONFIG)
    return root


def place(column: float, row: float) -> tuple[float, float]:
    to_lonlat = Transformer.from_crs("EPSG:32632", "EPSG:4326", always_xy=True)
    found: tuple[float, float] = to_lonlat.transform(500_000 + column * PX_M, 5_200_000 - row * PX_M)
    return found


def test_classes_are_where_the_ground_is_and_overlaps_are_blended(world: Path) -> None:
    assert sample(world, *place(5, 30)) == 2
    assert sample(world, *place(115, 30)) == 4
    assert sample(world, *place(60, 30)) == 3
    row = [sample(world, *place(column, 30)) for column in range(2, 118, 4)]
    assert row == sorted(row)


def test_no_image_is_no_data_and_not_no_trees(world: Path) -> None:
    assert sample(world, *place(15, 15)) == 0
    assert sample(world, *place(-5, 30)) == 0
    with rasterio.open(next((products_folder(world, "tree_cover") / "latest").glob("*.tif"))) as source:
        assert source.nodata == 0
        assert source.dtypes == ("uint8",)
        assert source.crs.to_epsg() == 3857
        assert source.tags(1)["class_5"] == "full tree cover"


def test_a_tile_across_the_antimeridian_fills_both_ends_of_the_map(world: Path) -> None:
    names = {path.name for path in (products_folder(world, "tree_cover") / MONTH).glob("*.tif")}
    assert {name.split("_")[0] for name in names} >= {"0", "127"}
    to_lonlat = Transformer.from_crs("EPSG:32760", "EPSG:4326", always_xy=True)
    for x in (770_000, 840_000):
        lon, lat = to_lonlat.transform(x, 8_150_000)
        assert sample(world, lon, lat) == 5, lon


def test_a_second_run_changes_nothing_and_another_value_makes_a_version(world: Path) -> None:
    before = {path.name: path.read_bytes() for path in (products_folder(world, "tree_cover") / MONTH).glob("*.tif")}
    published, failures = build_tree_cover(world, MONTH, CONFIG)
    assert (published.version, published.is_new, failures) == (1, False, {})
    published, _ = build_tree_cover(world, MONTH, CONFIG.model_copy(update={"class_bounds": (0.1, 0.3, 0.6, 0.99)}))
    assert (published.version, published.is_new) == (2, True)
    first = version_folders(world, "tree_cover", MONTH)[0]
    assert {path.name: path.read_bytes() for path in first.glob("*.tif")} == before
    assert read_version(first)["classes"][0] == "no data"
    assert build_tree_cover(world, MONTH, CONFIG)[0].version == 3
    assert {
        path.name: path.read_bytes() for path in version_folders(world, "tree_cover", MONTH)[2].glob("*.tif")
    } == before


def test_a_broken_tile_is_named_and_the_others_go_on(tmp_path: Path) -> None:
    write_cover(tmp_path, "a", 32632, 500_000, 5_200_000, np.full((8, 8), 0.5, np.float32))
    write_cover(tmp_path, "b", 32632, 600_000, 5_200_000, np.full((8, 8), 0.5, np.float32))
    (prediction_folder(tmp_path, "tree_cover", MONTH, "b") / "values.tif").unlink()
    _, failures = build_tree_cover(tmp_path, MONTH, CONFIG)
    assert "b again" in failures["b"]
    with pytest.raises(ArtefactError, match=r"no predictions of tree_cover in 2022-08 \(none are there\)"):
        build_tree_cover(tmp_path, "2022-08", CONFIG)


@given(st.floats(0, 1, width=32))
def test_every_share_has_a_class_and_more_trees_no_lower_one(share: float) -> None:
    bounds = TreeCoverConfig().class_bounds
    low, high = classify(np.array([share, 1], np.float32), bounds)
    assert 1 <= low <= high == 5
    assert classify(np.array([0.1, 0.0, np.nan], np.float32), bounds).tolist() == [2, 1, 0]


def test_weights_fall_to_the_edge_and_bounds_must_ascend() -> None:
    assert edge_distance((3, 4)).tolist() == [[0.5] * 4, [0.5, 1.5, 1.5, 0.5], [0.5] * 4]
    with pytest.raises(ValueError, match="ascend"):
        TreeCoverConfig(class_bounds=(0.1, 0.1, 0.6, 0.9))


def test_a_month_that_is_not_whole_is_refused(world: Path) -> None:
    mark_pending(world, "tree_cover", MONTH, ["left", "beyond"])
    with pytest.raises(ArtefactError, match=r"unfinished, 2 tiles are pending \(beyond, left\)"):
        build_tree_cover(world, MONTH, CONFIG)
    for tile in ("left", "beyond"):
        clear_pending(world, "tree_cover", MONTH, tile)
    published, _ = build_tree_cover(world, MONTH, CONFIG)
    assert not published.is_new
