"""Verifying a finished store and publishing it as a version of the dataset."""

import json
import logging
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd
from dask.delayed import delayed
from numpy.typing import NDArray

from pipelines.atomic import write_json
from pipelines.errors import DatasetError
from pipelines.patches.columns import write_columns
from pipelines.patches.dataset import (
    PLACES_NAME,
    RECORD_NAME,
    REPLAY_NAME,
    BandStatistics,
    DatasetRecord,
    PatchDataset,
    content_sha256,
    latest_version,
    read_dataset_record,
    read_places,
)
from pipelines.patches.integrity import damaged_rows, has_sums, verify_files, write_sums
from pipelines.patches.radiometry import reflectance
from pipelines.patches.shard_lock import exclusive_publication
from pipelines.patches.store import PatchStore, dataset_folder, read_store
from pipelines.progress import Progress
from pipelines.provenance import git_commit, package_versions
from pipelines.sampling.tables import table_writer, write_table
from pipelines.sentinel2 import NODATA_DN

logger = logging.getLogger(__name__)

ADDRESS_COLUMNS: Final = ("href_base", "hrefs")
REPLAY_COLUMNS: Final = (
    "place_id", "place_lon_deg", "place_lat_deg", "lon_deg", "lat_deg", "item_id", "datetime", "platform", "mgrs_tile",
    "epsg", "row_px", "col_px", "x_ul_m", "y_ul_m", "resolution_m", "width_px", "height_px", "processing_baseline",
    "boa_add_offset", "offset_source", "scene_cloud_cover_percent", "relative_orbit", "sun_zenith_deg",
    "sun_azimuth_deg", "href_base", "hrefs", "sha256",
)  # fmt: skip


def publish_dataset(
    root: Path,
    version: str,
    source: str,
    *,
    minimum_valid_fraction: float = 0.5,
    make_latest: bool = True,
    describe: Callable[[PatchDataset], object] | None = None,
) -> DatasetRecord:
    """Verifies every shard, writes columns, tables and the replay manifest, and points ``latest`` to the version.

    Readers see the version before or this one, never a mixture: ``latest`` moves last, in one step. A dataset that
    fails is recorded with its problems and does not become the latest. A damaged shard counts as unfinished from then
    on, so that materializing patches builds it again. A version that was published before and is still whole is left
    as it is.

    Args:
        root: The workspace.
        version: Which dataset.
        source: What the dataset was built from, for people.
        minimum_valid_fraction: Share of places that must have a patch.
        make_latest: Whether ``latest`` moves to the version when it passes.
        describe: Writes more files into the folder of a version that passed, before its checksums are taken.

    Raises:
        DatasetError: no shard is finished, or the version it builds upon is gone.
        StoreError: another run publishes the version for longer than an hour.
    """
    folder = dataset_folder(root, version)
    store = read_store(folder)
    finished = store.finished_shards()
    if not finished:
        raise DatasetError(f"{folder}: no finished shard of {store.schema.num_shards}; materialize patches first")
    with exclusive_publication(folder):
        record = _published_before(folder, store, source, minimum_valid_fraction)
        if record is None:
            record = _publish(folder, store, finished, source, minimum_valid_fraction, describe)
    if record.passed and make_latest and latest_version(root) != version:
        write_json(root / "datasets" / "latest.json", {"version": version})
    logger.info(
        "dataset %s: %d of %d places have a patch, problems: %s",
        version,
        record.num_valid,
        record.num_places,
        record.problems or "none",
    )
    return record


def _published_before(
    folder: Path, store: PatchStore, source: str, minimum_valid_fraction: float
) -> DatasetRecord | None:
    if not has_sums(folder) or len(store.finished_shards()) < store.schema.num_shards or verify_files(folder):
        return None
    record = read_dataset_record(folder)
    same = (record.source, record.minimum_valid_fraction) == (source, minimum_valid_fraction)
    return record if same and record.passed else None


def _publish(
    folder: Path,
    store: PatchStore,
    finished: list[int],
    source: str,
    minimum_valid_fraction: float,
    describe: Callable[[PatchDataset], object] | None,
) -> DatasetRecord:
    rows = gather_rows(store, finished)
    base = _base_places(folder, store)
    own = rows[rows["row"] >= store.schema.base_rows]
    places = own if base is None else merge_places(base, own)
    current = np.zeros(store.schema.num_rows, dtype=bool)
    current[places.loc[places["valid"], "row"]] = True
    checks = _check_shards(store, finished, current)
    problems = [problem for check in checks for problem in check.problems]
    missing = sorted(set(range(store.schema.num_shards)) - set(finished))
    problems += _problems_of(places, missing, store.schema.num_shards, minimum_valid_fraction)
    content = content_sha256(places["sha256"])
    write_table(folder / PLACES_NAME, places, {"plan_id": store.schema.plan_id})
    _write_replay_manifest(folder, store, finished, current, content)
    if not missing:
        write_columns(folder / "patches.zarr", rows.assign(valid=current[rows["row"]]), store.schema.num_rows)
    valid = places["valid"].to_numpy(dtype=bool)
    record = DatasetRecord(
        version=folder.name,
        plan_id=store.schema.plan_id,
        base_version=store.schema.base_version,
        content_sha256=content,
        num_places=len(places),
        num_valid=int(valid.sum()),
        num_renewed=int((valid & (places["row"] >= store.schema.base_rows)).sum()),
        num_rows=store.schema.num_rows,
        num_shards=store.schema.num_shards,
        bands=store.schema.bands,
        reasons=_counts(places.loc[~valid, "reason"]),
        rejections=_counts(pd.Series([v for text in places["rejections"] for _, v in json.loads(text)], dtype=object)),
        baselines=_counts(places.loc[valid, "processing_baseline"]),
        statistics=_combine(store.schema.bands, [check.sums for check in checks]),
        packages=package_versions(),
        commit=git_commit(),
        source=source,
        minimum_valid_fraction=minimum_valid_fraction,
        problems=tuple(problems),
    )
    write_json(folder / RECORD_NAME, asdict(record))
    if describe is not None and record.passed:
        describe(PatchDataset(folder.name, folder, record, places, store))
    write_sums(folder)
    for shard, check in zip(finished, checks, strict=True):
        if check.problems:
            store.set_aside(shard)
    return record


def gather_rows(store: PatchStore, shards: Iterable[int]) -> pd.DataFrame:
    """Rows of finished shards without their addresses, with ``row``, the row of the store, first."""
    parts = []
    for shard in shards:
        rows = store.read_sidecar(shard).drop(columns=list(ADDRESS_COLUMNS))
        start = store.schema.rows(shard).start
        rows.insert(0, "row", np.arange(start, start + len(rows), dtype=np.int64))
        parts.append(rows)
    return pd.concat(parts, ignore_index=True)


def _base_places(folder: Path, store: PatchStore) -> pd.DataFrame | None:
    if not store.schema.base_version:
        return None
    base = folder.parent / store.schema.base_version
    if not (base / PLACES_NAME).is_file():
        raise DatasetError(
            f"{base}: gone, expected the dataset that {folder.name} refreshes; restore it, or plan the whole dataset "
            "anew with refresh set to false"
        )
    return read_places(base)


def merge_places(base: pd.DataFrame, own: pd.DataFrame) -> pd.DataFrame:
    """The places of a refreshed dataset.

    A place takes its new row where that has a patch. Where the refresh found none, the old row stays, patch included,
    and remembers what was tried.

    Args:
        base: Places of the version before.
        own: Rows that the refresh built.

    Returns:
        One row per place, ordered by place_id.
    """
    known = own["place_id"].isin(base["place_id"])
    taken, failed = own[own["valid"] | ~known], own[~own["valid"] & known]
    kept = base[~base["place_id"].isin(taken["place_id"])].set_index("place_id", drop=False)
    for place_id, tried, reason in zip(failed["place_id"], failed["rejections"], failed["reason"], strict=True):
        before = json.loads(kept.at[place_id, "rejections"])
        kept.at[place_id, "rejections"] = json.dumps(before + json.loads(tried))
        if not kept.at[place_id, "valid"]:
            kept.at[place_id, "reason"] = reason
    return pd.concat([kept, taken], ignore_index=True).sort_values("place_id", ignore_index=True)


def _problems_of(places: pd.DataFrame, missing: list[int], num_shards: int, minimum_valid_fraction: float) -> list[str]:
    problems = [f"shards missing: {_ranges(missing)} of {num_shards}"] if missing else []
    valid = places["valid"].to_numpy(dtype=bool)
    if valid.mean() < minimum_valid_fraction:
        problems.append(
            f"only {valid.sum()} of {len(valid)} places have a patch, expected {minimum_valid_fraction:.0%}"
        )
    if places["place_id"].duplicated().any():
        problems.append(f"{int(places['place_id'].duplicated().sum())} place ids occur twice")
    return problems


def _write_replay_manifest(
    folder: Path, store: PatchStore, shards: Iterable[int], current: NDArray[np.bool_], content: str
) -> None:
    """What was actually used: one row per patch of the version, shard after shard."""
    record = {"version": folder.name, "content_sha256": content, "patch_size_px": store.schema.patch_size_px}
    with table_writer(folder / REPLAY_NAME, record) as write:
        for shard in shards:
            rows = store.read_sidecar(shard)
            start = store.schema.rows(shard).start
            write(rows.loc[current[start : start + len(rows)], list(REPLAY_COLUMNS)])


@dataclass(frozen=True)
class ShardCheck:
    """What reading a shard again found: sums per band (count, sum, sum of squares, min, max) and problems."""

    sums: NDArray[np.float64]
    problems: tuple[str, ...]


def _check_shards(store: PatchStore, shards: list[int], current: NDArray[np.bool_]) -> list[ShardCheck]:
    progress = Progress(logger, "verifying shards", total=len(shards), unit="shards")
    checks = []
    for shard in shards:
        rows = store.schema.rows(shard)
        checks.append(delayed(_check_shard)(store.folder, shard, current[rows.start : rows.stop]))
    results: list[ShardCheck] = []
    for start in range(0, len(checks), 8):
        results += delayed(list)(checks[start : start + 8]).compute(scheduler="threads", num_workers=2)
        progress.advance(len(checks[start : start + 8]))
    return results


def _check_shard(folder: Path, shard: int, current: NDArray[np.bool_]) -> ShardCheck:
    store = read_store(folder)
    rows = store.read_sidecar(shard)
    sums = np.zeros((len(store.schema.bands), 5))
    sums[:, 3:] = np.inf, -np.inf
    damaged = damaged_rows(store, shard, rows)
    if damaged:
        return ShardCheck(sums, (f"shard {shard}: pixels of rows {damaged[:5]} differ from their record",))
    dn = store.read_shard(shard)
    for index in np.flatnonzero(current[: len(rows)]):
        values = reflectance(dn[index], rows["boa_add_offset"].iloc[index])
        for band in range(len(sums)):
            seen = values[band][dn[index, band] != NODATA_DN].astype(np.float64)
            if seen.size:
                low, high = min(sums[band, 3], seen.min()), max(sums[band, 4], seen.max())
                sums[band, :3] += (seen.size, seen.sum(), np.square(seen).sum())
                sums[band, 3:] = low, high
    return ShardCheck(sums, ())


def _combine(bands: Iterable[str], sums: list[NDArray[np.float64]]) -> tuple[BandStatistics, ...]:
    stacked = np.stack(sums)
    count, total, squares = (stacked[..., i].sum(axis=0) for i in range(3))
    low, high = stacked[..., 3].min(axis=0), stacked[..., 4].max(axis=0)
    statistics = []
    for i, band in enumerate(bands):
        if not count[i]:
            statistics.append(BandStatistics(band, 0.0, 0.0, 0.0, 0.0, 0))
            continue
        mean = total[i] / count[i]
        std = float(np.sqrt(max(squares[i] / count[i] - mean**2, 0.0)))
        statistics.append(BandStatistics(band, float(mean), std, float(low[i]), float(high[i]), int(count[i])))
    return tuple(statistics)


def _counts(values: pd.Series) -> dict[str, int]:
    return {str(name): int(count) for name, count in values.value_counts().sort_index().items()}


def _ranges(numbers: list[int]) -> str:
    shown = ", ".join(str(number) for number in numbers[:10])
    return shown + (f" and {len(numbers) - 10} more" if len(numbers) > 10 else "")
