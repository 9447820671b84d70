"""Predictions come back as written; what is unfinished or changed is refused."""

from pathlib import Path

import geopandas
import numpy as np
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st

from pipelines.errors import ArtefactError
from pipelines.satlas.months import month_name, month_number, months_between, validate_month
from pipelines.satlas.predictions import (
    TileGrid,
    TilePredictions,
    list_predictions,
    predicted_months,
    read_predictions,
    remove_predictions,
    write_predictions,
)

GRID = TileGrid(32631, 500_000.0, 5_000_000.0, 10.0, 40, 60)


def turbines(**changes: object) -> TilePredictions:
    objects = geopandas.GeoDataFrame(
        {"category": ["wind_turbine"], "score": [0.875]}, geometry=[shapely.Point(500_105, 4_999_905)], crs="EPSG:32631"
    )
    observed = np.arange(6, dtype=np.uint8).reshape(2, 3)
    given_ = {"task": "wind_turbine", "month": "2022-10", "tile": "31_a", "grid": GRID, "observed": observed}
    parts = {**given_, "objects": objects, "periods": ("2022-09-01",), "parents": {"weights_sha256": "ab"}, **changes}
    return TilePredictions(**parts)  # type: ignore[arg-type]


def test_objects_come_back_and_a_second_writing_gives_the_same_bytes(tmp_path: Path) -> None:
    folder = write_predictions(tmp_path, turbines())
    first = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert {path.name: path.read_bytes() for path in write_predictions(tmp_path, turbines()).iterdir()} == first
    found = read_predictions(folder)
    assert found.objects is not None
    assert found.objects.equals(turbines().objects)
    assert found.grid == GRID
    assert found.periods == ("2022-09-01",)
    np.testing.assert_array_equal(found.observed, turbines().observed)
    assert predicted_months(tmp_path, "wind_turbine") == ["2022-10"]


def test_what_a_killed_writing_left_is_no_part_of_the_next_prediction(tmp_path: Path) -> None:
    folder = write_predictions(tmp_path, turbines())
    expected = (folder / "record.json").read_bytes()
    (folder / f"observed.tif.{'0' * 32}.partial").write_bytes(b"half")
    (folder / "values.tif").write_bytes(b"of another task")
    write_predictions(tmp_path, turbines())
    assert (folder / "record.json").read_bytes() == expected
    assert sorted(path.name for path in folder.iterdir()) == ["objects.parquet", "observed.tif", "record.json"]


def test_values_come_back_with_their_holes(tmp_path: Path) -> None:
    values = np.linspace(0, 1, 2400, dtype=np.float32).reshape(40, 60)
    values[3, 5] = np.nan
    folder = write_predictions(tmp_path, turbines(task="tree_cover", objects=None, values=values))
    np.testing.assert_array_equal(read_predictions(folder).values, values)


def test_an_unfinished_folder_is_no_prediction_and_a_changed_one_is_refused(tmp_path: Path) -> None:
    folder = write_predictions(tmp_path, turbines())
    (folder / "observed.tif").write_bytes(b"another")
    with pytest.raises(ArtefactError, match=r"observed\.tif: missing or changed"):
        read_predictions(folder)
    (folder / "record.json").unlink()
    assert list_predictions(tmp_path, "wind_turbine", "2022-10") == []
    with pytest.raises(ArtefactError, match="no finished prediction"):
        read_predictions(folder)
    remove_predictions(tmp_path, "wind_turbine", "2022-10", "31_a")
    assert not folder.exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"task": "roads"}, "expected one of solar_farm"),
        ({"month": "2022-13"}, "YYYY-MM"),
        ({"tile": "../x"}, "folder's"),
        ({"observed": np.zeros((7, 3), np.uint8)}, "whole pixels"),
        ({"objects": None}, "columns category, score"),
        ({"task": "tree_cover"}, "expected float32"),
        ({"task": "tree_cover", "values": np.full((40, 60), 2, np.float32)}, "beyond"),
        ({"grid": TileGrid(32632, 0.0, 0.0, 10.0, 40, 60)}, "EPSG:32632, the tile's"),
    ],
)
def test_parts_that_do_not_fit_are_refused(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        write_predictions(tmp_path, turbines(**changes))
    assert not list(tmp_path.rglob("record.json"))


@given(st.integers(0, 9999 * 12 + 11))
def test_months_count_and_sort_as_text(number: int) -> None:
    assert month_number(month_name(number)) == number
    assert validate_month(month_name(number)) <= month_name(number + 1) or number == 9999 * 12 + 11


def test_months_between_fill_the_gaps() -> None:
    assert months_between(["2022-02", "2021-11"]) == ["2021-11", "2021-12", "2022-01", "2022-02"]
    assert months_between([]) == []
