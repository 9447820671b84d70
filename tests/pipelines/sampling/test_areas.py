from typing import Any

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from shapely.geometry import shape

from pipelines.sampling.areas import area_of_box, area_of_places, beside_antimeridian, group_places, search_groups
from pipelines.sampling.config import SearchConfig
from pipelines.sampling.land import is_land
from pipelines.sampling.points import draw_land_points

EDGES = np.array([[-180.0, -90.0], [179.999, 90.0], [0.0, 0.0], [-180.0, 84.0], [179.0, -56.0], [12.0, 90.0]])


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 99), num=st.integers(0, 500), cell_deg=st.floats(0.5, 30.0), max_places=st.integers(1, 40))
def test_every_place_is_in_exactly_one_group(seed: int, num: int, cell_deg: float, max_places: int) -> None:
    rng = np.random.default_rng(seed)
    lonlat_deg = np.vstack([EDGES, np.column_stack([rng.uniform(-180, 180, num), rng.uniform(-90, 90, num)])])
    groups = list(group_places(lonlat_deg, cell_deg, max_places))
    assert sorted(row for group in groups for row in group) == list(range(len(lonlat_deg)))
    assert max(len(group) for group in groups) <= max_places
    for group in groups:
        low, high = lonlat_deg[group].min(axis=0), lonlat_deg[group].max(axis=0)
        assert high[1] - low[1] <= cell_deg
        widest_km = np.ptp(lonlat_deg[group][:, 0]) * np.cos(np.deg2rad(np.abs(lonlat_deg[group][:, 1]).max())) * 111.2
        assert widest_km <= 1.51 * cell_deg * 111.2


@pytest.mark.parametrize("settings", [{}, {"search_area": "box"}, {"search_area": "places"}, {"search_cell_deg": 1.0}])
@pytest.mark.parametrize("num_places", [1, 40, 30_000])
def test_searches_cover_every_place_once(num_places: int, settings: dict[str, Any]) -> None:
    lonlat_deg = draw_land_points(num_places, 5, bbox=(-20.0, -35.0, 60.0, 75.0))
    groups = search_groups(lonlat_deg, SearchConfig(**settings))
    assert sorted(row for rows, _ in groups for row in rows) == list(range(num_places))
    wanted = settings.get("search_area", "auto")
    assert {"auto": {True, False}, "box": {True}, "places": {False}}[wanted] >= {by_box for _, by_box in groups}
    assert max((len(rows) for rows, by_box in groups if not by_box), default=0) <= 16


@pytest.mark.parametrize(("num_places", "most"), [(1000, 0.2), (20_000, 0.07), (100_000, 0.065), (300_000, 0.03)])
def test_few_searches_serve_many_places(num_places: int, most: float) -> None:
    assert len(search_groups(draw_land_points(num_places, 0), SearchConfig())) / num_places < most


def test_no_places_make_no_groups() -> None:
    assert list(group_places(np.empty((0, 2)), 10.0, 16)) == []


def test_places_far_from_the_antimeridian_are_asked_for_alone() -> None:
    places = np.array([[10.123456789, 50.0], [11.0, -30.0], [177.0, 10.0]])
    assert area_of_places(places) == {
        "type": "MultiPoint", "coordinates": [[10.1234568, 50.0], [11.0, -30.0], [177.0, 10.0]],
    }  # fmt: skip
    assert shape(area_of_box(places)).covers(shapely.points(places)).all()


@pytest.mark.parametrize("place", [(-179.5, 65.0), (179.8, -17.0), (173.0, 83.0), (-179.9, -84.0)])
def test_near_the_antimeridian_every_way_of_drawing_is_found(place: tuple[float, float]) -> None:
    lonlat_deg = np.array([place])
    reach_deg = 0.5 / np.cos(np.deg2rad(place[1]))
    ring = np.array(
        shapely.box(place[0] - reach_deg, place[1] - 0.4, place[0] + reach_deg, place[1] + 0.4).exterior.coords
    )
    crossing = np.abs(ring[:, 0]).max() > 180
    wrapped = np.column_stack([(ring[:, 0] + 180) % 360 - 180, ring[:, 1]])
    drawings = [ring, ring + np.array([360, 0]), ring - np.array([360, 0]), wrapped] if crossing else [ring]
    for area in (area_of_places(lonlat_deg), area_of_box(lonlat_deg)):
        for drawn in drawings:
            polygon = shapely.Polygon(drawn)
            if polygon.bounds[2] < -180 or polygon.bounds[0] > 180:
                continue  # nothing of it lies where a server looks
            assert shape(area).intersects(shapely.make_valid(polygon))
    sea = beside_antimeridian(lonlat_deg)
    assert not is_land(sea[np.abs(sea[:, 0]) < 170]).any() or place[1] < -80
