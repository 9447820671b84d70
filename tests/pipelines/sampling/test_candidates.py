"""Windows and order of candidates, on scenes made up for each rule."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from pyproj import Transformer
from shapely import box

from pipelines.sampling.candidates import CANDIDATE_TYPES, Eligibility, index_scenes, pair_hashes, plan_candidates
from pipelines.sampling.config import PlanConfig
from tests.loopback.coordinate_scene import CoordinateScene

TILE = CoordinateScene(epsg=32632, x_ul_m=399960, y_ul_m=5300040, mgrs_tile="32TLT")


def scene_row(scene: CoordinateScene, **changes: Any) -> dict[str, Any]:
    row = {
        "item_id": scene.item_id,
        "datetime": f"{scene.acquired:%Y-%m-%dT%H:%M:%SZ}",
        "epsg": scene.epsg,
        "x_ul_m": float(scene.x_ul_m),
        "y_ul_m": float(scene.y_ul_m),
        "width_px": 1098,
        "height_px": 1098,
        "resolution_m": 10.0,
        "scene_cloud_cover_percent": scene.cloud_cover_percent,
        "footprint": scene.geometry(),
    }
    return row | changes


def table(*rows: dict[str, Any]) -> pd.DataFrame:
    return pd.DataFrame(rows).sort_values("item_id", ignore_index=True)


def places_at(*pixels: tuple[float, float], scene: CoordinateScene = TILE) -> pd.DataFrame:
    lonlat = np.array([scene.lonlat_at(*pixel) for pixel in pixels])
    return pd.DataFrame({"place_id": np.arange(len(pixels)) + 100, "lon_deg": lonlat[:, 0], "lat_deg": lonlat[:, 1]})


def ordered_items(places: pd.DataFrame, scenes: pd.DataFrame, **settings_of_plan: Any) -> list[str]:
    config = PlanConfig(**settings_of_plan)
    found = plan_candidates(places, index_scenes(scenes, config), config)
    return scenes["item_id"].iloc[found["scene_row"]].tolist()


def on_day(day: int, **changes: Any) -> CoordinateScene:
    return replace(TILE, acquired=datetime(2022, 1, 1, 10, tzinfo=UTC) + timedelta(days=day), **changes)


@settings(deadline=None, max_examples=50)
@given(
    row=st.floats(0.01, 1097.9),
    col=st.floats(0.01, 1097.9),
    align=st.sampled_from([1, 16, 256]),
    margin=st.floats(0, 2000),
)
def test_a_window_holds_its_place_and_lies_on_the_grid(row: float, col: float, align: int, margin: float) -> None:
    config = PlanConfig(align_px=align, edge_margin_m=margin)
    scenes = table(scene_row(TILE))
    found = plan_candidates(places_at((row, col)), index_scenes(scenes, config), config)
    reached = 1098 if align == 1 else (1098 - 256) // align * align + 256
    assume(min(abs(row - reached), abs(col - reached)) > 1e-3)
    if row >= reached or col >= reached:
        assert found.empty
        return
    (window,) = found.itertuples()
    assert (window.row_px % align, window.col_px % align) == (0, 0)
    assert 0 <= window.row_px <= 842
    assert 0 <= window.col_px <= 842
    assert -1e-6 <= row - window.row_px <= 256 + 1e-6
    assert -1e-6 <= col - window.col_px <= 256 + 1e-6
    centre = TILE.lonlat_at(window.row_px + 128, window.col_px + 128)
    assert (window.patch_lon_deg, window.patch_lat_deg) == pytest.approx(centre, abs=1e-9)
    if align == 1 and 128 <= row <= 970 and 128 <= col <= 970:
        assert abs(row - 128 - window.row_px) <= 0.5 + 1e-6


def test_columns_and_types_are_those_of_the_plan() -> None:
    found = plan_candidates(places_at((500, 500)), index_scenes(table(scene_row(TILE)), PlanConfig()), PlanConfig())
    assert dict(found.dtypes) == {name: np.dtype(kind) for name, kind in CANDIDATE_TYPES.items()}
    nowhere = places_at((500, 500)).assign(lon_deg=100.0)
    empty = plan_candidates(nowhere, index_scenes(table(scene_row(TILE)), PlanConfig()), PlanConfig())
    assert empty.empty
    assert list(empty) == list(found)


def test_scenes_whose_data_end_near_the_patch_go_last() -> None:
    west, south, _, north = TILE.geometry().bounds
    at_lon_deg, _ = TILE.lonlat_at(549, 700)
    cut = TILE.geometry().intersection(box(west - 1, south - 1, at_lon_deg, north + 1))
    rows = [
        scene_row(on_day(1, cloud_cover_percent=0.1), footprint=cut),
        scene_row(on_day(2, cloud_cover_percent=19.0)),
    ]
    half_cut, whole = (row["item_id"] for row in rows)
    assert ordered_items(places_at((549, 600)), table(*rows)) == [whole, half_cut]
    assert ordered_items(places_at((549, 300)), table(*rows)) == [half_cut, whole]


def test_another_tile_of_a_day_goes_behind_other_days() -> None:
    neighbour = replace(on_day(1, cloud_cover_percent=1.0), x_ul_m=TILE.x_ul_m - 2000, mgrs_tile="32TKT")
    rows = [
        scene_row(on_day(1, cloud_cover_percent=2.0)),
        scene_row(neighbour),
        scene_row(on_day(30, cloud_cover_percent=18.0)),
    ]
    found = ordered_items(places_at((500, 500)), table(*rows))
    assert found[1] == rows[2]["item_id"]
    assert {found[0], found[2]} == {rows[0]["item_id"], rows[1]["item_id"]}


def test_lower_cloud_cover_goes_first_in_steps_of_five_per_cent() -> None:
    rows = [scene_row(on_day(day, cloud_cover_percent=cover)) for day, cover in enumerate([17.0, 11.0, 6.0, 0.5])]
    expected = [row["item_id"] for row in reversed(rows)]
    assert ordered_items(places_at((500, 500)), table(*rows)) == expected


def test_within_a_step_the_draw_spreads_the_dates_over_places() -> None:
    rows = [scene_row(on_day(day * 30, cloud_cover_percent=4.9 * day / 12)) for day in range(12)]
    places = places_at(*[(500 + index / 50, 500) for index in range(600)])
    scenes, config = table(*rows), PlanConfig(max_candidates=1)
    found = plan_candidates(places, index_scenes(scenes, config), config)
    counts = np.bincount(found["scene_row"], minlength=12)
    assert counts.min() > 25
    assert counts.max() < 80


def test_season_balance_prefers_the_quarter_drawn_for_a_place() -> None:
    rows = [scene_row(on_day(day, cloud_cover_percent=0.1)) for day in range(150, 180)]
    rows += [scene_row(on_day(day, cloud_cover_percent=18.0)) for day in (10, 190, 280)]
    places = places_at(*[(500 + index / 50, 500) for index in range(400)])
    scenes = table(*rows)
    quarters = {}
    for balance in (False, True):
        config = PlanConfig(max_candidates=1, season_balance=balance)
        found = plan_candidates(places, index_scenes(scenes, config), config)
        months = pd.to_datetime(scenes["datetime"]).dt.month.to_numpy()[found["scene_row"]]
        quarters[balance] = np.bincount((months - 1) // 3, minlength=4)
    assert quarters[False].tolist() == [0, 400, 0, 0]
    assert quarters[True].min() > 70


def test_a_place_keeps_its_candidates_whatever_other_places_are_planned() -> None:
    rows = [scene_row(on_day(day)) for day in range(12)]
    scenes, config = table(*rows), PlanConfig()
    places = places_at((500, 500), (600, 610), (700, 300))
    together = plan_candidates(places, index_scenes(scenes, config), config)
    alone = plan_candidates(places.iloc[[1]], index_scenes(scenes, config), config)
    pd.testing.assert_frame_equal(
        together[together["place_row"] == 1].drop(columns="place_row").reset_index(drop=True),
        alone.drop(columns="place_row"),
    )


def test_eligibility_leaves_out_what_is_too_old_or_was_tried() -> None:
    rows = [scene_row(on_day(day, cloud_cover_percent=6.0 * number)) for number, day in enumerate([10, 100, 200, 300])]
    scenes, config, places = table(*rows), PlanConfig(max_candidates=2), places_at((500, 500))
    index = index_scenes(scenes, config)
    first_day = int(np.datetime64("2022-03-01").astype("datetime64[D]").astype(int))
    tried = np.sort(pair_hashes(places["place_id"].to_numpy(), index.item_hash[[scenes_row(scenes, rows[1])]]))
    eligible = Eligibility(earliest_day=np.array([first_day]), tried=tried)
    found = plan_candidates(places, index, config, eligible)
    assert scenes["item_id"].iloc[found["scene_row"]].tolist() == [rows[2]["item_id"]]
    assert found["rank"].tolist() == [0]


def scenes_row(scenes: pd.DataFrame, row: dict[str, Any]) -> int:
    return int(scenes.index[scenes["item_id"] == row["item_id"]][0])


def test_a_footprint_across_the_antimeridian_is_one_outline() -> None:
    scene = CoordinateScene(32601, 300000, 7200000, "01WCM", coarsening=10)
    row = scene_row(scene, resolution_m=100.0)
    west = Transformer.from_crs(4326, 32601, always_xy=True).transform(180.0, 64.4)[0]
    col = (west - scene.x_ul_m) / 100.0
    places = places_at((500, col - 3), (500, col + 3), scene=scene)
    assert sorted(np.sign(places["lon_deg"])) == [-1, 1]
    config = PlanConfig(allowed_resolutions_m=[100.0], patch_size_px=32)
    found = plan_candidates(places, index_scenes(table(row), config), config)
    assert found["place_row"].tolist() == [0, 1]
    assert not found["near_edge"].any()
