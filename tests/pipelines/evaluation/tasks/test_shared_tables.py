"""Every registered task whose table is shared, against what the standard library counts in the same file."""

import csv
import gzip
import hashlib
import io
import zipfile
from collections import Counter

import numpy as np
import pytest

from pipelines.evaluation.tasks import load_task, registered_tasks

pytestmark = pytest.mark.real_data

STATIONS = "air_temperature/stationDataAll.csv"
AIRPORTS = "openflights_airports/airports.dat"
CITIES = "geonames_cities15000/cities15000.zip"
HOUSING = "california_housing/housing.csv"
CLIMATE = "koppen_geiger_halfdeg/Koeppen-Geiger-ASCII.txt.gz"
EUROSAT = "eurosat_rgb_geo_dev/locations.csv"
BIGEARTHNET = "bigearthnet_labels_dev/labels.csv.gz"

NUM_ROWS = {
    STATIONS: 3076,
    AIRPORTS: 7698,
    CITIES: 32847,
    HOUSING: 20640,
    CLIMATE: 91828,
    EUROSAT: 18590,
    BIGEARTHNET: 12000,
}

# task: file, longitude, latitude, target; by name where the file has a header, else by position
NUMBERS = {
    "air_temperature": (STATIONS, "Lon", "Lat", "meanT"),
    "precipitation": (STATIONS, "Lon", "Lat", "meanP"),
    "airport_altitude": (AIRPORTS, 7, 6, 8),
    "city_elevation": (CITIES, 5, 4, 16),
    "city_population": (CITIES, 5, 4, 14),
    "california_house_value": (HOUSING, "longitude", "latitude", "median_house_value"),
    "california_income": (HOUSING, "longitude", "latitude", "median_income"),
}
CLASSES = {
    "airport_country": (AIRPORTS, 7, 6, 3),
    "city_country": (CITIES, 5, 4, 8),
    "climate_zone": (CLIMATE, 1, 0, 2),
    "eurosat_land_cover": (EUROSAT, "longitude", "latitude", "class_name"),
    "bigearthnet_country": (BIGEARTHNET, "lon", "lat", "country"),
}


def rows_of(path):
    content = path.read_bytes()
    if path.suffix == ".gz":
        content = gzip.decompress(content)
    if path.suffix == ".zip":
        content = zipfile.ZipFile(path).read("cities15000.txt")
    text = content.decode()
    if path.suffix == ".zip":
        return [line.split("\t") for line in text.splitlines()]
    if path.name.startswith("Koeppen"):
        return [line.split() for line in text.splitlines()]
    return list((csv.reader if path.suffix == ".dat" else csv.DictReader)(io.StringIO(text)))


def counted(shared_data, file, lon, lat, target):
    rows = rows_of(shared_data / file)
    lonlat_deg = np.array([(float(row[lon]), float(row[lat])) for row in rows])
    return lonlat_deg, [row[target] for row in rows]


def require_table(data, shared_data, file):
    assert data.rows == NUM_ROWS[file]
    assert data.table_sha256 == hashlib.sha256((shared_data / file).read_bytes()).hexdigest()
    if data.config.download is not None:
        assert data.config.download.sha256 == data.table_sha256


def test_every_registered_task_with_a_shared_table_is_counted_here(shared_data):
    shared = {name for name, task in registered_tasks().items() if (shared_data / task.table).is_file()}
    assert shared == {*NUMBERS, *CLASSES, "bigearthnet_land_cover"}


@pytest.mark.parametrize("name", NUMBERS)
def test_numbers_are_those_of_the_file(shared_data, name):
    lonlat_deg, texts = counted(shared_data, *NUMBERS[name])
    data = load_task(registered_tasks()[name], shared_data)
    numbers = np.array([float(text) for text in texts])
    kept = numbers != -9999 if name == "city_elevation" else np.ones(len(numbers), dtype=bool)
    dropped = {"dem is -9999": 50} if name == "city_elevation" else {}
    require_table(data, shared_data, NUMBERS[name][0])
    assert data.num_dropped == dropped | {"no coordinates": 0, "no target": 0}
    np.testing.assert_allclose(data.lonlat_deg, lonlat_deg[kept], rtol=0, atol=1e-12)
    expected = np.log1p(numbers[kept]) if data.config.transform == "log1p" else numbers[kept]
    np.testing.assert_allclose(data.target, expected, rtol=1e-14)
    assert data.num_repeated == kept.sum() - len({tuple(place) for place in lonlat_deg[kept].tolist()})


@pytest.mark.parametrize("name", CLASSES)
def test_classes_are_those_of_the_file(shared_data, name):
    lonlat_deg, labels = counted(shared_data, *CLASSES[name])
    data = load_task(registered_tasks()[name], shared_data)
    counts = Counter(labels)
    require_table(data, shared_data, CLASSES[name][0])
    assert data.num_dropped == {"no coordinates": 0, "no target": 0}
    assert data.classes == tuple(sorted(counts))
    assert dict(zip(data.classes, np.bincount(data.target).tolist(), strict=True)) == counts
    assert [data.classes[code] for code in data.target] == labels
    assert set(data.single_classes) == {label for label, count in counts.items() if count == 1}
    np.testing.assert_allclose(data.lonlat_deg, lonlat_deg, rtol=0, atol=1e-12)


def test_the_ranges_are_those_known_of_the_tables(shared_data):
    registry = registered_tasks()
    assert len(load_task(registry["airport_country"], shared_data).classes) == 237
    countries = load_task(registry["city_country"], shared_data)
    assert len(countries.classes) == 244
    assert (countries.target == countries.classes.index("NA")).sum() == 18  # Namibia
    assert len(load_task(registry["climate_zone"], shared_data).classes) == 31
    values = load_task(registry["california_house_value"], shared_data).target
    assert (values.min(), values.max()) == (14_999, 500_001)


def test_labels_are_those_of_the_file(shared_data):
    lonlat_deg, texts = counted(shared_data, BIGEARTHNET, "lon", "lat", "labels")
    data = load_task(registered_tasks()["bigearthnet_land_cover"], shared_data)
    counts = Counter(label for text in texts for label in text.split("|"))
    require_table(data, shared_data, BIGEARTHNET)
    assert data.classes == tuple(sorted(counts))
    assert data.target.shape == (12_000, 19)
    assert data.target.dtype == np.bool_
    assert dict(zip(data.classes, data.target.sum(axis=0).tolist(), strict=True)) == counts
    for row in (0, 7, 11_999):
        assert [data.classes[index] for index in np.flatnonzero(data.target[row])] == sorted(texts[row].split("|"))
    np.testing.assert_allclose(data.lonlat_deg, lonlat_deg, rtol=0, atol=1e-12)


def test_a_capped_table_keeps_every_block(shared_data):
    task = registered_tasks()["climate_zone"]
    whole, capped = load_task(task, shared_data), load_task(task, shared_data, max_rows=20_000)

    def blocks(data):
        return {tuple(cell) for cell in np.floor((data.lonlat_deg + np.array([180, 90])) / 10).tolist()}

    assert capped.num_places == 20_000
    assert blocks(capped) == blocks(whole)
