from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pipelines.errors import ConfigurationError, MissingTableError
from pipelines.evaluation.tasks import (
    describe_tasks,
    find_tasks,
    load_task,
    markdown_of_tasks,
    read_tasks,
    registered_tasks,
)

DOCUMENT = Path(__file__).resolve().parents[4] / "docs" / "evaluation.md"
PAPER_TASKS = {
    "air_temperature", "elevation", "population_density", "median_income", "california_house_value", "countries",
    "biomes", "ecoregions", "species",
}  # fmt: skip
SHARED_TASKS = {
    "air_temperature", "precipitation", "airport_altitude", "airport_country", "city_elevation", "city_population",
    "city_country", "california_house_value", "california_income", "climate_zone", "eurosat_land_cover",
    "bigearthnet_land_cover", "bigearthnet_country",
}  # fmt: skip


@pytest.fixture(scope="module")
def registry():
    return registered_tasks()


def written(tmp_path, text):
    path = tmp_path / "tasks.yaml"
    path.write_text(text)
    return path


def test_the_registry_holds_the_tasks_of_the_paper_and_of_the_shared_tables(registry):
    assert set(registry) >= PAPER_TASKS | SHARED_TASKS
    assert not {task.dataset for task in registry.values()} & set(registry)
    for name, task in registry.items():
        assert task.name == name
        assert task.licence, name
        assert task.source, name
        assert task.citation, name
        assert task.dataset, name
        assert not Path(task.table).is_absolute()


def test_tasks_are_found_by_their_own_name_and_by_that_of_their_data_set(registry):
    found = find_tasks(["ecoregions", "california_housing", "california_income"])
    assert [task.name for task in found] == ["ecoregions", "california_house_value", "california_income"]
    assert found[0] == registry["ecoregions"]
    with pytest.raises(ConfigurationError, match=r"task 'airport_altitud': .* did you mean airport_altitude"):
        find_tasks(["airport_altitud"])
    with pytest.raises(ConfigurationError, match="did you mean air_temperature or "):
        find_tasks(["zzzz"])


def test_descriptions_say_what_can_be_had(tmp_path):
    (tmp_path / "california_housing").mkdir()
    (tmp_path / "california_housing" / "housing.csv").touch()
    rows = {row["name"]: row for row in describe_tasks(tmp_path)}
    assert [row["available"] for row in rows.values()].count(True) == 2
    assert rows["california_income"]["available"] is True
    assert rows["california_income"]["download"] == "pinned"
    assert rows["elevation"]["download"] == "unpinned"
    assert rows["species"]["download"] == "no"
    assert {row["available"] for row in describe_tasks()} == {None}
    assert {row["available"] for row in describe_tasks("https://tables.example")} == {None}


def test_the_documented_table_is_that_of_the_registry():
    assert markdown_of_tasks() in DOCUMENT.read_text()


def test_the_documented_example_is_read(tmp_path):
    example = DOCUMENT.read_text().partition("```yaml\n")[2].partition("```")[0]
    tasks = read_tasks(written(tmp_path, example))
    assert [(task.name, task.kind, task.lon_column) for task in tasks] == [
        ("arsenic", "regression", "x"),
        ("aquifer", "classification", "x"),
    ]


def test_a_lone_task_a_list_and_a_data_set_are_read(tmp_path):
    lone = read_tasks(written(tmp_path, "{name: a, table: t.csv, target: y}"))
    assert [(task.name, task.kind) for task in lone] == [("a", "regression")]
    listed = read_tasks(
        written(
            tmp_path,
            """
            - {name: a, table: t.csv, target: y}
            - table: u.csv
              format: {delimiter: ";"}
              kind: classification
              tasks:
                - {name: b, target: z, dropped_values: {z: [0, "x", -1.0], w: 7}}
                - {name: c, target: v, kind: multilabel, label_separator: "/"}
            """,
        )
    )
    assert [(task.name, task.table, task.kind) for task in listed] == [
        ("a", "t.csv", "regression"),
        ("b", "u.csv", "classification"),
        ("c", "u.csv", "multilabel"),
    ]
    assert listed[1].format.delimiter == ";"
    assert listed[1].dropped_values == {"z": ("0", "x", "-1"), "w": ("7",)}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "{name: a, table: t.csv, target: y, lon_colunm: x}",
            "task a: unknown key lon_colunm; did you mean lon_column?",
        ),
        ("{name: a, table: t.csv, target: y, format: {delimeter: x}}", "format.delimeter; did you mean delimiter?"),
        ("{name: a, table: t.csv, target: y, zzz: 1}", r"unknown key zzz; remove it \(keys: name, table"),
        ("{name: a, table: t.csv}", "task a: key target is missing"),
        ("{table: t.csv, target: y}", "task without a name: key name is missing"),
        ("{name: a, table: t.csv, target: y, kind: regresion}", "key kind: Input should be 'regression', "),
        ("{name: a, table: t.csv, target: y, dropped_values: {c: [NO]}}", "must be text; put it in quotes"),
        ("{name: a, table: t.csv, target: y, download: {url: ftp://x}}", "key download.url"),
        ("- {name: a, table: t.csv, target: y}\n- {name: a, table: u.csv, target: y}", "a declared more than once"),
        ("{name: a, table: t.csv, tasks: []}", "tasks holds no list of tasks"),
        ("hello", "holds str, expected a task with name, table and target"),
        ("", "holds NoneType"),
        ("{name: a\n", r"line 2, column 1: no YAML"),
    ],
)
def test_a_wrong_declaration_names_file_key_and_remedy(tmp_path, text, message):
    path = written(tmp_path, text)
    with pytest.raises(ConfigurationError, match=message) as caught:
        read_tasks(path)
    assert str(path) in str(caught.value)


def test_a_declaration_that_is_not_there_is_told(tmp_path):
    with pytest.raises(ConfigurationError, match=r"none.yaml: cannot be read \(FileNotFoundError\)"):
        read_tasks(tmp_path / "none.yaml")


def made_table(path, num_rows=120, **columns):
    rng = np.random.default_rng(4)
    path.parent.mkdir(parents=True, exist_ok=True)
    lonlat_deg = rng.uniform(-60, 60, (num_rows, 2)).round(4)
    frame = pd.DataFrame(
        {"lon": lonlat_deg[:, 0], "lat": lonlat_deg[:, 1]} | {k: v(rng, num_rows) for k, v in columns.items()}
    )
    return frame


def some(*values):
    return lambda rng, num_rows: np.resize(values, num_rows)


@pytest.mark.parametrize(
    ("name", "columns", "num_dropped", "classes"),
    [
        ("countries", {"country": some(0, 3, 12)}, {"country is 0": 40}, ("12", "3")),
        (
            "biomes",
            {"ecoregion_class_index": some(-1, 5, 6), "biome_class_index": some(-1, 1, 2)},
            {"ecoregion_class_index is -1": 40},
            ("1", "2"),
        ),
        ("ecoregions", {"ecoregion_class_index": some(-1.0, 5, 6)}, {"ecoregion_class_index is -1": 40}, ("5", "6")),
        ("elevation", {"elevation": some(-3.5, 500, 900)}, {}, ()),
        ("population_density", {"log_population": some(0.0, 2.5)}, {}, ()),
        ("median_income", {"income": some(-999.0, 40_000, 50_000)}, {"income is -999": 40}, ()),
    ],
)
def test_tables_in_the_form_of_coordbench_are_read_as_declared(tmp_path, registry, name, columns, num_dropped, classes):
    task = registry[name]
    path = tmp_path / task.table
    made_table(path, **columns).to_parquet(path)
    data = load_task(task, tmp_path)
    assert data.num_dropped == num_dropped | {"no coordinates": 0, "no target": 0}
    assert data.num_places == 120 - sum(num_dropped.values())
    assert data.classes == classes


def test_tables_with_named_ecoregions_are_read_as_declared(tmp_path, registry):
    task = registry["biomes_by_name"]
    path = tmp_path / task.table
    frame = made_table(path, BIOME_NAME=some("Tundra", "N/A", ""), ECO_NAME=some("a", "b"))
    frame.rename(columns={"lon": "X", "lat": "Y"}).to_csv(path)
    data = load_task(task, tmp_path)
    assert data.classes == ("N/A", "Tundra")
    assert data.num_dropped["no target"] == 40
    np.testing.assert_array_equal(data.lonlat_deg[0], frame[["lon", "lat"]].iloc[0])


def test_a_table_the_user_has_not_downloaded_names_where_it_is_had(tmp_path, registry):
    with pytest.raises(MissingTableError, match=r"task species needs it: put the table .*train2018_locations.json"):
        load_task(registry["species"], tmp_path)
