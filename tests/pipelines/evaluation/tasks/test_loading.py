import hashlib

import geopandas
import numpy as np
import pandas as pd
import pytest
from pydantic import ValidationError

from pipelines.errors import TableError
from pipelines.evaluation.tasks import TaskConfig, load_task, table_source


@pytest.fixture
def table():
    rng = np.random.default_rng(11)
    return pd.DataFrame(
        {
            "lon": rng.uniform(-180, 180, 80).round(4),
            "lat": rng.uniform(-56, 84, 80).round(4),
            "elevation": rng.gamma(2.0, 300.0, 80),
            "biome": rng.choice(["tundra", "desert", "forest"], 80),
        }
    )


def task_of(tmp_path, table, **settings):
    table.to_csv(tmp_path / "table.csv", index=False)
    return TaskConfig(**({"name": "height", "table": "table.csv", "target": "elevation"} | settings))


def test_places_and_targets_keep_the_order_of_the_table(tmp_path, table):
    data = load_task(task_of(tmp_path, table), tmp_path)
    np.testing.assert_array_equal(data.lonlat_deg, table[["lon", "lat"]])
    np.testing.assert_allclose(data.target, table["elevation"], rtol=1e-15)
    assert (data.num_places, data.classes) == (80, ())


@pytest.mark.parametrize(
    ("transform", "expected"),
    [("log1p", np.log1p), ("standardise", lambda values: (values - values.mean()) / values.std(ddof=0))],
)
def test_targets_are_transformed(tmp_path, table, transform, expected):
    data = load_task(task_of(tmp_path, table, transform=transform), tmp_path)
    np.testing.assert_allclose(data.target, expected(table["elevation"]))


def test_classes_are_numbered_in_ascending_order(tmp_path, table):
    data = load_task(task_of(tmp_path, table, target="biome", kind="classification"), tmp_path)
    assert data.classes == ("desert", "forest", "tundra")
    assert [data.classes[code] for code in data.target] == table["biome"].tolist()
    assert data.target.dtype == np.int64


def test_classes_with_gaps_are_named_as_the_whole_numbers_they_are(tmp_path, table):
    codes = pd.Series(np.arange(80) % 3 + 1.0)
    codes[5] = np.nan
    data = load_task(task_of(tmp_path, table.assign(code=codes), target="code", kind="classification"), tmp_path)
    assert data.classes == ("1", "2", "3")
    assert data.num_dropped == {"no coordinates": 0, "no target": 1}


def test_the_class_na_is_a_class(tmp_path, table):
    table["biome"] = ["NA", "FR"] * 40
    data = load_task(task_of(tmp_path, table, target="biome", kind="classification"), tmp_path)
    assert data.classes == ("FR", "NA")


def test_rows_without_coordinates_or_target_are_dropped_and_counted(tmp_path, table):
    table.loc[[3, 4], "lat"] = np.nan
    table.loc[[4, 7, 9], "elevation"] = np.nan
    data = load_task(task_of(tmp_path, table), tmp_path)
    assert data.num_dropped == {"no coordinates": 2, "no target": 2}
    np.testing.assert_array_equal(data.lonlat_deg, table.drop([3, 4, 7, 9])[["lon", "lat"]])


@pytest.mark.parametrize(
    ("change", "settings", "message"),
    [
        ({}, {"target": "height"}, "predicts column 'height'; found columns 'lon', 'lat', 'elevation', 'biome'"),
        ({}, {"lon_column": "x"}, "no column 'x'; found columns"),
        ({}, {"target": "biome"}, "column 'biome' must hold finite numbers, but row 1 has"),
        ({"elevation": 5.0}, {}, "is 5.0 in every row"),
        ({"elevation": np.linspace(-3, 9, 80)}, {"transform": "log1p"}, "goes down to -3.0, but log1p"),
        ({"biome": "forest"}, {"target": "biome", "kind": "classification"}, "holds only class 'forest'"),
        (
            {"elevation": [1.0, 2.0] + [np.nan] * 78},
            {},
            r"has 2 rows with coordinates and target \(of 80\); expected at",
        ),
        ({"lat": 95.0}, {}, "out of range"),
    ],
)
def test_a_table_that_does_not_fit_the_task_is_refused(tmp_path, table, change, settings, message):
    with pytest.raises(TableError, match=message):
        load_task(task_of(tmp_path, table.assign(**change), **settings), tmp_path)


def test_relative_tables_are_found_below_a_folder_or_an_address(tmp_path):
    assert table_source("a/b.csv", tmp_path) == str(tmp_path / "a" / "b.csv")
    assert table_source("a/b.csv", "http://host:1/tables/") == "http://host:1/tables/a/b.csv"
    assert table_source("https://host/b.csv", tmp_path) == "https://host/b.csv"
    assert table_source("/data/b.csv", "http://host") == "/data/b.csv"
    with pytest.raises(TableError, match="set SATCLIP_TABLES_ROOT"):
        table_source("b.csv", None)


def test_the_data_set_is_named_by_its_file_unless_it_has_a_name():
    assert TaskConfig(name="t", table="http://h/tables/elevation.csv.gz", target="y").dataset_name == "elevation"
    assert TaskConfig(name="t", table="x.csv", target="y", dataset="stations").dataset_name == "stations"


@pytest.mark.parametrize(
    "settings",
    [
        {"kind": "classification", "transform": "log1p"},
        {"transform": "sqrt"},
        {"unknown": 1},
        {"name": ""},
        {"name": "../a"},
        {"lon_column": "lat"},
        {"kind": "multilabel", "transform": "standardise"},
    ],
)
def test_an_impossible_task_is_refused(settings):
    with pytest.raises(ValidationError):
        TaskConfig(**({"name": "t", "table": "t.csv", "target": "y"} | settings))


def test_labels_become_a_column_per_class(tmp_path, table):
    table["labels"] = ["wet | cold", "cold", " dry|", "dry|cold|dry"] * 20
    table.loc[6, "labels"] = None
    data = load_task(task_of(tmp_path, table, target="labels", kind="multilabel"), tmp_path)
    assert data.classes == ("cold", "dry", "wet")
    assert (data.target.dtype, data.target.shape) == (np.bool_, (79, 3))
    assert data.target[:4].astype(int).tolist() == [[1, 0, 1], [1, 0, 0], [0, 1, 0], [1, 1, 0]]
    assert data.num_dropped == {"no coordinates": 0, "no target": 1}


def test_lists_of_labels_in_parquet_are_labels(tmp_path, table):
    table["labels"] = [["wet", "cold"], ["cold"]] * 40
    table.to_parquet(tmp_path / "t.parquet")
    data = load_task(TaskConfig(name="t", table="t.parquet", target="labels", kind="multilabel"), tmp_path)
    assert data.classes == ("cold", "wet")
    assert data.target[:2].astype(int).tolist() == [[1, 1], [1, 0]]


def test_dropped_values_are_left_out_first_and_counted_by_column(tmp_path, table):
    table["quality"] = ["good", "bad", "odd", "good", "good", "good", "good", "good"] * 10
    table.loc[[0, 1], "elevation"] = -999.0
    table.loc[[2, 3], "lat"] = np.nan
    table.loc[4, "elevation"] = np.nan
    dropped = {"quality": ["bad", "odd"], "elevation": -999}
    data = load_task(task_of(tmp_path, table, dropped_values=dropped), tmp_path)
    expected = {"quality is bad or odd": 20, "elevation is -999": 1, "no coordinates": 1, "no target": 1}
    assert data.num_dropped == expected
    assert data.num_places == 80 - 23


def test_rows_that_are_dropped_may_hold_anything(tmp_path, table):
    written = table.assign(elevation=table["elevation"].astype(str), quality="good")
    written.loc[[2, 9], "quality"] = "bad"
    written.loc[2, "elevation"], written.loc[9, "lat"] = "unknown", 999.0
    data = load_task(task_of(tmp_path, written, dropped_values={"quality": "bad"}), tmp_path)
    assert data.num_dropped == {"quality is bad": 2, "no coordinates": 0, "no target": 0}
    np.testing.assert_allclose(data.target, table["elevation"].drop([2, 9]), rtol=1e-15)
    written.loc[12, "lat"] = 95.0
    with pytest.raises(TableError, match=r"row 13 has 95\.0"):
        load_task(task_of(tmp_path, written, dropped_values={"quality": "bad"}), tmp_path)


def test_a_column_of_dropped_values_must_be_there(tmp_path, table):
    with pytest.raises(TableError, match="task height drops values of column 'quality'; found columns 'lon', 'lat'"):
        load_task(task_of(tmp_path, table, dropped_values={"quality": "bad"}), tmp_path)


def test_repeated_places_and_classes_of_one_are_kept_and_told(tmp_path, table):
    table.loc[[10, 11], ["lon", "lat"]] = table.loc[9, ["lon", "lat"]].to_numpy(dtype=float)
    table.loc[5, "biome"] = "mangrove"
    table.loc[3, "lat"] = np.nan
    data = load_task(task_of(tmp_path, table, target="biome", kind="classification"), tmp_path)
    assert (data.num_places, data.rows, data.num_repeated) == (79, 80, 2)
    assert data.single_classes == ("mangrove",)
    assert data.notes == (
        "1 of 80 rows left out: no coordinates",
        "2 places repeat the coordinates of another, kept in the same fold",
        "1 classes have one member, kept: 'mangrove'",
    )


def test_a_column_of_names_is_no_class(tmp_path, table):
    table["name"] = [f"place {row}" for row in range(80)]
    with pytest.raises(TableError, match="another class in each of 80 rows"):
        load_task(task_of(tmp_path, table, target="name", kind="classification"), tmp_path)


def test_swapped_coordinates_are_recognized(tmp_path, table):
    swapped = table.rename(columns={"lon": "lat", "lat": "lon"})
    with pytest.raises(TableError, match="if the columns are swapped, set lon_column='lat' and lat_column='lon'"):
        load_task(task_of(tmp_path, swapped), tmp_path)


@pytest.mark.parametrize("column", ["lon", "elevation"])
def test_infinity_is_no_number(tmp_path, table, column):
    table.loc[7, column] = np.inf
    with pytest.raises(TableError, match=f"column '{column}' must hold finite numbers, but row 8 has inf"):
        load_task(task_of(tmp_path, table), tmp_path)


def test_the_table_is_named_by_its_hash(tmp_path, table):
    data = load_task(task_of(tmp_path, table), tmp_path)
    assert data.table_sha256 == hashlib.sha256((tmp_path / "table.csv").read_bytes()).hexdigest()


def test_coordinates_may_come_from_the_geometry(tmp_path, table):
    places = geopandas.points_from_xy(table["lon"], table["lat"], crs="EPSG:4326").to_crs("EPSG:3857")
    geopandas.GeoDataFrame(table[["elevation"]], geometry=places).to_parquet(tmp_path / "t.parquet")
    data = load_task(TaskConfig(name="t", table="t.parquet", target="elevation"), tmp_path)
    np.testing.assert_allclose(data.lonlat_deg, table[["lon", "lat"]], atol=1e-9)
