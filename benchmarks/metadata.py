"""Seconds of a dataset's metadata operations at 1,000,000 places, without pixels.

python benchmarks/metadata.py
"""

import argparse
import json
import resource
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr

from pipelines.patches.columns import write_columns
from pipelines.patches.dataset import PLACES_NAME, content_sha256, read_places
from pipelines.patches.publication import ADDRESS_COLUMNS, merge_places
from pipelines.patches.rows import PatchRow
from pipelines.patches.store import StoreSchema, dataset_folder, open_store
from pipelines.sampling.tables import write_table

ITEM = "S2A_MSIL2A_20220611T102031_R065_T32TLT_20220612T030405"
MAX_SECONDS = 30.0


def places_table(number: int) -> pd.DataFrame:
    row = asdict(
        PatchRow(0, 9.0, 50.0, 9.0, 50.0, valid=True, datetime="2022-06-01T10:00:00Z", item_id=ITEM, epsg=32632)
    )
    kept = {name: value for name, value in row.items() if name not in ADDRESS_COLUMNS}
    table = pd.DataFrame([kept]).loc[np.zeros(number, dtype=np.int64)].reset_index(drop=True)
    table["place_id"] = np.arange(number)
    table.insert(0, "row", np.arange(number))
    return table.assign(sha256=[f"{index:064x}" for index in range(number)])


def read_columns(path: Path) -> xr.Dataset:
    return xr.open_zarr(path)[["lon_deg", "item_id"]].load()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--places", type=int, default=1_000_000)
    parser.add_argument("--check", action="store_true", help="exit with 1 when a target is missed")
    options = parser.parse_args()
    table = places_table(options.places)
    renewed = table.iloc[::20].assign(row=options.places + np.arange(len(table.iloc[::20])))
    with tempfile.TemporaryDirectory() as name:
        folder = dataset_folder(Path(name), "million")
        store = open_store(folder, StoreSchema("million", options.places, 256))
        steps: dict[str, Callable[[], object]] = {
            "write_places": lambda: write_table(folder / PLACES_NAME, table),
            "read_places": lambda: read_places(folder),
            "content_hash": lambda: content_sha256(table["sha256"]),
            "write_columns": lambda: write_columns(folder / "patches.zarr", table, options.places),
            "finished_shards": store.finished_shards,
            "merge_a_refresh_of_5_percent": lambda: merge_places(table, renewed),
            "xarray_reads_two_columns": lambda: read_columns(folder / "patches.zarr"),
        }
        seconds = {}
        for step, run in steps.items():
            started = time.perf_counter()
            run()
            seconds[step] = time.perf_counter() - started
            print(f"{step:30} {seconds[step]:7.2f} s")
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.1f} GB")
    worst = max(seconds.values())
    line = {"metric": "slowest_step_s", "value": round(worst, 2), "target": MAX_SECONDS, "holds": worst <= MAX_SECONDS}
    print(json.dumps(line))
    return int(options.check and not line["holds"])


if __name__ == "__main__":
    raise SystemExit(main())
