"""Versions: a refresh over shards that never change, read while it happens, compacted, and replayed."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from pipelines.errors import ArtefactError, ConfigurationError, DatasetError
from pipelines.patches.compaction import compact_dataset
from pipelines.patches.config import PatchConfig
from pipelines.patches.dataset import DatasetRecord, latest_version, open_patch_dataset, published_versions
from pipelines.patches.integrity import verify_files
from pipelines.patches.publication import publish_dataset
from pipelines.patches.replay import ReplayCatalog, replay_dataset
from pipelines.patches.shards import ShardTask, run_shard_task, store_schema
from pipelines.patches.store import dataset_folder
from pipelines.sampling.catalog import open_catalog
from pipelines.sampling.config import PlanConfig, SearchConfig
from pipelines.sampling.manifest import read_sampling_manifest, write_sampling_manifest
from pipelines.sampling.refresh import BaseDataset, RefreshReport, plan_refresh
from pipelines.sampling.scenes import find_scenes
from pipelines.sampling.tables import read_record, read_table, write_table
from tests.loopback.cog import CogServer
from tests.loopback.coordinate_scene import CoordinateScene, SclBlock, collection
from tests.loopback.stub_stac import StubStac

pytestmark = pytest.mark.network

SCENE = CoordinateScene(epsg=32632, x_ul_m=399960, y_ul_m=5300040, mgrs_tile="32TLT", scene_number=0)
CLOUDY = replace(SCENE, scl_blocks=[SclBlock(0, 0, 150, 150, 9)])
YOUNG = replace(SCENE, acquired=datetime(2023, 5, 2, 10, 20, 31, tzinfo=UTC), scene_number=2, cloud_cover_percent=12.0)
QUICK = PatchConfig(max_attempts=3, backoff_s=0.0, num_workers=2)
UNDER_CLOUD, ELSEWHERE = (150, 150), [(500, 500), (700, 900), (900, 300)]


class Archive:
    """A catalog that grows, and a workspace that follows it."""

    def __init__(self, server: CogServer, stub: StubStac, root: Path) -> None:
        self.server, self.stub, self.root = server, stub, root
        places = pd.DataFrame(
            [SCENE.lonlat_at(*at) for at in (*ELSEWHERE, UNDER_CLOUD)], columns=["lon_deg", "lat_deg"]
        )
        places.insert(0, "place_id", range(len(places)))
        self.places = places

    def add(self, *scenes: CoordinateScene) -> None:
        for scene in scenes:
            scene.write(self.server.folder)
            self.stub.items.append(scene.item(self.server.cog_url))

    def _search(self) -> tuple[pd.DataFrame, dict[str, object]]:
        search = SearchConfig()
        scenes, _ = find_scenes(self.places, open_catalog(self.server.stac_url, search.collection), search)
        return scenes, {"search_config": search.model_dump()}

    def build(self) -> DatasetRecord:
        scenes, parents = self._search()
        write_sampling_manifest(self.root / "sampling", self.places, scenes, PlanConfig(), parents)
        return self._run()

    def refresh(self, **settings: object) -> tuple[RefreshReport, DatasetRecord]:
        scenes, parents = self._search()
        base = open_patch_dataset(self.root)
        config = PlanConfig(refresh=True, **settings)
        _, report = plan_refresh(
            self.root / "sampling", self.places, scenes, config, parents, BaseDataset(base.version, base.places)
        )
        return report, self._run()

    def _run(self) -> DatasetRecord:
        plan = read_sampling_manifest(self.root / "sampling")
        for shard in store_schema(self.root, plan).own_shards:
            run_shard_task(ShardTask(self.root, plan.folder, shard, self.server.stac_url, "auto", QUICK))
        return publish_dataset(self.root, plan.plan_id, source="test")

    def files(self) -> dict[str, tuple[int, int]]:
        found = (path for path in (self.root / "datasets").rglob("*") if path.is_file())
        return {str(path): (path.stat().st_mtime_ns, path.stat().st_size) for path in found}

    @property
    def catalog(self) -> ReplayCatalog:
        return ReplayCatalog(self.server.stac_url, "sentinel-2-l2a")


@pytest.fixture
def archive(token_endpoint: CogServer, tmp_path: Path) -> Iterator[Archive]:
    with StubStac(collection()) as stub:
        token_endpoint.hand_on_to(stub.url)
        yield Archive(token_endpoint, stub, tmp_path / "workspace")


def expected_patch(scene: CoordinateScene, row: pd.Series) -> np.ndarray:
    return scene.expected_patch(int(row.row_px), int(row.col_px))


def test_a_refresh_of_an_unchanged_archive_writes_nothing(archive: Archive) -> None:
    archive.add(CLOUDY)
    before = archive.build()
    files = archive.files()
    archive.server.forget_requests()
    report, after = archive.refresh(max_age_days=30)
    assert report == RefreshReport(num_new=0, num_without_patch=0, num_old=0)
    assert after == before
    assert archive.files() == files
    assert archive.server.count("/cog/*") == 0


def test_a_place_without_a_patch_is_filled_when_a_scene_arrives(archive: Archive) -> None:
    archive.add(CLOUDY)
    first = archive.build()
    assert first.reasons == {"exhausted": 1}
    old = open_patch_dataset(archive.root)
    archive.add(YOUNG)
    archive.server.forget_requests()
    report, second = archive.refresh()
    assert report == RefreshReport(num_new=0, num_without_patch=1, num_old=0)
    assert (second.num_valid, second.num_renewed, second.base_version) == (4, 1, first.version)
    assert archive.server.count(f"*{CLOUDY.file_name('B02')}") == 0
    new = open_patch_dataset(archive.root)
    assert new.version == second.version != first.version
    np.testing.assert_array_equal(new.read_dn(3), expected_patch(YOUNG, new.places.loc[3]))
    assert published_versions(archive.root) == [first.version, second.version]
    for dataset in (old, open_patch_dataset(archive.root, first.version)):
        assert dataset.places["valid"].tolist() == [True, True, True, False]
        np.testing.assert_array_equal(dataset.read_dn(1), expected_patch(CLOUDY, dataset.places.loc[1]))
    third, again = archive.refresh()
    assert third == RefreshReport(0, 0, 0)
    assert again == second


def test_old_patches_are_renewed_and_failed_renewals_keep_the_old_one(archive: Archive) -> None:
    archive.add(SCENE)
    first = archive.build()
    assert first.num_valid == 4
    archive.add(replace(YOUNG, scl_blocks=[SclBlock(0, 0, 150, 150, 9)]))
    report, second = archive.refresh(max_age_days=60)
    assert report == RefreshReport(num_new=0, num_without_patch=0, num_old=4)
    assert (second.num_valid, second.num_renewed) == (4, 3)
    dataset = open_patch_dataset(archive.root)
    scenes = {SCENE.item_id: SCENE, YOUNG.item_id: YOUNG}
    assert dataset.places["item_id"].tolist() == [YOUNG.item_id] * 3 + [SCENE.item_id]
    for index, row in dataset.places.iterrows():
        np.testing.assert_array_equal(dataset.read_dn(index), expected_patch(scenes[row["item_id"]], row))
    assert json.loads(dataset.places.loc[3, "rejections"]) == [[YOUNG.item_id, "unclear"]]
    nothing, third = archive.refresh(max_age_days=60)
    assert nothing == RefreshReport(0, 0, 0)
    assert third == second


def test_a_refreshed_version_is_plain_zarr_and_shares_its_old_shards(archive: Archive) -> None:
    archive.add(CLOUDY)
    first = archive.build()
    archive.add(YOUNG)
    _, second = archive.refresh()
    shards = [dataset_folder(archive.root, each.version) / "patches.zarr/image/c/0/0/0/0" for each in (first, second)]
    assert shards[0].samefile(shards[1])
    stored = xr.open_zarr(dataset_folder(archive.root, second.version) / "patches.zarr")
    chosen = stored.isel(row=np.flatnonzero(stored["valid"].to_numpy()))
    dataset = open_patch_dataset(archive.root)
    by_place = chosen.isel(row=np.argsort(chosen["place_id"].to_numpy()))
    assert by_place["place_id"].values.tolist() == [0, 1, 2, 3]
    for index in range(4):
        np.testing.assert_array_equal(by_place["image"][index].to_numpy(), dataset.read_dn(index))
        assert by_place["item_id"].values[index] == dataset.places.loc[index, "item_id"]
    np.testing.assert_array_equal(dataset.read_shard_dn(0)[3], dataset.read_dn(3))


def test_new_places_extend_a_dataset_without_touching_the_others(archive: Archive) -> None:
    archive.add(SCENE)
    whole = archive.places
    archive.places = whole.iloc[:2]
    first = archive.build()
    archive.places = whole
    report, second = archive.refresh()
    assert report == RefreshReport(num_new=2, num_without_patch=0, num_old=0)
    dataset = open_patch_dataset(archive.root)
    assert dataset.places["place_id"].tolist() == [0, 1, 2, 3]
    assert dataset.places["row"].tolist() == [0, 1, 256, 257]
    assert (first.num_places, second.num_places, second.num_rows) == (2, 4, 258)


def test_a_patch_is_read_in_the_radiometry_asked_for(archive: Archive) -> None:
    archive.add(SCENE)
    archive.build()
    dataset = open_patch_dataset(archive.root)
    dn = dataset.read_dn(0).astype(np.int64)
    assert dataset.places["boa_add_offset"].tolist() == [-1000] * 4
    np.testing.assert_array_equal(dataset.read(0, "raw"), dn)
    np.testing.assert_array_equal(dataset.read(0, "harmonized"), np.maximum(dn - 1000, 1))
    np.testing.assert_allclose(dataset.read(0), np.maximum(dn - 1000, 0) / 10_000, rtol=1e-6)
    with pytest.raises(ValueError, match="radiometry 'toa'"):
        dataset.read(0, "toa")  # type: ignore[arg-type]


def test_a_refresh_of_other_places_is_refused(archive: Archive) -> None:
    archive.add(SCENE)
    archive.build()
    archive.places = archive.places.assign(lon_deg=archive.places["lon_deg"] + 0.01)
    with pytest.raises(ConfigurationError, match=r"has place 0 at lon .* expected lon .* drawn otherwise"):
        archive.refresh()


def test_compaction_keeps_every_patch_and_the_content(archive: Archive) -> None:
    archive.add(SCENE)
    archive.build()
    archive.add(YOUNG)
    _, second = archive.refresh(max_age_days=60)
    before = open_patch_dataset(archive.root)
    compacted = compact_dataset(archive.root)
    after = open_patch_dataset(archive.root)
    assert after.version == compacted.version != second.version
    assert compacted.content_sha256 == second.content_sha256
    assert (compacted.num_rows, second.num_rows) == (4, 260)
    for index in range(4):
        np.testing.assert_array_equal(after.read_dn(index), before.read_dn(index))
    columns = [name for name in before.places if name != "row"]
    pd.testing.assert_frame_equal(after.places[columns], before.places[columns])
    assert compact_dataset(archive.root) == compacted


def test_a_replay_is_equal_and_a_changed_archive_is_named(archive: Archive) -> None:
    archive.add(CLOUDY)
    archive.build()
    archive.add(YOUNG)
    _, record = archive.refresh()
    folder = dataset_folder(archive.root, record.version)
    elsewhere = archive.root.with_name("elsewhere")
    report = replay_dataset(elsewhere, folder, archive.catalog, QUICK)
    assert report.is_equal
    assert report.num_equal == 4
    assert latest_version(elsewhere) is None
    replace(YOUNG, scene_number=5).write(archive.server.folder)
    changed = replay_dataset(archive.root.with_name("third"), folder, archive.catalog, QUICK)
    assert (changed.num_equal, changed.differing) == (3, (3,))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"row_px": 5000}, "place 2: window outside its scene"),
        ({"sha256": "x"}, "place 2: no hash of its pixels"),
        ({"hrefs": "{}"}, "place 2: no address of every band"),
        ({"place_id": 1}, "place 1: place_id occurs twice"),
        ({"lat_deg": 91.0}, "place 2: longitude or latitude out of range"),
    ],
)
def test_a_replay_manifest_that_cannot_be_is_refused(archive: Archive, change: dict[str, object], message: str) -> None:
    archive.add(SCENE)
    folder = dataset_folder(archive.root, archive.build().version)
    path = folder / "replay_manifest.parquet"
    rows = read_table(path, "patch_dataset")
    for name, value in change.items():
        rows.loc[2, name] = value
    write_table(path, rows, read_record(path))
    with pytest.raises(ArtefactError, match=message):
        replay_dataset(archive.root, path, archive.catalog, QUICK)


def test_every_flipped_byte_is_found_and_named(archive: Archive) -> None:
    archive.add(SCENE)
    folder = dataset_folder(archive.root, archive.build().version)
    assert verify_files(folder) == []
    rng = np.random.default_rng(0)
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and path.parent.name != "locks"):
        content = path.read_bytes()
        changed = bytearray(content)
        changed[rng.integers(len(content))] ^= 1 << int(rng.integers(8))
        path.write_bytes(bytes(changed))
        problems = verify_files(folder)
        assert problems, path
        if path.name != "SHA256SUMS":
            assert any(path.relative_to(folder).as_posix() in problem for problem in problems)
        path.write_bytes(content)
    assert verify_files(folder) == []


def test_a_damaged_patch_is_named_by_its_place(archive: Archive) -> None:
    archive.add(SCENE)
    folder = dataset_folder(archive.root, archive.build().version)
    shard = folder / "patches.zarr/image/c/0/0/0/0"
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 8
    shard.write_bytes(bytes(content))
    (problem,) = verify_files(folder)
    assert "patches.zarr/image/c/0/0/0/0: content differs" in problem
    assert problem.count("place ") == 1


def test_a_missing_and_an_additional_file_are_told(archive: Archive) -> None:
    archive.add(SCENE)
    folder = dataset_folder(archive.root, archive.build().version)
    (folder / "shards" / "00000.parquet").rename(folder / "stray.parquet")
    assert verify_files(folder) == [
        "shards/00000.parquet: missing",
        "stray.parquet: not part of the published version",
    ]


def test_a_refresh_whose_base_is_gone_says_so(archive: Archive) -> None:
    archive.add(CLOUDY)
    first = archive.build()
    archive.add(YOUNG)
    _, second = archive.refresh()
    shutil.rmtree(dataset_folder(archive.root, first.version))
    assert open_patch_dataset(archive.root).read_dn(0).any()
    (dataset_folder(archive.root, second.version) / "SHA256SUMS").unlink()
    with pytest.raises(DatasetError, match=r"gone, expected the dataset that .* refreshes"):
        publish_dataset(archive.root, second.version, source="test")
