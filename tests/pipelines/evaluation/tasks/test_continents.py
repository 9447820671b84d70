import shutil
import time
from pathlib import Path

import geopandas
import numpy as np
import pytest
import shapely

from pipelines.errors import MissingTableError, TableError
from pipelines.evaluation.tasks import continent_of, continents, load_task, registered_tasks

PLACES = {
    "Suva": (178.44, -18.14, "Oceania"),
    "Lau, west of the antimeridian": (-178.8, -17.25, "Oceania"),
    "Fiji on the antimeridian": (180.0, -16.2, "Oceania"),
    "the same place": (-180.0, -16.2, "Oceania"),
    "Chukotka, west": (-173.0, 66.0, "Asia"),
    "Chukotka, east": (175.0, 67.0, "Asia"),
    "Wrangel Island": (-179.5, 71.2, "Asia"),
    "Vladivostok": (131.9, 43.12, "Asia"),
    "Yekaterinburg": (60.6, 56.83, "Asia"),
    "Ufa": (55.97, 54.74, "Europe"),
    "Moscow": (37.62, 55.75, "Europe"),
    "Astana": (71.43, 51.13, "Asia"),
    "Istanbul": (28.95, 41.01, "Asia"),
    "Sinai": (33.9, 28.5, "Africa"),
    "south pole": (0.0, -90.0, "Antarctica"),
    "south pole by another longitude": (123.0, -90.0, "Antarctica"),
    "McMurdo": (166.67, -77.85, "Antarctica"),
    "Cayenne": (-52.33, 4.92, "South America"),
    "Martinique": (-61.05, 14.65, "North America"),
    "Saint-Denis, Reunion": (55.45, -20.88, "Africa"),
    "Bonaire": (-68.27, 12.17, "North America"),
    "Ajaccio": (8.74, 41.93, "Europe"),
    "Anchorage": (-149.9, 61.2, "North America"),
    "Nuuk": (-51.7, 64.18, "North America"),
    "Honolulu": (-157.85, 21.31, "North America"),
    "Panama": (-79.5, 9.0, "North America"),
    "Mauritius": (57.55, -20.28, "Seven seas (open ocean)"),
    "off Lagos": (3.4, 6.0, "Africa"),
    "off Cayenne": (-52.0, 5.3, "South America"),
    "Pacific": (-140.0, -30.0, "none"),
    "north pole": (0.0, 90.0, "none"),
}


@pytest.fixture
def polygons(tmp_path):
    """Two countries in the far north on either side of the antimeridian, and one on the equator."""
    path = tmp_path / "countries.geojson"
    geopandas.GeoDataFrame(
        {"CONTINENT": ["East", "West", "South"]},
        geometry=[shapely.box(170, 70, 180, 80), shapely.box(-175, 70, -160, 80), shapely.box(0, 0, 10, 10)],
        crs="EPSG:4326",
    ).to_file(path)
    return path


def test_places_take_the_continent_they_are_in_or_near(polygons):
    lonlat_deg = np.array([[175, 75], [-170, 75], [5, 5], [0, 0], [10.5, 5], [12, 5], [-179.5, 75], [-175.5, 75]])
    expected = ["East", "West", "South", "South", "South", "none", "East", "West"]
    assert continent_of(lonlat_deg, polygons).tolist() == expected


def test_the_tolerance_is_along_the_great_circle(polygons):
    at_the_equator, in_the_north = np.array([[10.8, 5.0]]), np.array([[168.0, 79.0]])
    assert continent_of(at_the_equator, polygons, tolerance_km=80).tolist() == ["none"]
    assert continent_of(at_the_equator, polygons, tolerance_km=95).tolist() == ["South"]
    assert continent_of(in_the_north, polygons, tolerance_km=35).tolist() == ["none"]
    assert continent_of(in_the_north, polygons, tolerance_km=50).tolist() == ["East"]


def test_a_full_turn_of_longitude_changes_nothing(polygons):
    rng = np.random.default_rng(2)
    lonlat_deg = np.column_stack([np.full(50, 180.0), rng.uniform(60, 90, 50)])
    found = continent_of(lonlat_deg, polygons)
    np.testing.assert_array_equal(found, continent_of(lonlat_deg * [-1, 1], polygons))
    assert set(found) == {"East", "none"}


def test_polygons_in_another_reference_system_are_turned(polygons, tmp_path):
    geopandas.read_file(polygons).to_crs("EPSG:3857").to_file(tmp_path / "mercator.gpkg")
    assert continent_of(np.array([[5.0, 5.0]]), tmp_path / "mercator.gpkg").tolist() == ["South"]


def test_a_zipped_shapefile_serves(polygons, tmp_path):
    folder = tmp_path / "shapefile"
    folder.mkdir()
    countries = geopandas.read_file(polygons).rename(columns={"CONTINENT": "continent"})
    countries.to_file(folder / "ne_110m_admin_0_countries.shp")
    archive = shutil.make_archive(str(tmp_path / "countries"), "zip", folder)
    for given in (folder, Path(archive)):
        assert continent_of(np.array([[5.0, 5.0]]), given).tolist() == ["South"]


def test_no_places_have_no_continents(polygons):
    assert continent_of(np.empty((0, 2)), polygons).shape == (0,)


@pytest.mark.parametrize("lonlat_deg", [np.zeros((3, 3)), np.zeros(2), np.array([[np.nan, 0.0]])])
def test_places_that_are_none_are_refused(polygons, lonlat_deg):
    with pytest.raises(ValueError, match="expected \\(n, 2\\) of finite longitudes and latitudes"):
        continent_of(lonlat_deg, polygons)


def test_countries_that_are_not_there_are_told_with_the_remedy(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(MissingTableError, match=r"natural_earth: no countries .* ask for the download"):
        continent_of(np.zeros((1, 2)))
    with pytest.raises(MissingTableError, match="no countries of Natural Earth there"):
        continent_of(np.zeros((1, 2)), tmp_path / "x.shp")
    with pytest.raises(TableError, match="the download needs a folder"):
        continent_of(np.zeros((1, 2)), tmp_path / "x.shp", download=True)


def test_a_file_without_continents_is_refused(tmp_path):
    path = tmp_path / "x.geojson"
    geopandas.GeoDataFrame({"name": ["a"]}, geometry=[shapely.box(0, 0, 1, 1)], crs="EPSG:4326").to_file(path)
    with pytest.raises(TableError, match="no column 'CONTINENT', found name"):
        continent_of(np.zeros((1, 2)), path)
    path.write_text("no polygons")
    with pytest.raises(TableError, match="cannot be read as polygons"):
        continent_of(np.zeros((1, 2)), path)


@pytest.mark.real_data
def test_known_places_lie_on_their_continents(shared_data):
    lonlat_deg = np.array([place[:2] for place in PLACES.values()])
    found = continent_of(lonlat_deg, shared_data / "natural_earth" / "ne_50m_admin_0_countries")
    assert dict(zip(PLACES, found.tolist(), strict=True)) == {name: place[2] for name, place in PLACES.items()}


@pytest.mark.real_data
def test_the_shared_files_are_those_that_the_download_is_pinned_to(shared_data):
    from pipelines.provenance import file_sha256

    folder = shared_data / "natural_earth" / "ne_50m_admin_0_countries"
    assert {name: file_sha256(folder / name) for name in continents.FILES} == continents.FILES


@pytest.mark.real_data
def test_a_hundred_thousand_places_take_seconds_and_agree_with_polygons_one_by_one(shared_data):
    path = shared_data / "natural_earth" / "ne_50m_admin_0_countries"
    rng = np.random.default_rng(0)
    lonlat_deg = np.column_stack([rng.uniform(-180, 180, 100_000), np.degrees(np.arcsin(rng.uniform(-1, 1, 100_000)))])
    start = time.perf_counter()
    found = continent_of(lonlat_deg, path)
    assert time.perf_counter() - start < 10
    countries = geopandas.read_file(path).query("ADMIN not in ('Russia', 'France', 'Netherlands')")
    for row in range(100):
        holding = countries[countries.contains(shapely.Point(lonlat_deg[row]))]
        assert set(holding["CONTINENT"]) <= {found[row]}
    share_off_land = (found == "none").mean()
    assert 0.55 < share_off_land < 0.70


@pytest.mark.real_data
def test_nearly_all_stations_have_a_continent(shared_data):
    stations = load_task(registered_tasks()["air_temperature"], shared_data)
    found = continent_of(stations.lonlat_deg, shared_data / "natural_earth" / "ne_50m_admin_0_countries")
    names, counts = np.unique(found, return_counts=True)
    assert dict(zip(names.tolist(), counts.tolist(), strict=True))["none"] == 15
    assert {"Africa", "Asia", "Europe", "North America", "Oceania", "South America"} <= set(names)
