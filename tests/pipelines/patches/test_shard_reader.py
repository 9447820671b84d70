"""The direct reader beside zarr-python, on stores as they are written and on damaged ones."""

import json
import pickle
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import zarr

from pipelines.errors import StoreError
from pipelines.patches.rows import PATCH_COLUMNS, PatchRow
from pipelines.patches.shard_reader import ShardReader
from pipelines.patches.store import PatchStore, StoreSchema, compression, open_store

NUM_PLACES, SHARD_SIZE, SIZE_PX = 22, 4, 16
EMPTY_SHARD = range(8, 12)


@pytest.fixture
def store(tmp_path: Path) -> PatchStore:
    """Six shards, the last of two rows; rows 5 and 21 have no patch, nor has any row of shard 2."""
    store = open_store(tmp_path, StoreSchema("reader", NUM_PLACES, SIZE_PX, SHARD_SIZE))
    dn = np.random.default_rng(0).integers(1, 2**16, (NUM_PLACES, 12, SIZE_PX, SIZE_PX), dtype=np.uint16)
    dn[[5, 21, *EMPTY_SHARD]] = 0
    valid = dn.any(axis=(1, 2, 3))
    row = PatchRow(0, 9.0, 50.0, 9.0, 50.0, valid=True, datetime="2022-06-01T10:00:00Z", epsg=32632)
    table = pd.DataFrame(
        [asdict(replace(row, place_id=place, valid=bool(valid[place]))) for place in range(NUM_PLACES)],
        columns=list(PATCH_COLUMNS),
    )
    for shard in store.schema.own_shards:
        own = list(store.schema.plan_rows(shard))
        store.write_shard(shard, dn[own], table.iloc[own].reset_index(drop=True), {})
    return store


def open_reader(store: PatchStore) -> ShardReader:
    return ShardReader(store.folder / "patches.zarr" / "image")


def read(reader: ShardReader, rows: list[int]) -> np.ndarray:
    out = np.full((len(rows), 12, SIZE_PX, SIZE_PX), 7, dtype=np.uint16)
    reader.read(rows, out)
    return out


def test_values_are_those_of_zarr_python_in_any_order(store: PatchStore) -> None:
    rows = np.random.default_rng(1).permutation(NUM_PLACES).tolist()
    assert not store.shard_path(2).exists()
    found = read(pickle.loads(pickle.dumps(open_reader(store))), rows)
    np.testing.assert_array_equal(found, np.asarray(store.image[:])[rows])
    assert not found[rows.index(5)].any()
    assert not found[rows.index(9)].any()


def test_a_flipped_bit_is_found(store: PatchStore) -> None:
    path = store.shard_path(1)
    content = bytearray(path.read_bytes())
    content[300] ^= 16
    path.write_bytes(content)
    read(open_reader(store), [0, 8])
    with pytest.raises(StoreError, match=r"c/1/0/0/0: patch 0: a wrong checksum.*materialize patches"):
        read(open_reader(store), [0, 4])


@pytest.mark.parametrize("num_bytes", [0, 20, 1000])
def test_a_shard_that_is_cut_short_is_refused(store: PatchStore, num_bytes: int) -> None:
    path = store.shard_path(3)
    path.write_bytes(path.read_bytes()[:num_bytes])
    with pytest.raises(StoreError, match=r"c/3/0/0/0: index: "):
        read(open_reader(store), [12])


def test_rows_and_memory_that_do_not_fit_are_refused(store: PatchStore) -> None:
    with pytest.raises(IndexError, match="row 22, expected 0 to 21"):
        read(open_reader(store), [22])
    with pytest.raises(IndexError, match="row -1"):
        read(open_reader(store), [-1])
    with pytest.raises(ValueError, match=r"expected contiguous uint16 \(2, 12, 16, 16\)"):
        open_reader(store).read([0, 1], np.empty((1, 12, SIZE_PX, SIZE_PX), dtype=np.uint16))


def test_arrays_of_another_layout_are_left_to_zarr_python(tmp_path: Path) -> None:
    zarr.create_array(
        tmp_path / "image", shape=(8, 12, 16, 16), chunks=(2, 12, 16, 16), shards=(4, 12, 16, 16), dtype="uint16",
        compressors=compression(),
    )  # fmt: skip
    with pytest.raises(StoreError, match=r"chunk shape \[2, 12, 16, 16\], expected \[1, 12, 16, 16\].*zarr-python"):
        ShardReader(tmp_path / "image")
    with pytest.raises(StoreError, match="no array there"):
        ShardReader(tmp_path / "absent")


def test_every_codec_is_looked_at(store: PatchStore, tmp_path: Path) -> None:
    path = store.folder / "patches.zarr" / "image" / "zarr.json"
    metadata = json.loads(path.read_text())
    metadata["codecs"][0]["configuration"]["codecs"][1]["name"] = "zstd"
    path.write_text(json.dumps(metadata))
    with pytest.raises(StoreError, match="codecs of a patch"):
        open_reader(store)
