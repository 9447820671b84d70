import numpy as np
import pandas as pd
import pytest
import shapely
from pyproj import Transformer

from pipelines.errors import ConfigurationError
from pipelines.sampling.original import draw_original
from tests.loopback.coordinate_scene import CoordinateScene

TILES = [
    CoordinateScene(epsg=32632, x_ul_m=399960, y_ul_m=5300040, mgrs_tile="32TLT", coarsening=10),
    CoordinateScene(epsg=32660, x_ul_m=600000, y_ul_m=7200000, mgrs_tile="60WWU", coarsening=10),
    CoordinateScene(epsg=32721, x_ul_m=600000, y_ul_m=6400000, mgrs_tile="21HXC", coarsening=10),
]


def scenes_of(*covers: tuple[CoordinateScene, float]) -> pd.DataFrame:
    table = pd.DataFrame(
        {
            "item_id": [f"{tile.mgrs_tile}-{number}" for number, (tile, _) in enumerate(covers)],
            "epsg": [tile.epsg for tile, _ in covers],
            "x_ul_m": [float(tile.x_ul_m) for tile, _ in covers],
            "y_ul_m": [float(tile.y_ul_m) for tile, _ in covers],
            "width_px": 10_980,
            "height_px": 10_980,
            "resolution_m": 10.0,
            "scene_cloud_cover_percent": [cover for _, cover in covers],
        }
    )
    table["footprint"] = np.array([*[tile.geometry() for tile, _ in covers], None], dtype=object)[:-1]
    return table


SCENES = scenes_of((TILES[0], 1.0), (TILES[0], 25.0), (TILES[1], 3.0), (TILES[2], 19.9), (TILES[2], 5.0))


def test_scenes_are_drawn_alike_and_cloudy_ones_never() -> None:
    places, candidates = draw_original(SCENES, 6000, seed=1)
    counts = candidates["scene_row"].value_counts()
    assert sorted(counts.index) == [0, 2, 3, 4]
    assert counts.to_numpy() == pytest.approx(1500, abs=150)
    assert places["place_id"].tolist() == list(range(6000))
    assert candidates["place_row"].tolist() == list(range(6000))


def test_windows_fill_the_scene_and_their_centres_are_told() -> None:
    _, candidates = draw_original(SCENES, 4000, seed=2, patch_size_px=250)
    for name in ("row_px", "col_px"):
        assert 0 <= candidates[name].min() < 100
        assert 10_630 < candidates[name].max() <= 10_730
    for epsg, of in candidates.groupby(SCENES["epsg"].to_numpy()[candidates["scene_row"]]):
        corner = SCENES.iloc[of["scene_row"]]
        x_m, y_m = Transformer.from_crs(4326, int(epsg), always_xy=True).transform(
            of["patch_lon_deg"].to_numpy(), of["patch_lat_deg"].to_numpy()
        )
        np.testing.assert_allclose(x_m, corner["x_ul_m"].to_numpy() + 10 * (of["col_px"] + 125), atol=0.01)
        np.testing.assert_allclose(y_m, corner["y_ul_m"].to_numpy() - 10 * (of["row_px"] + 125), atol=0.01)


def test_windows_lie_in_the_footprint() -> None:
    half = SCENES.copy()
    box = TILES[0].geometry().bounds
    middle_deg = (box[0] + box[2]) / 2
    half.at[0, "footprint"] = TILES[0].geometry().intersection(shapely.box(*box[:2], middle_deg, box[3]))
    _, candidates = draw_original(half, 3000, seed=3)
    drawn = candidates[candidates["scene_row"] == 0]
    assert 250 < len(drawn) < 650
    assert drawn["patch_lon_deg"].max() < middle_deg
    across = candidates[candidates["scene_row"] == 2]["patch_lon_deg"]
    assert (across > 0).any()
    assert (across < 0).any()


def test_a_longer_draw_begins_with_the_shorter_one() -> None:
    short, long = draw_original(SCENES, 700, seed=5), draw_original(SCENES, 6000, seed=5)
    for few, many in zip(short, long, strict=True):
        pd.testing.assert_frame_equal(many.iloc[:700], few)
    assert not draw_original(SCENES, 700, seed=6)[0].equals(short[0])


def test_scenes_that_cannot_be_drawn_from_are_told() -> None:
    with pytest.raises(ConfigurationError, match="none with less than 20 % cloud cover"):
        draw_original(scenes_of((TILES[0], 20.0)), 1, seed=0)
    empty = scenes_of((TILES[0], 1.0))
    empty.at[0, "footprint"] = shapely.MultiPolygon()
    with pytest.raises(ConfigurationError, match="none whose footprint covers a window"):
        draw_original(empty, 1, seed=0)
