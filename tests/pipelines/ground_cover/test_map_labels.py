"""Labels of a published dataset from a catalog, with what can go wrong on the way."""

import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from pipelines.errors import ArtefactError, CatalogError, SceneReadError
from pipelines.ground_cover.classes import read_classes
from pipelines.ground_cover.config import LabelsConfig
from pipelines.ground_cover.grids import PatchGrid
from pipelines.ground_cover.labels import NO_YEAR, labels_table, read_labels, read_labels_record
from pipelines.ground_cover.map_labels import build_labels, labels_folder, latest_labels_folder
from pipelines.ground_cover.map_store import read_maps
from pipelines.patches.dataset import PatchDataset
from pipelines.sampling.tables import read_table
from tests.loopback.cog import CogServer
from tests.loopback.faults import status
from tests.loopback.stub_stac import StubStac
from tests.pipelines.ground_cover.map_files import (
    COLLECTION,
    MapFile,
    code_at,
    expected_codes,
    file_under,
    grid_around,
    map_collection,
    publish_patches,
)

pytestmark = pytest.mark.network
SIZE = 32
CLASSES = replace(read_classes("esa_worldcover"), item_assets=("map",))
CONFIG = LabelsConfig(
    collection=COLLECTION, classes="esa_worldcover", keep_maps=True, num_workers=2, max_attempts=2, backoff_s=0.0
)
PLACES = [(9.1, 48.2, 32632), (12.0, 48.0, 32633), (-180.0, -17.0, 32701), (30.0, 5.0, 32636), (31.0, 6.0, 32636)]
GRIDS: list[PatchGrid | None] = [None, *(grid_around(*place, SIZE) for place in PLACES)]
DATES = ["", "2021-06-01T10:00:00Z", "2022-03-01T10:00:00Z", "2021-02-01T10:00:00Z", "2017-05-05T10:00:00Z", ""]


@dataclass
class Maps:
    server: CogServer
    stub: StubStac
    dataset: PatchDataset

    @property
    def root(self) -> Path:
        return self.dataset.path.parents[1]

    @property
    def catalog(self) -> tuple[str, str, str]:
        return (self.server.stac_url, "none", "auto")

    def add(self, *files: MapFile) -> None:
        for file in files:
            file.write(self.server.folder, CLASSES)
            self.stub.items.append(file.item(self.server.cog_url))


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cog")
    with StubStac(map_collection()) as stub, CogServer(folder, stac_server=stub.url) as server:
        yield server, stub


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return publish_patches(tmp_path_factory.mktemp("workspace"), GRIDS, DATES)


@pytest.fixture
def maps(service, dataset):
    server, stub = service
    server.heal()
    stub.items.clear()
    return Maps(server, stub, dataset)


def _whole(index: int, **options: object) -> MapFile:
    return file_under(GRIDS[index], f"map_{index}_{options.get('year', 2021)}", "EPSG:4326", **options)


def _fractions(codes: NDArray[np.uint8]) -> NDArray[np.float32]:
    return np.array([(codes == code).mean() for code in CLASSES.codes], dtype=np.float32)


def test_every_place_has_a_label_or_a_reason(maps):
    maps.add(_whole(1), _whole(2), _whole(3), _whole(4))
    folder = build_labels(maps.root, maps.dataset, CONFIG, maps.catalog)
    labels = read_labels(folder, maps.dataset.version, CLASSES)
    assert labels.status == ("no_patch", "valid", "valid", "valid", "other_year", "no_label_item")
    np.testing.assert_array_equal(labels.rows, maps.dataset.places["row"])
    np.testing.assert_array_equal(labels.label_year, [NO_YEAR, 2021, 2021, 2021, 2021, NO_YEAR])
    for index in (1, 2, 3):
        expected = expected_codes(GRIDS[index], "EPSG:4326", CLASSES)
        np.testing.assert_array_equal(labels.fractions[index], _fractions(expected))
        np.testing.assert_array_equal(read_maps(folder, slice(index, index + 1))[0], expected)
        assert labels.num_valid_pixels[index] == SIZE * SIZE
    assert not labels.fractions[[0, 4, 5]].any()
    assert latest_labels_folder(maps.root, maps.dataset.version) == folder
    record = read_labels_record(folder)
    assert record["dataset_content_sha256"] == maps.dataset.record.content_sha256
    assert record["statuses"] == {"valid": 3, "no_patch": 1, "other_year": 1, "no_label_item": 1}
    apart = read_table(folder / "labels.parquet", "ground_cover_labels")["years_apart"]
    assert apart[1] == 0.0
    assert apart[2] == pytest.approx(60.4 / 365.25, abs=0.01)
    assert apart[4] == pytest.approx(3.66, abs=0.01)


def test_the_year_nearest_to_the_date_is_taken_and_a_gap_gives_way_to_the_next(maps):
    config = CONFIG.model_copy(update={"keep_maps": False, "max_years_apart": 4.0})
    hole = [(slice(None), slice(None), 0)]
    maps.add(_whole(1, year=2020), _whole(1, year=2021), _whole(1, year=2022))
    maps.add(_whole(2, year=2020), _whole(2, year=2022, holes=hole))
    maps.add(_whole(4, year=2020), _whole(4, year=2022), _whole(5, year=2021), _whole(5, year=2020))
    labels = read_labels(build_labels(maps.root, maps.dataset, config, maps.catalog))
    np.testing.assert_array_equal(labels.label_year[[1, 2, 4, 5]], [2021, 2020, 2020, 2021])
    assert labels.status[1:3] == labels.status[4:6] == ("valid", "valid")


def test_too_few_or_unknown_pixels_are_told_apart_and_nothing_is_lost(maps):
    config = CONFIG.model_copy(update={"minimum_valid_fraction": 0.6})
    half = [(slice(None), slice(0, 50), 0)]
    unknown = [(slice(0, 30), slice(None), 77)]
    only_one = [(slice(None), slice(None), 80)]
    maps.add(_whole(1, holes=half), _whole(2, holes=unknown), _whole(3, holes=only_one), _whole(5))
    (maps.server.folder / "map_5_2021.tif").unlink()
    folder = build_labels(maps.root, maps.dataset, config, maps.catalog)
    labels = read_labels(folder)
    assert labels.status == ("no_patch", "nodata", "unknown_codes", "valid", "no_label_item", "unreadable")
    assert 0 < labels.num_valid_pixels[1] < 0.6 * SIZE * SIZE
    assert labels.fractions[1].sum() == pytest.approx(1.0, abs=1e-6)
    np.testing.assert_array_equal(labels.fractions[3], _fractions(np.full((SIZE, SIZE), 80)))
    assert labels.dominant_code.tolist() == [-1, -1, -1, 80, -1, -1]
    record = read_labels_record(folder)
    assert list(record["unknown_codes"]) == ["77"]
    assert record["unknown_codes"]["77"] > 100
    assert record["failures"] == {"missing_file:map": 1}
    assert 77 in read_maps(folder, slice(2, 3))


def test_a_server_that_falters_fails_its_shard_and_the_next_run_goes_on(maps):
    config = CONFIG.model_copy(update={"maximum_unknown_fraction": 0.5})
    maps.add(_whole(1), _whole(2), _whole(3), _whole(5))
    maps.server.script("*map_3_2021*", status(503, times=None))
    with pytest.raises(SceneReadError, match="1 of 3 shards have no labels yet"):
        build_labels(maps.root, maps.dataset, config, maps.catalog)
    folder = labels_folder(
        maps.root, maps.dataset.version, config.fingerprint(CLASSES.sha256, maps.dataset.record.content_sha256)
    )
    assert sorted(each.name for each in (folder / "shards").glob("*.parquet")) == ["00000.parquet", "00002.parquet"]
    with pytest.raises(ArtefactError, match="materialize ground_cover_labels first"):
        read_labels(folder)
    maps.server.heal()
    maps.server.forget_requests()
    maps.server.script("*map_3_2021*", status(503, times=1))
    assert build_labels(maps.root, maps.dataset, config, maps.catalog) == folder
    assert maps.server.count("*map_1_2021*") == 0
    assert maps.server.count("*map_3_2021*") > 0
    first = labels_table(read_labels(folder))
    maps.server.forget_requests()
    build_labels(maps.root, maps.dataset, config, maps.catalog)
    assert not maps.server.requests
    assert labels_table(read_labels(folder)).equals(first)


def test_a_collection_without_a_map_says_what_was_found(maps):
    file = _whole(1)
    maps.stub.items.append(file.item(maps.server.cog_url) | {"assets": {"thumbnail": {"href": "x.png"}}})
    foreign = file.item("http://elsewhere.example")
    maps.stub.items.append(foreign | {"id": "foreign"})
    config = CONFIG.model_copy(update={"minimum_valid_fraction": 0.7})
    with pytest.raises(CatalogError, match=r"no usable item.*no_map_asset.*expected a map of ground cover"):
        build_labels(maps.root, maps.dataset, config, maps.catalog)
    with pytest.raises(CatalogError, match="not found"):
        build_labels(maps.root, maps.dataset, config.model_copy(update={"collection": "other"}), maps.catalog)


def test_secrets_and_ports_stay_out_of_the_record(maps):
    maps.add(_whole(1))
    folder = build_labels(maps.root, maps.dataset, CONFIG.model_copy(update={"max_years_apart": 2.0}), maps.catalog)
    items = read_table(folder / "map_items.parquet", "ground_cover_labels")
    assert items["href"].tolist() == ["catalog:/cog/map_1_2021.tif"]
    assert "127.0.0.1" not in json.dumps(read_labels_record(folder))


def test_no_two_neighbours_of_the_constructed_map_are_alike():
    cols, rows = np.meshgrid(np.arange(22), np.arange(22))
    codes = code_at(cols, rows, CLASSES)
    assert (codes[1:] != codes[:-1]).all()
    assert (codes[:, 1:] != codes[:, :-1]).all()
