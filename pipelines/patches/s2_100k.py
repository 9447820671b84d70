"""Importing the published S2-100K layout, loose or in tars, into the patch store."""

import json
import logging
import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipelines.patches.dataset import DatasetRecord
from pipelines.patches.publication import publish_dataset
from pipelines.patches.rows import PATCH_COLUMNS, PatchRow
from pipelines.patches.s2_100k_image import PatchFileError, decode_patch
from pipelines.patches.s2_100k_index import (
    HASH_COLUMN,
    is_safe_name,
    kept_columns,
    read_index,
    restored_columns,
    strip_secrets,
)
from pipelines.patches.s2_100k_source import DUPLICATE, MISSING, PatchSource, needs_rewinds, open_source
from pipelines.patches.store import PatchStore, StoreSchema, dataset_folder, open_store, patch_sha256
from pipelines.progress import Progress
from pipelines.provenance import content_hash, package_versions
from pipelines.sampling.tables import write_table
from pipelines.sentinel2 import BANDS, NODATA_DN

logger = logging.getLogger(__name__)

OFFSET_UNKNOWN = "unknown"
PATCH_SIZE_PX = 256
InferOffset = Callable[[NDArray[np.uint16]], tuple[int, str]]
"""Offset and its source by a patch's pixels, shape (12, size, size)."""
INDEX_TABLE = "source_index.parquet"
"""What the index held beside fn, lon, lat and the columns of a place; one row per place."""


def import_s2_100k(
    root: Path,
    source: Path,
    patch_size_px: int = PATCH_SIZE_PX,
    *,
    num_workers: int | None = None,
    infer_offset: InferOffset | None = None,
) -> DatasetRecord:
    """Imports the layout of S2-100K and publishes it as the latest dataset, without unpacking anything to disk.

    Rows follow the index, and place_id is the row; item_id keeps the file name unless the index has an item_id. The
    published layout says nothing of dates, scenes or baselines: digital numbers stay as they are, ``boa_add_offset`` is
    0 and ``offset_source`` is ``unknown``, unless the index has these columns (as an export has). A patch that is
    missing (``missing_file``), damaged (``unreadable``, ``too_small``, ``wrong_sha256``), of another shape
    (``wrong_shape``, ``too_large``), there twice (``duplicate_file``), named by an earlier row (``duplicate_row``) or
    named by a path (``unsafe_name``) becomes a row that is not valid.

    The version follows the index and the sizes of the files: a source that was completed later is another version, and
    the same patches loose or in tars are the same. An import that was broken off goes on at the first shard that is not
    done.

    Args:
        root: The workspace.
        source: See `open_source`; index.csv has the columns fn, lon, lat in any order.
        patch_size_px: Side that every patch must have.
        num_workers: Patches decoded at once; None takes the number of cores. Memory is that of one shard (403 MB).
        infer_offset: Decides ``boa_add_offset`` where the index says nothing of it; another version than without.

    Raises:
        DatasetError: no index, an index without the columns, coordinates out of range, or a file that is no tar.
    """
    opened = open_source(source)
    index = read_index(opened.index, source / "index.csv")
    plan = _plan_import(opened, index, patch_size_px, infer_offset)
    version = f"s2-100k-{plan.plan_id}"
    folder = dataset_folder(root, version)
    schema = StoreSchema(plan_id=plan.plan_id, num_places=len(index), patch_size_px=patch_size_px)
    store = open_store(folder, schema)
    if needs_rewinds(opened, list(plan.readable(range(len(index))))):
        logger.warning("%s: patches are not in the index's order; a compressed tar is read once per shard", source)
    _fill(store, opened, plan, num_workers or os.cpu_count() or 1)
    write_table(folder / INDEX_TABLE, kept_columns(index), {"plan_id": plan.plan_id, "damage": list(opened.damage)})
    return publish_dataset(root, version, source="; ".join(["S2-100K layout", *opened.damage]))


def _fill(store: PatchStore, source: PatchSource, plan: "_ImportPlan", num_workers: int) -> None:
    """Writes every shard that is not done; the pixels of one are in memory."""
    schema, size = store.schema, store.schema.patch_size_px
    progress = Progress(logger, "importing patches", total=schema.num_places, unit="patches")
    dn = np.zeros((schema.shard_size, len(BANDS), size, size), dtype=np.uint16)
    for shard in range(schema.num_shards):
        rows = schema.rows(shard)
        if store.is_done(shard):
            progress.advance(len(rows))
            continue
        pixels = dn[: len(rows)]
        pixels[:] = 0
        table = _import_shard(source, plan, rows, pixels, progress, num_workers)
        store.write_shard(shard, pixels, table, {"layout": "S2-100K", "packages": package_versions()})


@dataclass(frozen=True)
class _ImportPlan:
    """What is known of every row before any pixel is read.

    Attributes:
        plan_id: Hash of the index and the sizes.
        names: The file of each row.
        lon_deg: Longitude of each row.
        lat_deg: Latitude of each row.
        reasons: Why there is nothing to read; empty where there is.
        restored: Columns of a place that the index gives.
        sha256: The hash that the index gives for each row; empty where it gives none.
        infer_offset: See `import_s2_100k`.
    """

    plan_id: str
    names: list[str]
    lon_deg: list[float]
    lat_deg: list[float]
    reasons: list[str]
    restored: dict[str, list[Any]]
    sha256: list[str]
    infer_offset: InferOffset | None

    def row(self, number: int) -> PatchRow:
        """The row as it is where no pixel could be read."""
        name, lon_deg, lat_deg = self.names[number], self.lon_deg[number], self.lat_deg[number]
        row = PatchRow(
            place_id=number,
            place_lon_deg=lon_deg,
            place_lat_deg=lat_deg,
            lon_deg=lon_deg,
            lat_deg=lat_deg,
            valid=False,
            reason=self.reasons[number],
            item_id=strip_secrets(name),
            href_base="images/",
            hrefs=json.dumps({"image": strip_secrets(name)}),
            offset_source=OFFSET_UNKNOWN,
        )
        return replace(row, **{column: values[number] for column, values in self.restored.items()})

    def readable(self, rows: range) -> dict[str, int]:
        """Names of the files to be read for ``rows``, and the row of each."""
        return {self.names[number]: number for number in rows if not self.reasons[number]}


def _plan_import(
    source: PatchSource, index: pd.DataFrame, patch_size_px: int, infer_offset: InferOffset | None
) -> _ImportPlan:
    names = [str(name) for name in index["fn"]]
    lon_deg, lat_deg = index["lon"].tolist(), index["lat"].tolist()
    sizes = [source.size_bytes(name) for name in names]
    restored = restored_columns(index)
    hashes = [str(text) for text in index[HASH_COLUMN]] if HASH_COLUMN in index else [""] * len(names)
    identity: dict[str, object] = {"fn": names, "lon": lon_deg, "lat": lat_deg, "size_bytes": sizes}
    identity |= {name: [str(value) for value in values] for name, values in restored.items()}
    if any(hashes):
        identity[HASH_COLUMN] = hashes
    if patch_size_px != PATCH_SIZE_PX:
        identity["patch_size_px"] = patch_size_px
    if infer_offset is not None:
        identity["offset"] = "inferred"
    seen: set[str] = set()
    reasons = []
    for name, size in zip(names, sizes, strict=True):
        reasons.append(_reason(name, size, seen))
        seen.add(name)
    plan_id = content_hash(identity)[:12]
    return _ImportPlan(plan_id, names, lon_deg, lat_deg, reasons, restored, hashes, infer_offset)


def _reason(name: str, size: int, seen: set[str]) -> str:
    if not is_safe_name(name):
        return "unsafe_name"
    if name in seen:
        return "duplicate_row"
    if size == DUPLICATE:
        return "duplicate_file"
    if size == MISSING:
        return "missing_file"
    return ""


def _import_shard(
    source: PatchSource,
    plan: _ImportPlan,
    rows: range,
    dn: NDArray[np.uint16],
    progress: Progress,
    num_workers: int,
) -> pd.DataFrame:
    """Decodes the patches of a shard into ``dn``: one thread reads forwards, a bounded pool decodes."""
    built = {number: plan.row(number) for number in rows}
    numbers = plan.readable(rows)
    progress.advance(len(rows) - len(numbers))
    with ThreadPoolExecutor(num_workers) as pool:

        def submit() -> Iterator[Future[PatchRow]]:
            for name, data in source.read(list(numbers)):
                number = numbers[name]
                yield pool.submit(_decode, plan, built[number], data, dn[number - rows.start])

        for row in _in_flight(submit(), 2 * num_workers):
            built[row.place_id] = row
            progress.advance()
    return pd.DataFrame([asdict(built[number]) for number in rows], columns=list(PATCH_COLUMNS))


def _in_flight(futures: Iterator[Future[PatchRow]], limit: int) -> Iterator[PatchRow]:
    waiting: deque[Future[PatchRow]] = deque()
    for future in futures:
        waiting.append(future)
        if len(waiting) >= limit:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def _decode(plan: _ImportPlan, row: PatchRow, data: bytes, out: NDArray[np.uint16]) -> PatchRow:
    sha256 = plan.sha256[row.place_id]
    try:
        grid = decode_patch(data, out)
        if sha256 and patch_sha256(out) != sha256:
            raise PatchFileError("wrong_sha256", "its pixels are not those that the index names")
    except PatchFileError as error:
        out[:] = 0
        logger.warning("place %d: %s; left out", row.place_id, error)
        return replace(row, reason=error.reason)
    if plan.infer_offset is not None and row.offset_source == OFFSET_UNKNOWN:
        offset, told_by = plan.infer_offset(out)
        row = replace(row, boa_add_offset=offset, offset_source=told_by)
    return replace(row, valid=True, nodata_fraction=float((out == NODATA_DN).any(axis=0).mean()), **asdict(grid))
