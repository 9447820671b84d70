"""The contract of a versioned store, held against both ways of ADR 4: linked shards, and Icechunk."""

import warnings
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Protocol

import icechunk
import numpy as np
import pandas as pd
import pytest
import zarr

from pipelines.patches.dataset import open_patch_dataset
from pipelines.patches.publication import publish_dataset
from pipelines.patches.rows import PATCH_COLUMNS, PatchRow
from pipelines.patches.store import StoreSchema, compression, dataset_folder, open_store

SIZE_PX, SHARD_SIZE, NUM_PLACES = 32, 16, 64
RENEWED = np.arange(3, NUM_PLACES, 21)
Reader = Callable[[int], np.ndarray]


class Way(Protocol):
    """A store that begins with patches, and takes renewed ones as its next version."""

    def __init__(self, folder: Path, dn: np.ndarray) -> None: ...

    def renew(self, places: np.ndarray, dn: np.ndarray) -> None: ...

    def open_latest(self) -> Reader: ...


class LinkedShards:
    """Ours."""

    def __init__(self, folder: Path, dn: np.ndarray) -> None:
        self.folder = folder
        self.schema = StoreSchema("first", len(dn), SIZE_PX, SHARD_SIZE)
        self._publish(self.schema, np.arange(len(dn)), dn)

    def renew(self, places: np.ndarray, dn: np.ndarray) -> None:
        rows = self.schema.num_shards * SHARD_SIZE
        self._publish(
            StoreSchema("second", len(places), SIZE_PX, SHARD_SIZE, base_version="first", base_rows=rows), places, dn
        )

    def open_latest(self) -> Reader:
        return open_patch_dataset(self.folder).read_dn

    def _publish(self, schema: StoreSchema, places: np.ndarray, dn: np.ndarray) -> None:
        row = PatchRow(0, 9.0, 50.0, 9.0, 50.0, valid=True, datetime="2022-06-01T10:00:00Z", epsg=32632)
        rows = pd.DataFrame(
            [asdict(replace(row, place_id=int(place))) for place in places], columns=list(PATCH_COLUMNS)
        )
        store = open_store(dataset_folder(self.folder, schema.plan_id), schema)
        for shard in schema.own_shards:
            own = list(schema.plan_rows(shard))
            store.write_shard(shard, dn[own], rows.iloc[own].reset_index(drop=True), {})
        assert publish_dataset(self.folder, schema.plan_id, "test").passed


class Icechunk:
    """The other."""

    def __init__(self, folder: Path, dn: np.ndarray) -> None:
        self.repository = icechunk.Repository.create(icechunk.local_filesystem_storage(str(folder)))
        session = self.repository.writable_session("main")
        array = zarr.create_group(session.store).create_array(
            "image",
            shape=dn.shape,
            chunks=(1, *dn.shape[1:]),
            shards=(SHARD_SIZE, *dn.shape[1:]),
            dtype="uint16",
            compressors=compression(),
        )
        array[:] = dn
        session.commit("first")

    def renew(self, places: np.ndarray, dn: np.ndarray) -> None:
        session = self.repository.writable_session("main")
        array = zarr.open_group(session.store)["image"]
        for place, patch in zip(places, dn, strict=True):
            array[int(place)] = patch
        session.commit("second")

    def open_latest(self) -> Reader:
        array = zarr.open_group(self.repository.readonly_session("main").store, mode="r")["image"]
        return lambda place: np.asarray(array[place])


def written_bytes(folder: Path, change: Callable[[], None]) -> int:
    before = {path.stat().st_ino for path in folder.rglob("*") if path.is_file()}
    change()
    files = {path.stat().st_ino: path.stat().st_size for path in folder.rglob("*") if path.is_file()}
    return sum(size for inode, size in files.items() if inode not in before)


@pytest.fixture
def patches() -> np.ndarray:
    return np.random.default_rng(0).integers(1, 9000, (NUM_PLACES, 12, SIZE_PX, SIZE_PX), dtype=np.uint16)


@pytest.mark.parametrize("way", [LinkedShards, Icechunk])
def test_a_reader_of_the_old_version_goes_on_and_a_new_one_sees_the_new(
    tmp_path: Path, patches: np.ndarray, way: type[Way]
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # icechunk's local storage warns of concurrent commits
        store = way(tmp_path, patches)
        old = store.open_latest()
        new = patches[RENEWED] ^ 1
        store.renew(RENEWED, new)
        latest = store.open_latest()
    for place in range(NUM_PLACES):
        np.testing.assert_array_equal(old(place), patches[place])
    np.testing.assert_array_equal(latest(int(RENEWED[1])), new[1])
    np.testing.assert_array_equal(latest(5), patches[5])


def test_linked_shards_write_what_changed_and_icechunk_every_shard_it_lies_in(
    tmp_path: Path, patches: np.ndarray
) -> None:
    new = patches[RENEWED] ^ 1
    written = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for way in (LinkedShards, Icechunk):
            folder = tmp_path / way.__name__
            store: Way = way(folder, patches)
            written[way] = written_bytes(folder, lambda store=store: store.renew(RENEWED, new))
    assert written[Icechunk] > NUM_PLACES * new[0].nbytes / 2
    assert written[LinkedShards] < 2 * new.nbytes + 150_000
    assert written[LinkedShards] < written[Icechunk] / 3
