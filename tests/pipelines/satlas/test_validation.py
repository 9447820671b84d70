"""Validation of a product: reproducible samples, verdicts, scores beside the published ones, and real places."""

from pathlib import Path

import geopandas
import numpy as np
import pandas as pd
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.cli import main
from pipelines.errors import ArtefactError, ConfigurationError, TableError
from pipelines.satlas.geometry import LocalFrame
from pipelines.satlas.index import build_index
from pipelines.satlas.validation.estimates import precision_estimates
from pipelines.satlas.validation.published import CONTINENTS, PUBLISHED, PUBLISHED_ALL, compare_published
from pipelines.satlas.validation.recall import found_within, matched_within, pixels_found, read_reference
from pipelines.satlas.validation.samples import draw_samples, read_labels
from pipelines.satlas.validation.stage import ValidationConfig, validate_products
from pipelines.satlas.vector_files import write_objects
from pipelines.satlas.versions import publish

WORLD = ValidationConfig(by_continent=False, samples_per_continent=20)


def turbines(number: int) -> geopandas.GeoDataFrame:
    rng = np.random.default_rng(number)
    values = {
        "object_id": [f"id{each:04d}" for each in range(number)],
        "category": "wind_turbine",
        "score": rng.random(number).round(3),
        "first_month": "2022-01",
        "last_month": "2022-10",
    }
    geometry = shapely.points(rng.uniform(-170, 170, number), rng.uniform(-50, 70, number))
    return geopandas.GeoDataFrame(values, geometry=geometry, crs="EPSG:4326")


def publish_turbines(root: Path, objects: geopandas.GeoDataFrame, month: str = "2022-10") -> None:
    content = str(pd.util.hash_pandas_object(objects["object_id"]).sum())
    publish(root, "wind_turbine", month, content, lambda folder: write_objects(folder, "wind_turbine", objects), {})
    build_index(root)


@settings(max_examples=12, deadline=None)
@given(st.integers(1, 40), st.integers(0, 3))
def test_a_longer_list_begins_with_the_shorter_and_revisions_move_no_other(number: int, seed: int) -> None:
    objects = turbines(60)
    continents = np.where(objects.geometry.x < 0, "West", "East")
    short, long = (draw_samples(objects, continents, n, seed) for n in (number, number + 5))
    for name, part in short.groupby("continent"):
        own = long.loc[long["continent"] == name, "object_id"].tolist()
        assert own[: len(part)] == part["object_id"].tolist()
        assert part["number"].tolist() == list(range(1, len(part) + 1))
    fewer = draw_samples(objects.iloc[5:], continents[5:], 60, seed)["object_id"]
    gone = set(objects["object_id"].iloc[:5])
    every = draw_samples(objects, continents, 60, seed)["object_id"]
    assert fewer.tolist() == [each for each in every if each not in gone]


def test_samples_are_uniform_over_objects() -> None:
    objects = turbines(200)
    chosen = [draw_samples(objects, np.full(200, "a"), 50, seed)["object_id"] for seed in range(60)]
    counts = pd.concat(chosen).value_counts().reindex(objects["object_id"], fill_value=0)
    # Each is drawn Binomial(60, 1/4) times; five standard deviations.
    assert abs(counts - 15).max() < 5 * np.sqrt(60 * 0.25 * 0.75)


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    publish_turbines(tmp_path, turbines(30))
    return tmp_path


def test_verdicts_become_precision_and_a_second_run_changes_nothing(workspace: Path) -> None:
    first = validate_products(workspace, "wind_turbine", WORLD)
    assert (first.num_samples, first.num_judged) == (20, 0)
    folder = first.report.parent
    assert "nothing" not in first.report.read_text()
    assert [each.estimate for each in first.estimates] == [None, None]
    samples = pd.read_csv(folder / "samples.csv", keep_default_na=False)
    samples["verdict"] = ["correct"] * 15 + ["wrong"] * 3 + ["unsure"] + [""]
    samples["confused_with"] = [""] * 15 + ["pylon", "pylon", ""] + [""] * 2
    samples.to_csv(folder / "labels.csv", index=False)
    found = validate_products(workspace, "wind_turbine", WORLD)
    assert [(each.continent, each.found, each.counted, each.num_objects) for each in found.estimates] == [
        ("World", 15, 18, 30),
        ("All", 15, 18, 30),
    ]
    assert found.estimates[0].estimate == found.estimates[1].estimate
    assert found.num_judged == 19
    assert found.confusers == {"not told": 1, "pylon": 2}
    text = found.report.read_text()
    assert "83.3 (60.8 to 94.2)" in text
    assert "- pylon: 2" in text
    assert (folder / "intervals.png").stat().st_size > 5000
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    validate_products(workspace, "wind_turbine", WORLD)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_product_that_is_not_the_indexed_one_is_refused(workspace: Path) -> None:
    publish(workspace, "wind_turbine", "2022-10", "x", lambda to: write_objects(to, "wind_turbine", turbines(3)), {})
    with pytest.raises(ArtefactError, match="is not the file that the index names; materialize satlas_index"):
        validate_products(workspace, "wind_turbine", WORLD)
    build_index(workspace)
    assert validate_products(workspace, "wind_turbine", WORLD).num_samples == 3
    with pytest.raises(ArtefactError, match="2021-01 is not indexed, found 2022-10 to 2022-10"):
        validate_products(workspace, "wind_turbine", WORLD.model_copy(update={"month": "2021-01"}))
    with pytest.raises(ConfigurationError, match="no objects to validate"):
        validate_products(workspace, "tree_cover", WORLD)


def test_recall_of_known_turbines_is_reported(workspace: Path) -> None:
    known = turbines(30)[["geometry"]].iloc[:12]
    known = pd.concat([known, known.set_geometry(known.geometry.translate(0.5, 0.5))])
    found = validate_products(workspace, "wind_turbine", WORLD, known)
    recall = [each for each in found.estimates if each.measure == "recall"]
    assert [(each.continent, each.found, each.counted) for each in recall] == [("World", 12, 24), ("All", 12, 24)]
    assert "| recall | objects | wind_turbine | All | 12 | 24 | 24 | 50.0 (31.4 to 68.6) |" in found.report.read_text()


def test_a_product_without_objects_is_reported_as_such(tmp_path: Path) -> None:
    publish_turbines(tmp_path, turbines(3).iloc[:0])
    found = validate_products(tmp_path, "wind_turbine", WORLD)
    assert (found.num_samples, found.estimates) == (0, [])
    assert "has no objects" in found.report.read_text()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("object_id,verdict\na,maybe\n", "verdict 'maybe' in line 2"),
        ("object_id,verdict\na,wrong\na,correct\n", "judged twice"),
        ("object,verdict\na,wrong\n", "columns object_id missing"),
        ("", "cannot be read"),
    ],
)
def test_labels_that_cannot_be_used_are_told(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "labels.csv").write_text(text)
    with pytest.raises(TableError, match=message):
        read_labels(tmp_path / "labels.csv")


def test_recall_by_objects_and_by_pixels() -> None:
    place = LocalFrame(179.999, 50.0)
    points = np.array([shapely.get_coordinates(place.to_lonlat(shapely.Point(x, 0)))[0] for x in (0, 190, 210, 9000)])
    product = points[:1] * [1, 1] - [360, 0]
    assert found_within(points, product, 200).tolist() == [True, True, False, False]
    assert found_within(points, product[:0], 200).tolist() == [False] * 4
    assert matched_within(points, product, 200).tolist() == [True, False, False, False]
    assert matched_within(points, points[[0, 0, 3]], 200).tolist() == [True, True, False, True]
    farms = [shapely.box(0, 0, 100, 100), shapely.box(500, 0, 700, 50), shapely.box(2000, 0, 2004, 4)]
    detected = [shapely.box(-50, 0, 60, 100), shapely.box(40, 0, 70, 100), shapely.box(500, -20, 520, 20)]
    reference, found = (
        np.array([place.to_lonlat(each) for each in every], dtype=object) for every in (farms, detected)
    )
    hits, totals = pixels_found(reference, found)
    np.testing.assert_allclose(totals, [100, 100, 0], atol=12)
    np.testing.assert_allclose(hits, [70, 4, 0], atol=12)


def test_precision_of_all_weighs_continents_by_their_objects() -> None:
    samples = pd.DataFrame(
        {"category": "a", "continent": ["Asia"] * 10 + ["Africa"] * 10, "verdict": ["correct"] * 14 + ["wrong"] * 6}
    )
    continents = np.array(["Asia"] * 900 + ["Africa"] * 100)
    found = {each.continent: each for each in precision_estimates(samples, np.full(1000, "a"), continents, 0.95)}
    assert found["All"].estimate is not None
    assert found["All"].estimate.value == pytest.approx(0.9 * 1.0 + 0.1 * 0.4)
    assert found["All"].estimate.trials < 20


def test_the_published_figures_are_computed_again_and_differences_explained(capsys: pytest.CaptureFixture[str]) -> None:
    rows = {(each.category, each.continent): each for each in compare_published()}
    for category, table in PUBLISHED.items():
        assert sum(row[2] for row in table.values()) == PUBLISHED_ALL[category][2]
        assert tuple(table) == CONTINENTS
        everywhere = rows[category, "All"]
        assert everywhere.computed is not None
        assert everywhere.published_percent is not None
        agrees = round(100 * everywhere.computed.value) == everywhere.published_percent
        assert agrees or everywhere.remark
        for continent in CONTINENTS:
            row = rows[category, continent]
            assert (row.computed is None) == (row.published_percent is None)
    assert "94.3" in rows["solar_farm", "All"].remark
    assert "rounded down" in rows["offshore_wind_turbine", "All"].remark
    africa = rows["solar_farm", "Africa"].computed
    assert africa is not None
    assert (round(100 * africa.low, 1), round(100 * africa.high, 1)) == (47.2, 66.3)
    assert main(["satlas", "published"]) == 0
    told = capsys.readouterr().out
    assert "| solar_farm | Africa | 1051 | 57 | 57.0 (47.2 to 66.3) | N/A |" in told
    assert "| 78.9 |" in told


@pytest.mark.real_data
def test_the_share_of_real_plants_with_a_detection_within_two_kilometers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], shared_data: Path
) -> None:
    plants_path = shared_data / "wri_powerplants_dev" / "database_USA.csv.gz"
    plants = read_reference(plants_path, "longitude", "latitude")
    plants = plants[plants["primary_fuel"] == "Solar"].reset_index(drop=True)
    # A made-up product: of every third plant something 0 to 4 km away, the others unseen.
    rng = np.random.default_rng(1)
    seen = plants.iloc[::3]
    moved = [
        shapely.get_coordinates(LocalFrame(p.x, p.y).to_lonlat(shapely.Point(d * np.cos(a), d * np.sin(a))))[0]
        for p, d, a in zip(seen.geometry, rng.uniform(0, 4000, len(seen)), rng.uniform(0, 7, len(seen)), strict=True)
    ]
    product = turbines(len(seen)).set_geometry(shapely.points(np.array(moved)), crs="EPSG:4326")
    product["category"] = "solar_farm"
    write_objects(tmp_path, "solar_farm", product)
    lonlat, other = np.radians(shapely.get_coordinates(plants.geometry)), np.radians(np.array(moved))
    half = np.sin((lonlat[:, None] - other[None]) / 2) ** 2
    haversine = half[..., 1] + np.cos(lonlat[:, None, 1]) * np.cos(other[None, :, 1]) * half[..., 0]
    expected = int((2 * 6_371_008.8 * np.arcsin(np.sqrt(haversine)) <= 2000).any(axis=1).sum())
    command = ["satlas", "compare", str(tmp_path / "solar_farm.parquet"), str(plants_path)]
    options = ["--lon-column", "longitude", "--lat-column", "latitude", "--where", "primary_fuel=Solar"]
    assert main([*command, *options]) == 0
    told = capsys.readouterr().out
    assert f"{expected} of {len(plants)} places have an object within 2000 m" in told
    assert 0.15 < expected / len(plants) < 0.6


@pytest.mark.real_data
def test_samples_are_drawn_per_continent(workspace: Path, shared_data: Path) -> None:
    countries = str(shared_data / "natural_earth" / "ne_50m_admin_0_countries")
    config = ValidationConfig(samples_per_continent=2, countries=countries)
    found = validate_products(workspace, "wind_turbine", config)
    continents = {each.continent for each in found.estimates}
    assert {"Africa", "Asia", "All"} <= continents
    assert sum(each.num_objects for each in found.estimates if each.continent != "All") == 30


def test_references_that_cannot_be_used_are_told(tmp_path: Path) -> None:
    path = tmp_path / "known.csv"
    path.write_text("x,y\n1,2\n")
    with pytest.raises(TableError, match="columns lon, lat missing, found x, y"):
        read_reference(path)
    path.write_text("lon,lat\n1,2\n1,95\n,\n")
    found = read_reference(path)
    assert found.attrs == {"num_without_place": 2}
    assert [(p.x, p.y) for p in found.geometry] == [(1, 2)]
    path.write_text("lon,lat\n1,95\n")
    with pytest.raises(TableError, match="none of 1 rows"):
        read_reference(path)
    with pytest.raises(TableError, match="cannot be read"):
        read_reference(tmp_path / "none.geojson")
