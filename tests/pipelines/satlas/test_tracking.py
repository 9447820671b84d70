"""The same object keeps its track: moved a little, unseen for months, grown, or at the antimeridian."""

import geopandas
import numpy as np
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.satlas.geometry import LocalFrame
from pipelines.satlas.tracking import pair_nearest, track_points, track_polygons

PLACE = LocalFrame(180.0, 65.0)


def month(geometry: list[shapely.Geometry], category: str = "a") -> geopandas.GeoDataFrame:
    """Objects given in meters about a place on the antimeridian."""
    placed = [PLACE.to_lonlat(each) for each in geometry]
    placed = [shapely.Point((p.x + 180) % 360 - 180, p.y) if p.geom_type == "Point" else p for p in placed]
    values = {"category": [category] * len(placed), "score": np.linspace(0.5, 0.9, len(placed))}
    return geopandas.GeoDataFrame(values, geometry=placed, crs="EPSG:4326")


def months(*geometry: list[shapely.Geometry]) -> dict[str, geopandas.GeoDataFrame]:
    return {f"2022-{number + 1:02d}": month(each) for number, each in enumerate(geometry)}


def test_a_point_is_found_again_after_months_and_across_the_antimeridian() -> None:
    tracks = track_points(
        months([shapely.Point(-40, 0), shapely.Point(1000, 0)], [], [shapely.Point(60, 30)], [shapely.Point(400, 0)]),
        200,
    )
    # Rows of the months: the first object at -40 m, east of the line at 60 m, and not the one 340 m further.
    assert tracks.row_of.tolist() == [[0, -1, 0, -1], [1, -1, -1, -1], [-1, -1, -1, 0]]
    assert tracks.objects["score"].tolist() == [0.5, 0.9, 0.5]


def test_of_two_near_detections_the_nearer_is_the_object() -> None:
    tracks = track_points(months([shapely.Point(0, 0)], [shapely.Point(90, 0), shapely.Point(20, 0)]), 200)
    assert tracks.row_of.tolist() == [[0, 1], [-1, 0]]


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.integers(-900, 900), st.integers(-900, 900)), max_size=8, unique=True), st.integers(1, 4))
def test_every_detection_belongs_to_one_object(places: list[tuple[int, int]], number: int) -> None:
    rng = np.random.default_rng(number)
    frames = months(
        *(
            [shapely.Point(x + dx, y) for (x, y), dx in zip(places, rng.normal(0, 60, len(places)), strict=True)]
            for _ in range(number)
        )
    )
    tracks = track_points(frames, 150)
    for column, frame in enumerate(frames.values()):
        rows = tracks.row_of[:, column]
        assert sorted(rows[rows >= 0].tolist()) == list(range(len(frame)))
    if len(tracks.row_of):
        assert (tracks.row_of >= 0).any(axis=1).all()


def test_pairs_are_one_to_one_and_none_beyond_the_distance() -> None:
    first = np.array([[1.0, 0, 0], [0, 1, 0]])
    assert pair_nearest(first, first[::-1], 10).tolist() == [1, 0]
    assert pair_nearest(first, first[:0], 10).tolist() == [-1, -1]
    assert pair_nearest(np.repeat(first[:1], 2, axis=0), first[:1], 10).tolist() == [0, -1]


def test_a_farm_that_grows_shrinks_and_hides_is_one_and_a_neighbor_is_not() -> None:
    grown, neighbor = shapely.box(-100, 0, 300, 100), shapely.box(320, 0, 420, 100)
    tracks = track_polygons(
        months([shapely.box(-100, 0, 50, 100), neighbor], [], [neighbor, grown], [shapely.box(150, 0, 300, 100)]), 10
    )
    assert tracks.row_of.tolist() == [[0, -1, 0, 0], [1, -1, 1, -1]]
    assert len(tracks.detections[2]) == 2


def test_farms_that_become_one_are_one_object_with_two_parts_at_first() -> None:
    parts = [shapely.box(0, 0, 100, 100), shapely.box(150, 0, 250, 100)]
    tracks = track_polygons(months(parts, [shapely.box(0, 0, 250, 100)]), 10)
    assert tracks.row_of.tolist() == [[0, 0]]
    assert tracks.detections[0].geometry.iloc[0].geom_type == "MultiPolygon"


def test_a_sliver_and_another_category_link_nothing() -> None:
    tracks = track_polygons(months([shapely.box(0, 0, 100, 100)], [shapely.box(95, 0, 195, 100)]), 10)
    assert len(tracks.row_of) == 2
    both = {"2022-01": month([shapely.box(0, 0, 99, 99)], "a"), "2022-02": month([shapely.box(0, 0, 99, 99)], "b")}
    assert len(track_polygons(both, 10).row_of) == 2


def test_no_objects_make_no_tracks() -> None:
    assert track_points(months([], []), 100).row_of.shape == (0, 2)
    assert track_polygons(months([], []), 10).row_of.shape == (0, 2)
