"""Search, plan and read against a STAC API and a range server on loopback; every pixel carries its coordinates."""

import json
import logging
import os
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pipelines.errors import (
    CatalogError,
    ConfigurationError,
    DatasetError,
    SceneContentError,
    SceneReadError,
    StoreError,
)
from pipelines.patches.config import PatchConfig
from pipelines.patches.dataset import open_patch_dataset
from pipelines.patches.publication import publish_dataset
from pipelines.patches.read import Grid, PatchWindow, WindowReader
from pipelines.patches.shards import ShardReport, ShardTask, run_shard_task
from pipelines.patches.store import dataset_folder, read_store
from pipelines.sampling.catalog import open_catalog
from pipelines.sampling.config import PlanConfig, SearchConfig
from pipelines.sampling.manifest import SamplingManifest, read_sampling_manifest, write_sampling_manifest
from pipelines.sampling.scenes import find_scenes
from tests.loopback.cog import CogServer
from tests.loopback.coordinate_scene import CoordinateScene, SclBlock, collection
from tests.loopback.faults import reset, slow, status, truncate
from tests.loopback.stac import PgstacServer
from tests.loopback.stub_stac import StubStac

NORTH = CoordinateScene(epsg=32632, x_ul_m=399960, y_ul_m=5300040, mgrs_tile="32TLT", scene_number=0)
SOUTH = CoordinateScene(epsg=32722, x_ul_m=600000, y_ul_m=7400020, mgrs_tile="22KFU", scene_number=1)
LATER = replace(NORTH, acquired=datetime(2022, 8, 1, 10, 20, 31, tzinfo=UTC), scene_number=2, cloud_cover_percent=9.0)
QUICK = PatchConfig(max_attempts=3, backoff_s=0.0, num_workers=2)
EITHER_READER = pytest.mark.parametrize("planet", ["auto", "rasterio"], indirect=True)


class Planet:
    """A STAC API and its files behind one origin, and the chain run on them."""

    def __init__(self, server: CogServer, stub: StubStac, root: Path, reader: str = "auto") -> None:
        self.server, self.stub, self.root, self.reader = server, stub, root, reader

    def add(self, *scenes: CoordinateScene) -> None:
        for scene in scenes:
            scene.write(self.server.folder)
            self.stub.items.append(scene.item(self.server.cog_url))

    def plan(self, places: list[tuple[float, float]], **settings: object) -> SamplingManifest:
        table = pd.DataFrame(places, columns=["lon_deg", "lat_deg"])
        table.insert(0, "place_id", range(len(table)))
        search = SearchConfig()
        scenes, self.search_report = find_scenes(table, open_catalog(self.server.stac_url, search.collection), search)
        parents = {"search_config": search.model_dump()}
        return write_sampling_manifest(self.root / "sampling", table, scenes, PlanConfig(**settings), parents)

    def build(self, config: PatchConfig = QUICK) -> ShardReport:
        plan = read_sampling_manifest(self.root / "sampling").folder
        config = config.model_copy(update={"reader": self.reader})
        return run_shard_task(ShardTask(self.root, plan, 0, self.server.stac_url, "auto", config))

    def rows(self, manifest: SamplingManifest) -> pd.DataFrame:
        return read_store(dataset_folder(self.root, manifest.plan_id)).read_sidecar(0)

    def pixels(self, manifest: SamplingManifest) -> np.ndarray:
        return read_store(dataset_folder(self.root, manifest.plan_id)).read_shard(0)


@pytest.fixture
def planet(token_endpoint: CogServer, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Planet]:
    with StubStac(collection()) as stub:
        token_endpoint.hand_on_to(stub.url)
        yield Planet(token_endpoint, stub, tmp_path / "workspace", getattr(request, "param", "auto"))


@pytest.mark.parametrize("scene", [NORTH, SOUTH], ids=["north", "south"])
def test_patches_hold_their_own_coordinates(planet: Planet, scene: CoordinateScene) -> None:
    planet.add(scene)
    places = [scene.lonlat_at(row + 0.25, col + 0.25) for row, col in [(500, 700), (341, 203), (5, 1090), (1097, 0)]]
    manifest = planet.plan(places)
    report = planet.build()
    rows, pixels = planet.rows(manifest), planet.pixels(manifest)
    assert report.num_valid == 4
    for index, row in rows.iterrows():
        np.testing.assert_array_equal(pixels[index], scene.expected_patch(row.row_px, row.col_px))
        at_row, at_col = scene.pixel_at(*places[index])
        assert 0 <= at_row - row.row_px < 256
        assert 0 <= at_col - row.col_px < 256
        centre = scene.lonlat_at(row.row_px + 128, row.col_px + 128)
        assert (row.lon_deg, row.lat_deg) == pytest.approx(centre, abs=1e-9)
        assert (row.x_ul_m, row.y_ul_m) == (scene.x_ul_m + 10 * row.col_px, scene.y_ul_m - 10 * row.row_px)
    assert rows.loc[0, ["row_px", "col_px"]].tolist() == [500 - 128, 700 - 128]


def test_a_cloudy_window_gives_way_to_the_next_candidate(planet: Planet) -> None:
    cloudy = replace(NORTH, scl_blocks=[SclBlock(200, 200, 100, 100, 9)])
    planet.add(cloudy, LATER)
    manifest = planet.plan([NORTH.lonlat_at(500, 500), NORTH.lonlat_at(150, 900)])
    planet.build()
    rows = planet.rows(manifest)
    assert rows["item_id"].tolist() == [LATER.item_id, NORTH.item_id]
    assert json.loads(rows.loc[0, "rejections"]) == [[NORTH.item_id, "unclear"]]
    np.testing.assert_array_equal(
        planet.pixels(manifest)[0], LATER.expected_patch(rows.loc[0, "row_px"], rows.loc[0, "col_px"])
    )


def test_requests_for_rejected_scenes_are_counted_apart(planet: Planet) -> None:
    planet.add(replace(NORTH, scl_blocks=[SclBlock(200, 200, 100, 100, 9)]), LATER)
    planet.plan([NORTH.lonlat_at(500, 500)])
    planet.server.forget_requests()
    report = planet.build()
    asked = [each for each in planet.server.requests if each.path.startswith("/cog/")]
    refused = sum(NORTH.item_id in each.path for each in asked)
    assert (report.num_requests_rejected, report.num_requests) == (refused, len(asked) - refused)
    assert refused <= 2
    assert 0 < report.num_bytes_rejected < report.num_bytes
    assert (report.num_reads, report.num_retries) == (14, 0)


def test_a_place_that_cannot_be_read_ends_the_others_at_once(planet: Planet) -> None:
    planet.add(NORTH, SOUTH)
    manifest = planet.plan([NORTH.lonlat_at(500, 500), SOUTH.lonlat_at(300, 800)])
    planet.server.script(f"*{NORTH.file_name('B05')}", status(503, times=None))
    planet.server.script(f"*{SOUTH.file_name('B05')}", slow(60.0, times=None))
    begun = time.monotonic()
    with pytest.raises(SceneReadError, match="B05 could not be read"):
        planet.build()
    assert time.monotonic() - begun < 30
    assert not read_store(dataset_folder(planet.root, manifest.plan_id)).is_done(0)


def test_an_interrupt_ends_the_build_and_leaves_no_thread(planet: Planet) -> None:
    planet.add(NORTH)
    manifest = planet.plan([NORTH.lonlat_at(500, 500)])
    planet.server.script("*_B05_*", slow(5.0, times=None))
    before = set(threading.enumerate())
    interrupt = threading.Timer(1.5, os.kill, (os.getpid(), signal.SIGINT))
    interrupt.start()
    begun = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        planet.build()
    interrupt.join()
    assert time.monotonic() - begun < 5
    # zarr keeps daemon threads of its own.
    assert {each for each in threading.enumerate() if not each.daemon} <= before
    assert not read_store(dataset_folder(planet.root, manifest.plan_id)).is_done(0)


def test_snow_is_allowed_and_counted(planet: Planet) -> None:
    planet.add(replace(NORTH, background_class=11))
    manifest = planet.plan([NORTH.lonlat_at(500, 500)])
    planet.build()
    row = planet.rows(manifest).loc[0]
    assert row.valid
    assert (row.snow_fraction, row.unclear_fraction, row.nodata_fraction) == (1.0, 0.0, 0.0)


def test_an_exhausted_place_stays_as_a_row_with_its_reason(planet: Planet) -> None:
    planet.add(replace(NORTH, scl_blocks=[SclBlock(200, 200, 100, 100, 9)]), replace(LATER, background_class=0))
    manifest = planet.plan([NORTH.lonlat_at(500, 500), NORTH.lonlat_at(150, 900), (100.0, 0.0)])
    report = planet.build()
    rows = planet.rows(manifest)
    assert rows["valid"].tolist() == [False, True, False]
    assert rows["reason"].tolist() == ["exhausted", "", "no_candidate"]
    assert report.rejections == {"nodata": 1, "unclear": 1}
    assert not planet.pixels(manifest)[[0, 2]].any()


@EITHER_READER
@pytest.mark.parametrize(
    "fault", [status(503, times=2), status(429, times=2), reset(times=2)], ids=["503", "429", "cut"]
)
def test_a_transient_fault_never_changes_the_choice(planet: Planet, fault: object) -> None:
    planet.add(NORTH, LATER)
    manifest = planet.plan([NORTH.lonlat_at(500, 500)])
    planet.server.script("*_B05_*", fault)
    planet.build()
    row = planet.rows(manifest).loc[0]
    assert row.item_id == NORTH.item_id
    assert row.rejections == "[]"


@EITHER_READER
def test_a_lasting_fault_fails_the_shard_and_the_next_run_makes_the_same_choice(planet: Planet) -> None:
    planet.add(NORTH, LATER)
    manifest = planet.plan([NORTH.lonlat_at(500, 500)])
    planet.server.script("*_B05_*", status(503, times=None))
    with pytest.raises(
        SceneReadError, match=r"B05 could not be read in 3 attempts \(server status 503\).*shards are kept"
    ):
        planet.build()
    assert not read_store(dataset_folder(planet.root, manifest.plan_id)).is_done(0)
    planet.server.heal()
    planet.build()
    assert planet.rows(manifest).loc[0, "item_id"] == NORTH.item_id


@EITHER_READER
def test_a_missing_file_is_a_verdict(planet: Planet) -> None:
    planet.add(NORTH, LATER)
    (planet.server.folder / NORTH.file_name("B8A")).unlink()
    manifest = planet.plan([NORTH.lonlat_at(500, 500)])
    planet.build()
    row = planet.rows(manifest).loc[0]
    assert row.item_id == LATER.item_id
    assert json.loads(row.rejections) == [[NORTH.item_id, "missing_file:B8A"]]


@EITHER_READER
def test_a_truncated_file_is_a_verdict(planet: Planet) -> None:
    planet.add(NORTH, LATER)
    manifest = planet.plan([NORTH.lonlat_at(900, 900)])
    planet.server.script(f"*{NORTH.file_name('B04')}", truncate(200_000))
    planet.build()
    row = planet.rows(manifest).loc[0]
    assert row.item_id == LATER.item_id
    assert json.loads(row.rejections) == [[NORTH.item_id, "unreadable:B04"]]


def test_a_server_that_fails_on_the_bytes_themselves_gives_no_verdict(planet: Planet) -> None:
    """One byte is answered, the window's tiles are not: a fault of the server, however often it is repeated."""
    planet.add(NORTH, LATER)
    manifest = planet.plan([NORTH.lonlat_at(900, 900)])
    path = planet.server.folder / NORTH.file_name("B04")
    content = path.read_bytes()
    path.write_bytes(content[:40_000] + bytes(len(content) - 40_000))
    reader = WindowReader(open_catalog(planet.server.stac_url, "sentinel-2-l2a"), max_attempts=2, backoff_s=0.0)
    row = manifest.candidates.iloc[0]
    grid = Grid(NORTH.epsg, NORTH.x_ul_m, NORTH.y_ul_m, 1098, 1098, 10.0)
    window = PatchWindow(int(row.row_px), int(row.col_px), 256)
    href = planet.server.cog_url + "/" + NORTH.file_name("B04")
    with pytest.raises(SceneContentError, match="truncated or damaged"):
        reader.read_band(href, "B04", grid, window)
    answered = reader._probe
    planet.server.script("*_B04_*", status(503, times=None))
    reader._probe = lambda _: 206
    with pytest.raises(SceneReadError, match="could not be read in 2 attempts"):
        reader.read_band(href, "B04", grid, window)
    assert answered(href) == 503


@EITHER_READER
def test_an_item_that_lies_about_its_grid_is_a_verdict(planet: Planet) -> None:
    planet.add(NORTH, LATER)
    for asset in planet.stub.items[0]["assets"].values():
        asset["proj:shape"] = [10980, 10980]
    manifest = planet.plan([NORTH.lonlat_at(500, 500)])
    planet.build()
    row = planet.rows(manifest).loc[0]
    assert json.loads(row.rejections) == [[NORTH.item_id, "grid_mismatch:SCL"]]


def test_an_item_without_a_band_is_left_out_and_counted(planet: Planet, caplog: pytest.LogCaptureFixture) -> None:
    lacking = replace(NORTH, left_out=frozenset({"B11"}))
    planet.add(lacking, LATER)
    manifest = planet.plan([NORTH.lonlat_at(500, 500)])
    assert manifest.candidates["item_id"].tolist() == [LATER.item_id]
    assert planet.search_report.unusable_items == {"missing_band:B11": 1}
    assert f"item '{lacking.item_id}' cannot serve: missing_band:B11" in caplog.text


def test_only_the_highest_baseline_of_an_acquisition_is_a_candidate(planet: Planet) -> None:
    reprocessed = replace(NORTH, processing_baseline="05.10", processed=datetime(2023, 3, 1, tzinfo=UTC))
    planet.add(reprocessed, NORTH)
    manifest = planet.plan([NORTH.lonlat_at(500, 500)])
    assert manifest.candidates["item_id"].tolist() == [reprocessed.item_id]
    assert planet.search_report.num_duplicates == 1


@pytest.mark.parametrize(("baseline", "offset"), [("02.14", 0), ("03.01", 0), ("04.00", -1000), ("05.10", -1000)])
def test_the_offset_follows_the_baseline_and_not_the_date(planet: Planet, baseline: str, offset: int) -> None:
    planet.add(replace(NORTH, processing_baseline=baseline))
    manifest = planet.plan([NORTH.lonlat_at(500, 500)])
    planet.build()
    row = planet.rows(manifest).loc[0]
    assert (row.boa_add_offset, row.offset_source, row.processing_baseline) == (offset, "processing_baseline", baseline)


@EITHER_READER
def test_tokens_are_fetched_late_renewed_once_and_never_written(
    planet: Planet, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    planet.add(NORTH)
    manifest = planet.plan([NORTH.lonlat_at(500, 500)])
    assert planet.server.signatures == []
    open_catalog(planet.server.stac_url, "sentinel-2-l2a").signer.sign("http://127.0.0.1/any")
    planet.server.revoke_tokens()
    planet.build()
    publish_dataset(planet.root, manifest.plan_id, source="test")
    signatures = planet.server.signatures
    assert len(signatures) == 2
    assert planet.server.count("*_SCL_*", status=403) > 0
    written = b"".join(path.read_bytes() for path in planet.root.rglob("*") if path.is_file())
    for signature in signatures:
        assert signature.encode() not in written
        assert signature not in caplog.text
    assert b"sig=" not in written
    assert "sig=" not in caplog.text.replace("sig=...", "")


@EITHER_READER
def test_a_renewed_token_costs_no_attempt(planet: Planet) -> None:
    planet.add(NORTH)
    manifest = planet.plan([NORTH.lonlat_at(500, 500)])
    open_catalog(planet.server.stac_url, "sentinel-2-l2a").signer.sign("http://127.0.0.1/any")
    planet.server.revoke_tokens()
    planet.build(PatchConfig(max_attempts=1, backoff_s=0.0, num_workers=1, band_workers=1))
    assert planet.rows(manifest).loc[0, "valid"]


@EITHER_READER
def test_access_that_stays_denied_is_told_and_is_no_verdict(planet: Planet) -> None:
    planet.add(NORTH, LATER)
    planet.plan([NORTH.lonlat_at(500, 500)])
    planet.server.script("*_SCL_*", status(403, times=None))
    with pytest.raises(SceneReadError, match=r"access denied \(403\) with a fresh token.*check the signing setting"):
        planet.build()


def test_two_runs_on_two_ports_give_the_same_manifest_and_the_same_bytes(planet: Planet, tmp_path: Path) -> None:
    planet.add(NORTH, SOUTH, LATER)
    places = [NORTH.lonlat_at(500, 500), SOUTH.lonlat_at(300, 800), (5.0, 5.0)]
    first = planet.plan(places)
    planet.build()
    with CogServer(planet.server.folder, stac_server=planet.stub.url) as other:
        text = json.dumps(planet.stub.items).replace(planet.server.url, other.url)
        planet.stub.items[:] = json.loads(text)
        again = Planet(other, planet.stub, tmp_path / "again")
        second = again.plan(places)
        again.build()
    plans = [{path.name: path.read_bytes() for path in plan.folder.iterdir()} for plan in (first, second)]
    assert plans[0] == plans[1]
    assert not any(b"127.0.0.1" in content for content in plans[0].values())
    folders = [dataset_folder(each.root, first.plan_id) for each in (planet, again)]
    assert first.plan_id == second.plan_id
    files = [sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file()) for folder in folders]
    assert files[0] == files[1]
    for name in files[0]:
        assert (folders[0] / name).read_bytes() == (folders[1] / name).read_bytes(), name


def test_a_finished_shard_is_skipped_without_a_request(planet: Planet) -> None:
    planet.add(NORTH)
    planet.plan([NORTH.lonlat_at(500, 500)])
    planet.build()
    planet.server.forget_requests()
    report = planet.build()
    assert report.skipped
    assert report.num_valid == 1
    assert not planet.server.requests


def test_a_published_dataset_is_what_was_read(planet: Planet) -> None:
    planet.add(NORTH, SOUTH)
    manifest = planet.plan([NORTH.lonlat_at(500, 500), SOUTH.lonlat_at(300, 800)])
    planet.build()
    record = publish_dataset(planet.root, manifest.plan_id, source="test")
    assert record.passed
    dataset = open_patch_dataset(planet.root)
    assert dataset.version == manifest.plan_id
    row = dataset.places.loc[1]
    np.testing.assert_array_equal(dataset.read_dn(1), SOUTH.expected_patch(row.row_px, row.col_px))
    expected = np.stack([dataset.read_dn(i)[3] for i in range(2)]).astype(np.float64)
    means = {each.band: each.mean for each in record.statistics}
    assert means["B04"] == pytest.approx(np.maximum(expected - 1000, 0).mean() / 10_000, rel=1e-5)


def test_training_refuses_changed_pixels_and_missing_shards(planet: Planet) -> None:
    planet.add(NORTH)
    manifest = planet.plan([NORTH.lonlat_at(500, 500)])
    planet.build()
    store = read_store(dataset_folder(planet.root, manifest.plan_id))
    store.image[0, 3, 17, 19] = 4242
    record = publish_dataset(planet.root, manifest.plan_id, source="test")
    assert record.problems == ("shard 0: pixels of rows [0] differ from their record",)
    with pytest.raises(DatasetError, match="no dataset published"):
        open_patch_dataset(planet.root)
    with pytest.raises(DatasetError, match=r"did not pass its checks: shard 0"):
        open_patch_dataset(planet.root, manifest.plan_id)
    assert not planet.build().skipped
    assert publish_dataset(planet.root, manifest.plan_id, source="test").passed
    row = planet.rows(manifest).loc[0]
    np.testing.assert_array_equal(
        open_patch_dataset(planet.root).read_dn(0), NORTH.expected_patch(row.row_px, row.col_px)
    )


def test_a_shard_built_under_other_settings_is_not_taken_for_done(planet: Planet) -> None:
    planet.add(NORTH)
    planet.plan([NORTH.lonlat_at(500, 500)])
    planet.build()
    stricter = QUICK.model_copy(update={"max_unclear_fraction": 0.0})
    with pytest.raises(StoreError, match=r"was built with .*0.01.*, expected .*'max_unclear_fraction': 0.0"):
        planet.build(stricter)


def test_candidates_that_change_no_row_leave_the_plan_as_it_was(planet: Planet) -> None:
    planet.add(NORTH)
    place = NORTH.lonlat_at(500, 500)
    first = planet.plan([place], max_candidates=1)
    planet.add(LATER)
    assert planet.plan([place], max_candidates=1).plan_id == first.plan_id
    assert planet.plan([place], max_candidates=2).plan_id != first.plan_id


def test_a_flipped_bit_in_the_store_is_found(planet: Planet) -> None:
    planet.add(NORTH)
    manifest = planet.plan([NORTH.lonlat_at(500, 500)])
    planet.build()
    shard = next((dataset_folder(planet.root, manifest.plan_id) / "patches.zarr" / "image" / "c").rglob("0"))
    while shard.is_dir():
        shard = next(shard.iterdir())
    content = bytearray(shard.read_bytes())
    content[len(content) // 3] ^= 4
    shard.write_bytes(bytes(content))
    record = publish_dataset(planet.root, manifest.plan_id, source="test")
    assert not record.passed
    assert record.problems == ("shard 0: pixels of rows [0] differ from their record",)


def test_sidecar_of_another_plan_is_refused(planet: Planet) -> None:
    planet.add(NORTH)
    first = planet.plan([NORTH.lonlat_at(500, 500)])
    planet.build()
    second = planet.plan([NORTH.lonlat_at(600, 500)])
    folder = dataset_folder(planet.root, second.plan_id) / "shards"
    folder.mkdir(parents=True)
    sidecar = dataset_folder(planet.root, first.plan_id) / "shards" / "00000.parquet"
    (folder / "00000.parquet").write_bytes(sidecar.read_bytes())
    with pytest.raises(StoreError, match=f"of plan {first.plan_id}, expected 1 rows of plan {second.plan_id}"):
        planet.build()


def test_coarse_scenes_must_be_allowed(planet: Planet) -> None:
    coarse = CoordinateScene(epsg=32632, x_ul_m=399960, y_ul_m=5300040, mgrs_tile="32TLT", coarsening=10)
    planet.add(coarse)
    place = coarse.lonlat_at(500, 500)
    with pytest.raises(ConfigurationError, match=r"resolution of 100 m, expected one of \[10.0\] m; add it to allowed"):
        planet.plan([place])
    manifest = planet.plan([place], allowed_resolutions_m=[100.0])
    planet.build()
    row = planet.rows(manifest).loc[0]
    assert row.resolution_m == 100.0
    np.testing.assert_array_equal(planet.pixels(manifest)[0], coarse.expected_patch(row.row_px, row.col_px))


def test_scenes_across_the_antimeridian_serve_places_on_both_sides(planet: Planet) -> None:
    scene = CoordinateScene(epsg=32701, x_ul_m=199980, y_ul_m=7900060, mgrs_tile="01KAB")
    west_edge = replace(scene, x_ul_m=171_000.0)
    planet.add(west_edge)
    places = [west_edge.lonlat_at(400, 100), west_edge.lonlat_at(400, 1000)]
    manifest = planet.plan(places)
    planet.build()
    rows = planet.rows(manifest)
    assert rows["valid"].all()
    for index, row in rows.iterrows():
        np.testing.assert_array_equal(planet.pixels(manifest)[index], west_edge.expected_patch(row.row_px, row.col_px))


def test_a_catalog_without_a_usable_item_says_why(planet: Planet) -> None:
    planet.add(replace(NORTH, left_out=frozenset({"B02"})))
    with pytest.raises(CatalogError, match=r"none can serve a place \(unusable: \{'missing_band:B02': 1\}"):
        planet.plan([NORTH.lonlat_at(500, 500)])


def test_an_empty_search_says_what_to_change(planet: Planet) -> None:
    with pytest.raises(CatalogError, match=r"no scene of sentinel-2-l2a from 2021-01-01 .* widen the dates or raise"):
        planet.plan([(10.0, 50.0)])


@pytest.mark.postgres
def test_the_chain_runs_on_the_server_that_the_planetary_computer_runs(
    planet: Planet, pgstac: PgstacServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    overcast = replace(NORTH, relative_orbit=22, cloud_cover_percent=80.0)
    planet.add(NORTH, SOUTH, overcast)
    pgstac.load(collection(), planet.stub.items)
    planet.server.hand_on_to(pgstac.url)
    manifest = planet.plan([NORTH.lonlat_at(500, 500), SOUTH.lonlat_at(300, 800)])
    assert "catalog honours the query extension" in caplog.text
    planet.build()
    rows, pixels = planet.rows(manifest), planet.pixels(manifest)
    assert rows["item_id"].tolist() == [NORTH.item_id, SOUTH.item_id]
    for index, scene in enumerate([NORTH, SOUTH]):
        row = rows.loc[index]
        np.testing.assert_array_equal(pixels[index], scene.expected_patch(row.row_px, row.col_px))
