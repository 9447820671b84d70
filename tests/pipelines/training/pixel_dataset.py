"""A small published dataset, written as the pipeline writes it, with places that have no patch and both offsets."""

from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd

from pipelines.patches.dataset import PatchDataset, open_patch_dataset
from pipelines.patches.publication import publish_dataset
from pipelines.patches.rows import PATCH_COLUMNS, PatchRow
from pipelines.patches.store import StoreSchema, dataset_folder, open_store


def publish_small_dataset(root: Path, num_places: int, *, shard_size: int = 8, size_px: int = 32) -> PatchDataset:
    """Patches whose texture depends on the place; every seventh place has none, every third the offset of -1000."""
    rng = np.random.default_rng(11)
    lon_deg = rng.uniform(-180, 180, num_places)
    lat_deg = np.degrees(np.arcsin(rng.uniform(-0.9, 0.9, num_places)))
    valid = np.arange(num_places) % 7 != 6
    offset = np.where(np.arange(num_places) % 3 == 0, -1000, 0)
    level = (
        1500 + 1000 * np.sin(np.radians(lon_deg[:, None] + 40 * np.arange(12))) * np.cos(np.radians(lat_deg))[:, None]
    )
    texture = rng.gamma(2.0, 0.5, (num_places, 12, size_px, size_px))
    dn = (level[:, :, None, None] * texture - offset[:, None, None, None]) * valid[:, None, None, None]
    rows = [
        PatchRow(
            place_id=5 * place + 2, place_lon_deg=lon_deg[place], place_lat_deg=lat_deg[place], lon_deg=lon_deg[place],
            lat_deg=lat_deg[place], valid=bool(valid[place]), boa_add_offset=int(offset[place]),
            datetime="2022-06-01T10:00:00Z", epsg=32632, reason="" if valid[place] else "exhausted",
        )
        for place in range(num_places)
    ]  # fmt: skip
    table = pd.DataFrame([asdict(row) for row in rows], columns=list(PATCH_COLUMNS))
    schema = StoreSchema("small", num_places, size_px, shard_size)
    store = open_store(dataset_folder(root, "small"), schema)
    for shard in schema.own_shards:
        own = list(schema.plan_rows(shard))
        store.write_shard(shard, dn[own].astype(np.uint16), table.iloc[own].reset_index(drop=True), {})
    record = publish_dataset(root, "small", "test")
    assert record.passed, record.problems
    return open_patch_dataset(root)
