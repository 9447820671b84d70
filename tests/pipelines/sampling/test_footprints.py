import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely
from shapely.geometry import box, mapping, shape

from pipelines.sampling.footprints import footprint_of_item, normalized_footprint, normalized_footprints
from tests.loopback.coordinate_scene import CoordinateScene

ACROSS = CoordinateScene(epsg=32660, x_ul_m=600000, y_ul_m=7200000, mgrs_tile="60WWU", coarsening=10)
EAST_OF_IT, WEST_OF_IT = (-179.9, 64.4), (179.9, 64.4)


def rings(unwrapped: bool) -> list[list[float]]:
    """The outline of ACROSS with longitudes that run on past 180, or that jump to the other side of the globe."""
    parts = [np.asarray(part.exterior.coords) for part in ACROSS.geometry().geoms]
    joined = shapely.union_all([shapely.Polygon(part % [360, 1000]) for part in parts])
    outline = np.asarray(joined.exterior.coords)
    if not unwrapped:
        outline[:, 0] = (outline[:, 0] + 180) % 360 - 180
    return outline.tolist()


@pytest.mark.parametrize("turn", [0.0, -360.0, 360.0])
@pytest.mark.parametrize("unwrapped", [True, False])
def test_a_footprint_across_the_antimeridian_is_the_same_however_it_is_drawn(unwrapped: bool, turn: float) -> None:
    drawn = shapely.Polygon(np.array(rings(unwrapped)) + np.array([turn * unwrapped, 0.0]))
    found = normalized_footprint(drawn)
    assert found.geom_type == "MultiPolygon"
    assert found.is_valid
    assert found.symmetric_difference(ACROSS.geometry()).area < 1e-6 * ACROSS.geometry().area
    assert found.bounds[0] == -180.0
    assert found.bounds[2] == 180.0
    assert all(found.intersects(shapely.Point(place)) for place in (EAST_OF_IT, WEST_OF_IT))
    assert not found.intersects(shapely.Point(0.0, 64.4))


def test_a_footprint_that_is_right_stays_as_it_is() -> None:
    for usual in (box(10, 20, 11, 21), ACROSS.geometry()):
        assert normalized_footprint(usual).equals_exact(usual, 0.0)


def test_a_ring_around_a_pole_holds_the_pole() -> None:
    lon_deg = np.arange(-180.0, 180.0, 15.0)
    for lat_deg, pole in ((83.0, 90.0), (-84.0, -90.0)):
        found = normalized_footprint(shapely.Polygon(np.column_stack([lon_deg, np.full(24, lat_deg)])))
        assert found.intersects(shapely.Point(123.0, pole))
        assert found.intersects(shapely.Point(-179.9, (lat_deg + pole) / 2))
        assert not found.intersects(shapely.Point(50.0, 0.9 * lat_deg))


def test_a_polar_scene_across_the_antimeridian_is_narrow() -> None:
    lon_deg = [170.0, -172.0, -171.0, 169.0, 170.0]
    found = normalized_footprint(shapely.Polygon(np.column_stack([lon_deg, [83.5, 83.5, 82.6, 82.6, 83.5]])))
    assert found.area == pytest.approx(19.0 * 0.9, rel=0.01)
    assert found.intersects(shapely.Point(-179.0, 83.0))
    assert not found.intersects(shapely.Point(100.0, 83.0))


def test_heights_and_crossing_edges_are_mended() -> None:
    tall = shapely.Polygon([(0, 0, 7), (1, 0, 7), (1, 2, 7)])
    assert not normalized_footprint(tall).has_z
    bow = normalized_footprint(shapely.Polygon([(0, 0), (2, 2), (2, 0), (0, 2)]))
    assert bow.is_valid
    assert bow.area == pytest.approx(2.0)


def test_a_hole_moves_with_its_polygon() -> None:
    hole = np.array([(180.2, 10.2), (180.4, 10.2), (180.4, 10.4), (180.2, 10.2)])
    found = normalized_footprint(shapely.Polygon([(179, 10), (181, 10), (181, 11), (179, 11)], [hole]))
    assert not found.intersects(shapely.Point(-179.65, 10.25))
    assert found.intersects(shapely.Point(-179.9, 10.25))


@pytest.mark.parametrize(
    ("bbox", "inside", "outside"),
    [
        ([10.0, 20.0, 11.0, 21.0], (10.5, 20.5), (12.0, 20.5)),
        ([179.0, 20.0, -179.0, 21.0], (-179.5, 20.5), (0.0, 20.5)),
        ([179.0, 20.0, 0.0, -179.0, 21.0, 0.0], (179.5, 20.5), (0.0, 20.5)),
    ],
)
def test_without_a_geometry_the_box_serves(bbox: list[float], inside: Any, outside: Any) -> None:
    for item in ({"geometry": None, "bbox": bbox}, {"bbox": bbox}):
        found = footprint_of_item(item)
        assert found.intersects(shapely.Point(inside))
        assert not found.intersects(shapely.Point(outside))
    assert footprint_of_item({"geometry": None}).is_empty


@pytest.mark.parametrize(
    "geometry",
    [
        "POLYGON", [], {"type": "Polygon"}, {"type": "Polygon", "coordinates": [[[0, 0], [1, 1]]]},
        {"type": "Polygon", "coordinates": [[[float("nan"), 0], [1, 1], [1, 0], [0, 0]]]}, {"type": "Circle"},
        {"type": "Point", "coordinates": [1, 2]}, {"type": "Polygon", "coordinates": []},
    ],
)  # fmt: skip
def test_a_broken_geometry_gives_way_to_the_box(geometry: Any) -> None:
    assert footprint_of_item({"geometry": geometry, "bbox": [1.0, 2.0, 3.0, 4.0]}).equals(box(1, 2, 3, 4))
    for bbox in (None, "1,2,3,4", [1.0, 2.0], [1.0, 2.0, 3.0, "x"], [1.0, 2.0, float("inf"), 4.0]):
        assert footprint_of_item({"geometry": geometry, "bbox": bbox}).is_empty


def test_many_are_as_one_by_one() -> None:
    drawn = [box(1, 2, 3, 4), shapely.Polygon(rings(True)), shapely.Polygon(rings(False)), ACROSS.geometry()]
    for found, each in zip(normalized_footprints(np.array(drawn, dtype=object)), drawn, strict=True):
        assert found.equals_exact(normalized_footprint(each), 0.0)


@pytest.mark.real_data
def test_real_footprints_are_kept_as_they_are(shared_data: Path) -> None:
    lines = [
        line
        for name in ("pc_items", "earthsearch_v1_items", "earthsearch_v0_items")
        for line in (shared_data / "stac_items_dev" / f"{name}.ndjson").read_text().splitlines()
    ]
    assert len(lines) == 115
    for item in map(json.loads, lines):
        geometry = shape(item["geometry"])
        assert mapping(footprint_of_item(item)) == mapping(shapely.force_2d(geometry))
