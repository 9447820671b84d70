"""Rewriting a refreshed dataset without the rows that were superseded."""

import logging
from pathlib import Path

import numpy as np
import pandas as pd

from pipelines.patches.dataset import LATEST, DatasetRecord, open_patch_dataset, read_rows
from pipelines.patches.publication import publish_dataset
from pipelines.patches.store import PatchStore, StoreSchema, dataset_folder, open_store
from pipelines.progress import Progress
from pipelines.provenance import content_hash
from pipelines.sampling.manifest import PLAN_ID_LENGTH

logger = logging.getLogger(__name__)


def compact_dataset(root: Path, version: str = LATEST) -> DatasetRecord:
    """Writes a version's places, in their order, into a store of their own and publishes it as the latest.

    The pixels, and with them everything downstream, stay the same; the version before stays readable. A version without
    superseded rows is left as it is.

    Args:
        root: The workspace.
        version: Which dataset.

    Raises:
        DatasetError: it does not exist or did not pass its checks.
    """
    dataset = open_patch_dataset(root, version)
    if not dataset.record.base_version:
        logger.info("dataset %s holds no superseded rows; left as it is", dataset.version)
        return dataset.record
    old = dataset.store.schema
    plan_id = content_hash(["compact", dataset.version])[:PLAN_ID_LENGTH]
    schema = StoreSchema(plan_id, dataset.num_places, old.patch_size_px, old.shard_size, old.bands)
    store = open_store(dataset_folder(root, plan_id), schema)
    progress = Progress(logger, f"compacting dataset {dataset.version}", total=schema.num_shards, unit="shards")
    for shard in schema.own_shards:
        if not store.is_done(shard):
            places = dataset.places.iloc[list(schema.rows(shard))].reset_index(drop=True)
            rows = _full_rows(dataset.store, places)
            dn = read_rows(dataset.store, places["row"].to_numpy())
            dn[~places["valid"].to_numpy(dtype=bool)] = 0
            store.write_shard(shard, dn, rows, {"compacted": dataset.version})
        progress.advance()
    return publish_dataset(
        root,
        plan_id,
        source=dataset.record.source,
        minimum_valid_fraction=dataset.record.minimum_valid_fraction,
    )


def _full_rows(store: PatchStore, places: pd.DataFrame) -> pd.DataFrame:
    """Rows of a sidecar for some places: what a version knows of them, and the addresses of their rows."""
    size = store.schema.shard_size
    shards = places["row"].to_numpy() // size
    parts = []
    for shard in np.unique(shards):
        sidecar = store.read_sidecar(int(shard))
        chosen = np.flatnonzero(shards == shard)
        found = sidecar.iloc[places["row"].to_numpy()[chosen] - shard * size].set_axis(chosen)
        parts.append(found.assign(**{name: places[name] for name in ("rejections", "reason")}))
    return pd.concat(parts).sort_index().drop(columns="sha256")
