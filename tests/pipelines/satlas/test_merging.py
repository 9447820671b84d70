"""An object that several tiles saw is there once: at seams, zone borders and the antimeridian."""

import geopandas
import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pyproj import Geod, Transformer

from pipelines.satlas.geometry import (
    LocalFrame,
    areas_m2,
    as_polygon,
    objects_to_lonlat,
    split_at_antimeridian,
    wrap_lon,
)
from pipelines.satlas.merging import connected, gather_lonlat, merge_points, merge_polygons, usable_objects

GEOD = Geod(ellps="WGS84")
PLACES = {
    "zone border": (12.0, 47.0, 32632, 32633),
    "zone border south": (-72.0, -33.0, 32718, 32719),
    "antimeridian": (180.0, -17.0, 32760, 32701),
    "antimeridian north": (180.0, 66.0, 32660, 32601),
}


def square(lon: float, lat: float, side_m: float, epsg: int) -> shapely.Polygon:
    """A square of ground about a place, in the grid of a zone."""
    x, y = Transformer.from_crs("EPSG:4326", epsg, always_xy=True).transform(lon, lat)
    return shapely.box(x - side_m / 2, y - side_m / 2, x + side_m / 2, y + side_m / 2)


def frame(geometry: list[object], epsg: int, score: list[float] | None = None) -> geopandas.GeoDataFrame:
    values = {"category": ["a"] * len(geometry), "score": score or [0.9] * len(geometry)}
    return geopandas.GeoDataFrame(values, geometry=geometry, crs=f"EPSG:{epsg}")


@pytest.mark.parametrize("place", PLACES)
def test_a_point_seen_from_both_zones_is_one(place: str) -> None:
    lon, lat, west, east = PLACES[place]
    # Each zone's tile sees it 12 m to its own side.
    points = [
        frame([square(lon + side, lat, 2, epsg).centroid], epsg, [score])
        for side, epsg, score in ((-1e-4, west, 0.7), (1e-4, east, 0.8))
    ]
    merged = merge_points(gather_lonlat(points), 50)
    assert merged["score"].tolist() == [0.8]
    assert abs(merged.geometry.x.iloc[0]) <= 180
    assert len(merge_points(gather_lonlat(points), 5)) == 2


@pytest.mark.parametrize("place", PLACES)
def test_a_polygon_over_a_border_is_one_with_its_whole_area(place: str) -> None:
    lon, lat, west, east = PLACES[place]
    whole = square(lon, lat, 400, west)
    x = whole.centroid.x
    left = shapely.intersection(whole, shapely.box(0, 0, x, 1e8))
    right = shapely.intersection(whole, shapely.box(x, 0, 1e7, 1e8))
    # The eastern tile sees its half in its own grid.
    to_east = Transformer.from_crs(west, east, always_xy=True)
    right_east = shapely.transform(right, lambda c: np.column_stack(to_east.transform(c[:, 0], c[:, 1])))
    merged = merge_polygons(gather_lonlat([frame([left], west), frame([right_east], east)]), 10)
    assert len(merged) == 1
    published = split_at_antimeridian(merged.geometry.iloc[0])
    assert published.is_valid
    west_deg, _, east_deg, _ = published.bounds
    assert west_deg >= -180
    assert east_deg <= 180
    area = abs(GEOD.geometry_area_perimeter(published)[0])
    assert area == pytest.approx(400 * 400, rel=0.01)
    if abs(lon) == 180:
        assert published.geom_type == "MultiPolygon"
        assert len(published.geoms) == 2


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.tuples(st.floats(-0.02, 0.02), st.floats(-0.02, 0.02), st.integers(1, 9)), min_size=1, max_size=25),
    st.floats(20, 800),
    st.randoms(use_true_random=False),
)
def test_merged_points_lie_apart_cover_all_and_do_not_depend_on_order(
    places: list[tuple[float, float, int]], distance_m: float, random: object
) -> None:
    values = {"category": ["a"] * len(places), "score": [score / 10 for *_, score in places]}
    geometry = [shapely.Point(wrap(180 + lon), 50 + lat) for lon, lat, _ in places]
    points = geopandas.GeoDataFrame(values, geometry=geometry, crs="EPSG:4326")
    merged = merge_points(points, distance_m)
    order = list(range(len(places)))
    random.shuffle(order)  # type: ignore[attr-defined]
    assert merge_points(points.iloc[order], distance_m).equals(merged)
    assert merge_points(merged, distance_m).equals(merged)
    kept, every = xyz(merged), xyz(points)
    apart = np.linalg.norm(kept[:, None] - kept[None], axis=2) + 1e9 * np.eye(len(kept))
    assert apart.min() > distance_m * (1 - 1e-9)
    assert np.linalg.norm(every[:, None] - kept[None], axis=2).min(axis=1).max() <= distance_m * (1 + 1e-9)


def wrap(lon: float) -> float:
    return float(wrap_lon(np.array([lon]))[0])


def xyz(points: geopandas.GeoDataFrame) -> NDArray[np.float64]:
    lon, lat = np.radians(points.geometry.x.to_numpy()), np.radians(points.geometry.y.to_numpy())
    return 6_371_008.8 * np.column_stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)])


def test_polygons_of_overlapping_tiles_are_one_and_others_stay_as_they_are() -> None:
    seam = [shapely.box(0, 0, 60, 100), shapely.box(40, 0, 200, 100)]
    alone = shapely.Polygon([(1000, 0), (1100, 0), (1050, 73)])
    base = frame([*seam, alone], 32631, [0.5, 0.8, 0.6])
    base = base.set_geometry(base.geometry.translate(500_000, 5_500_000))
    merged = merge_polygons(gather_lonlat([base.iloc[:1], base.iloc[1:]]), 10)
    assert len(merged) == 2
    areas = np.sort(areas_m2(merged.geometry.to_numpy()))
    assert areas == pytest.approx([3650, 20_000], rel=0.005)
    assert sorted(merged["score"]) == pytest.approx([0.6, (0.5 * 6000 + 0.8 * 16_000) / 22_000], abs=1e-4)
    kept = objects_to_lonlat(base).geometry.iloc[2]
    assert any(each.equals(kept) for each in merged.geometry)
    assert merge_polygons(gather_lonlat([base.iloc[::-1]]), 10).geometry.geom_equals(merged.geometry).all()


def tiles_of(
    objects: geopandas.GeoDataFrame, offset_m: float, rng: np.random.Generator
) -> list[geopandas.GeoDataFrame]:
    """What tiles of 2 km that overlap by 200 m see of objects: cut at their edges, points off by some meters."""
    west, south, east, north = objects.total_bounds
    tiles = []
    for x in np.arange(west - offset_m, east, 1800):
        for y in np.arange(south - offset_m, north, 1800):
            seen = objects[objects.intersects(shapely.box(x, y, x + 2000, y + 2000))]
            cut = seen.geometry.intersection(shapely.box(x, y, x + 2000, y + 2000)).to_numpy()
            moved = [shapely.Point(each.x + dx, each.y + dy) for each, dx, dy in jittered(cut, rng)]
            tiles.append(seen.set_geometry(moved or cut, crs=objects.crs))
    return tiles


def jittered(points: NDArray[np.object_], rng: np.random.Generator) -> list[tuple[shapely.Point, float, float]]:
    return [(each, *rng.normal(0, 4, 2).tolist()) for each in points if each.geom_type == "Point"]


def test_moving_the_tiles_by_half_changes_no_more_than_one_object_in_a_hundred() -> None:
    rng = np.random.default_rng(3)
    centers = [
        shapely.Point(500_000 + 250 * (n % 40), 5_000_000 + 250 * (n // 40)) for n in rng.permutation(1600)[:400]
    ]
    turbines = frame(centers, 32631, rng.random(400).tolist())
    farms = frame([shapely.box(p.x, p.y, p.x + 120, p.y + 90) for p in centers], 32631)
    points = [merge_points(gather_lonlat(tiles_of(turbines, offset, rng)), 50) for offset in (100, 1100)]
    polygons = [merge_polygons(gather_lonlat(tiles_of(farms, offset, rng)), 10) for offset in (100, 1100)]
    for found, merged in (
        (points, xyz),
        (polygons, lambda each: xyz(each.set_geometry(each.geometry.representative_point()))),
    ):
        first, second = (merged(each) for each in found)
        apart = np.linalg.norm(first[:, None] - second[None], axis=2)
        changed = (apart.min(axis=1) > 60).sum() + (apart.min(axis=0) > 60).sum()
        assert len(first) == len(second) == 400
        assert changed < 0.01 * 400
    areas = areas_m2(polygons[0].geometry.to_numpy())
    np.testing.assert_allclose(areas, 120 * 90, rtol=0.01)


def test_two_categories_are_not_united() -> None:
    both = frame([shapely.box(0, 0, 50, 50), shapely.box(20, 0, 70, 50)], 32631).assign(category=["a", "b"])
    assert len(merge_polygons(gather_lonlat([both]), 10)) == 2


def test_what_cannot_be_published_is_counted_by_reason() -> None:
    bow = shapely.Polygon([(0, 0), (100, 100), (100, 0), (0, 100)])
    line = shapely.Polygon([(0, 0), (100, 100), (0, 0)])
    good = shapely.box(0, 0, 10, 10)
    tile = frame([bow, line, good, good, good, None, good], 32631, [0.9, 0.9, 0.9, np.nan, 1.5, 0.9, 0.9])
    tile["category"] = ["a", "a", None, "a", "a", "a", "a"]
    kept, rejected = usable_objects(tile, ("a",), polygons=True)
    assert rejected == {"missing or unknown category": 1, "score missing or outside 0 to 1": 2, "invalid geometry": 2}
    assert kept.geometry.is_valid.all()
    assert kept.geometry.area.tolist() == [5000, 100]
    points = frame([shapely.Point(np.nan, 1), shapely.Point(3, 4)], 32631)
    kept, rejected = usable_objects(points, ("a",), polygons=False)
    assert rejected == {"invalid geometry": 1}
    assert kept.geometry.x.tolist() == [3]


def test_nothing_merges_to_nothing() -> None:
    empty = gather_lonlat([])
    assert merge_points(empty, 10).empty
    assert merge_polygons(empty, 10).empty


@given(st.floats(-180, 180), st.floats(-80, 80))
def test_a_local_frame_is_true_to_scale_and_comes_back(lon: float, lat: float) -> None:
    place = LocalFrame(lon, lat)
    box = shapely.box(-500, -200, 500, 200)
    there = place.to_lonlat(box)
    np.testing.assert_allclose(shapely.get_coordinates(place.to_meters(there)), shapely.get_coordinates(box), atol=1e-5)
    assert areas_m2(np.array([there]))[0] == pytest.approx(400_000, rel=1e-6)


def test_only_what_has_an_area_is_a_polygon() -> None:
    assert as_polygon(shapely.Polygon([(0, 0), (1, 1), (0, 0)])).is_empty
    mixed = shapely.GeometryCollection([shapely.box(0, 0, 1, 1), shapely.LineString([(5, 5), (6, 6)])])
    assert as_polygon(mixed).equals(shapely.box(0, 0, 1, 1))


def test_components_count_by_their_first_node() -> None:
    assert connected(5, np.array([[3, 1], [2, 4]])).tolist() == [0, 1, 2, 1, 2]
    assert connected(2, np.zeros((0, 2), dtype=np.intp)).tolist() == [0, 1]
