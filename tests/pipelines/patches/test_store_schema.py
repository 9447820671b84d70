"""The store as others read it: its metadata are the committed ones, and xarray alone opens it."""

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from pipelines.patches.columns import COLUMNS
from pipelines.patches.publication import publish_dataset
from pipelines.patches.rows import PATCH_COLUMNS, PatchRow
from pipelines.patches.store import StoreSchema, dataset_folder, open_store

COMMITTED = Path(__file__).resolve().parents[2] / "data" / "store_schema" / "zarr.json"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A published store of three places, the last without a patch, in shards of two."""
    root = tmp_path_factory.mktemp("workspace")
    schema = StoreSchema(plan_id="schema", num_places=3, patch_size_px=16, shard_size=2)
    opened = open_store(dataset_folder(root, "schema"), schema)
    rng = np.random.default_rng(0)
    dn = rng.integers(1000, 5000, (3, 12, 16, 16), dtype=np.uint16)
    dn[2] = 0
    rows = [
        PatchRow(0, 10.0, 50.0, 10.01, 50.01, valid=True, datetime="2022-06-11T10:20:31Z", item_id="a", epsg=32632),
        PatchRow(1, 11.0, -51.0, 11.01, -51.01, valid=True, datetime="2021-02-01T00:00:00Z", item_id="bé", epsg=32732),
        PatchRow(2, 12.0, 52.0, 12.0, 52.0, valid=False, reason="exhausted"),
    ]
    table = pd.DataFrame([asdict(row) for row in rows], columns=list(PATCH_COLUMNS)).assign(unclear_fraction=0.25)
    for shard in opened.schema.own_shards:
        planned = opened.schema.plan_rows(shard)
        opened.write_shard(shard, dn[planned.start : planned.stop], table.iloc[planned.start : planned.stop], {})
    assert publish_dataset(root, "schema", "test").passed
    return dataset_folder(root, "schema") / "patches.zarr"


def test_the_metadata_are_the_committed_ones(store: Path) -> None:
    found = (store / "zarr.json").read_text()
    if not COMMITTED.is_file():
        COMMITTED.parent.mkdir(parents=True, exist_ok=True)
        COMMITTED.write_text(found)
        pytest.fail(f"{COMMITTED} was missing and has been written; read it, commit it, run again")
    assert json.loads(found) == json.loads(COMMITTED.read_text()), f"if the change is meant, delete {COMMITTED}"


def test_xarray_alone_reads_pixels_and_columns(store: Path) -> None:
    opened = xr.open_zarr(store)
    assert opened["image"].dims == ("row", "band", "y", "x")
    assert opened["valid"].values.tolist() == [True, True, False]
    assert opened["item_id"].values.tolist() == ["a", "bé", ""]
    assert opened["utm_zone"].values.tolist() == [32, -32, 0]
    assert opened["time"].values[:2].astype("datetime64[s]").astype(str).tolist() == [
        "2022-06-11T10:20:31",
        "2021-02-01T00:00:00",
    ]
    assert np.isnat(opened["time"].values[2])
    assert opened["clear_fraction"].values.tolist() == [0.75] * 3
    assert opened["lat_deg"].attrs["standard_name"] == "latitude"
    assert int(opened["image"][2].max()) == 0


def test_every_column_is_one_chunk(store: Path) -> None:
    for name in (*COLUMNS, "time"):
        assert len([path for path in (store / name / "c").rglob("*") if path.is_file()]) <= 1
