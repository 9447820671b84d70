"""Known objects: when images show them, and what a model should give."""

from datetime import date
from pathlib import Path

import geopandas
import numpy as np
import pytest
from shapely.geometry import Point, Polygon, box

from pipelines.errors import ArtefactError
from pipelines.satlas.mosaics import ImagePeriod
from pipelines.satlas.predictions import TileGrid
from pipelines.satlas.training.examples import BoxTarget, MaskTarget
from pipelines.satlas.training.known_objects import read_known_objects, standing, target_of
from satclip_model.satlas.config import DetectionConfig, RegressionConfig, SegmentationConfig

GRID = TileGrid(32632, 500_000.0, 5_300_000.0, 10.0, 64, 64)
JUNE = ImagePeriod(date(2022, 6, 1), date(2022, 6, 30))
MAY = ImagePeriod(date(2022, 5, 2), date(2022, 5, 31))


def _frame(geometry: list, first: list, last: list, category: str = "solar_farm") -> geopandas.GeoDataFrame:
    table = {"category": [category] * len(geometry), "first_month": first, "last_month": last}
    return geopandas.GeoDataFrame(table, geometry=geometry, crs=f"EPSG:{GRID.epsg}").to_crs("EPSG:4326")


@pytest.mark.parametrize(
    ("first", "last", "shown"),
    [
        (None, None, 1), ("2022-06", None, 1), ("2022-07", None, 0), (None, "2022-04", 0), (None, "2022-05", 1),
        ("2022-05", "2022-05", 1), (None, "2022-06", 1), ("2022-08", "2022-09", 0),
    ],
)  # fmt: skip
def test_an_object_is_shown_where_it_stood_through_a_period(first: str | None, last: str | None, shown: int) -> None:
    objects = _frame([box(0, 0, 1, 1)], [first], [last])
    assert standing(objects, [JUNE, MAY]).tolist() == [shown]


def test_what_was_built_within_the_only_period_is_not_known() -> None:
    middle = ImagePeriod(date(2022, 5, 17), date(2022, 6, 15))
    assert standing(_frame([box(0, 0, 1, 1)], ["2022-06"], [None]), [middle]).tolist() == [-1]
    assert standing(_frame([box(0, 0, 1, 1)], [None], ["2022-05"]), [middle]).tolist() == [-1]
    assert standing(_frame([box(0, 0, 1, 1)], [None], ["2022-05"]), []).tolist() == [0]


def test_masks_are_the_pixels_of_shown_polygons() -> None:
    squares = [box(500_100, 5_299_700, 500_200, 5_299_900), box(500_400, 5_299_400, 500_500, 5_299_500)]
    target = target_of(
        _frame(squares, [None] * 2, [None] * 2), np.array([1, -1], dtype=np.int8), GRID,
        SegmentationConfig(categories=("solar_farm",)),
    )  # fmt: skip
    assert isinstance(target, MaskTarget)
    expected = np.zeros((64, 64), dtype=np.uint8)
    expected[10:30, 10:20] = 1
    np.testing.assert_array_equal(target.classes[0], expected)
    assert not target.valid[50:60, 40:50].any()
    assert target.valid[:45].all()


def test_boxes_stand_around_points_and_those_of_other_tiles_are_left_out() -> None:
    points = [Point(500_105, 5_299_795), Point(500_635, 5_299_995), Point(500_700, 5_299_000)]
    head = DetectionConfig(categories=("pylon", "wind_turbine"))
    target = target_of(
        _frame(points, [None] * 3, [None] * 3, "wind_turbine"), np.array([1, -1, 1], np.int8), GRID, head, 16
    )
    assert isinstance(target, BoxTarget)
    np.testing.assert_allclose(target.boxes, [[2.5, 12.5, 18.5, 28.5], [55.5, -7.5, 71.5, 8.5]], atol=1e-2)
    assert target.labels.tolist() == [2, 2]
    assert target.is_difficult.tolist() == [False, True]
    with pytest.raises(ValueError, match="no target for a head of kind regression"):
        target_of(_frame(points, [None] * 3, [None] * 3), np.ones(3, np.int8), GRID, RegressionConfig())


def test_files_are_read_back_and_faults_are_told(tmp_path: Path) -> None:
    good = _frame([box(500_000, 5_299_900, 500_100, 5_300_000)] * 2, [None, "2022-02"], ["2022-05", None])
    for name in ("known.geojson", "known.parquet"):
        path = tmp_path / name
        good.to_parquet(path) if name.endswith("parquet") else good.to_file(path)
        read = read_known_objects(path, ["solar_farm"])
        assert read["first_month"].tolist() == [None, "2022-02"]
        assert read["last_month"].tolist() == ["2022-05", None]
    with pytest.raises(ArtefactError, match="categories solar_farm; expected wind_turbine"):
        read_known_objects(path, ["wind_turbine"])
    broken = {
        "month.parquet": (good.assign(first_month="2022-13"), "first_month of row 0"),
        "columns.parquet": (good.drop(columns="category"), "expected category and a CRS"),
        "shape.parquet": (
            good.set_geometry([Polygon([(0, 0), (1, 1), (1, 0), (0, 1)])] * 2, crs=4326), "empty or invalid",
        ),
    }  # fmt: skip
    for name, (frame, message) in broken.items():
        frame.to_parquet(tmp_path / name)
        with pytest.raises(ArtefactError, match=message):
            read_known_objects(tmp_path / name, ["solar_farm"])
    with pytest.raises(ArtefactError, match="no file of known objects"):
        read_known_objects(tmp_path / "missing.geojson", ["solar_farm"])
