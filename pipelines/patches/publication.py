"""Verifying a finished store and publishing it as a dataset."""

import json
import logging
import warnings
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import zarr
import zarr.errors
from dask.delayed import delayed
from numpy.typing import NDArray

from pipelines.atomic import write_json
from pipelines.errors import DatasetError
from pipelines.patches.dataset import BandStatistics, DatasetRecord
from pipelines.patches.radiometry import reflectance
from pipelines.patches.store import dataset_folder, patch_sha256, read_store
from pipelines.progress import Progress
from pipelines.provenance import content_hash, git_commit, package_versions
from pipelines.sampling.tables import write_table
from pipelines.sentinel2 import NODATA_DN

logger = logging.getLogger(__name__)

UNKNOWN_TIME = -(2**62)
REPLAY_COLUMNS = (
    "place_id", "lon_deg", "lat_deg", "item_id", "datetime", "mgrs_tile", "epsg", "row_px", "col_px", "x_ul_m",
    "y_ul_m",     "resolution_m", "processing_baseline", "boa_add_offset", "href_base", "hrefs", "sha256",
)  # fmt: skip
COORDINATES: dict[str, dict[str, Any]] = {
    "place_id": {"long_name": "number of the place in the sampling order"},
    "lon_deg": {"standard_name": "longitude", "units": "degrees_east", "long_name": "longitude of the patch's centre"},
    "lat_deg": {"standard_name": "latitude", "units": "degrees_north", "long_name": "latitude of the patch's centre"},
    "valid": {"long_name": "whether the place has a patch"},
    "epsg": {"long_name": "EPSG code of the patch's grid"},
    "x_ul_m": {"units": "m", "long_name": "easting of the patch's upper-left corner"},
    "y_ul_m": {"units": "m", "long_name": "northing of the patch's upper-left corner"},
    "resolution_m": {"units": "m", "long_name": "pixel size"},
    "boa_add_offset": {"units": "1", "long_name": "to be added to the digital numbers before dividing by 10000"},
    "unclear_fraction": {"units": "1", "long_name": "share of pixels in SCL classes 1, 3, 8, 9, 10"},
    "snow_fraction": {"units": "1", "long_name": "share of pixels in SCL class 11"},
    "nodata_fraction": {"units": "1", "long_name": "share of pixels without data in any band"},
}


def publish_dataset(
    root: Path,
    version: str,
    source: str,
    *,
    minimum_valid_fraction: float = 0.5,
) -> DatasetRecord:
    """Verifies every shard, writes statistics, tables and the replay manifest, and points ``latest`` to the version.

    A dataset that fails is recorded with its problems and does not become the latest. A damaged shard counts as
    unfinished from then on, so that materializing patches builds it again.

    Args:
        root: The workspace.
        version: Which dataset.
        source: What the dataset was built from, for people.
        minimum_valid_fraction: Share of places that must have a patch.

    Raises:
        DatasetError: no shard is finished.
    """
    folder = dataset_folder(root, version)
    store = read_store(folder)
    finished = store.finished_shards()
    if not finished:
        raise DatasetError(f"{folder}: no finished shard of {store.schema.num_shards}; materialize patches first")
    progress = Progress(logger, "verifying shards", total=len(finished), unit="shards")
    checks = [delayed(_check_shard)(folder, shard) for shard in finished]
    results: list[ShardCheck] = []
    for start in range(0, len(checks), 8):
        results += delayed(list)(checks[start : start + 8]).compute(scheduler="threads", num_workers=2)
        progress.advance(len(checks[start : start + 8]))
    problems = [problem for each in results for problem in each.problems]
    for shard, each in zip(finished, results, strict=True):
        if each.problems:
            store.set_aside(shard)
    missing = sorted(set(range(store.schema.num_shards)) - set(finished))
    if missing:
        problems.append(f"shards missing: {_ranges(missing)} of {store.schema.num_shards}")
    places = pd.concat([each.rows for each in results], ignore_index=True)
    valid = places["valid"].to_numpy(dtype=bool)
    if valid.mean() < minimum_valid_fraction:
        problems.append(
            f"only {valid.sum()} of {len(valid)} places have a patch, expected {minimum_valid_fraction:.0%}"
        )
    if places["place_id"].duplicated().any():
        problems.append(f"{int(places['place_id'].duplicated().sum())} place ids occur twice")
    content = content_hash(list(places["sha256"]))
    write_table(folder / "places.parquet", places, {"plan_id": store.schema.plan_id})
    write_table(
        folder / "replay_manifest.parquet", places.loc[valid, list(REPLAY_COLUMNS)], {"content_sha256": content}
    )
    if not missing:
        _write_coordinates(folder, places)
    record = DatasetRecord(
        version=version,
        plan_id=store.schema.plan_id,
        content_sha256=content,
        num_places=len(places),
        num_valid=int(valid.sum()),
        num_shards=store.schema.num_shards,
        bands=store.schema.bands,
        reasons=_counts(places.loc[~valid, "reason"]),
        rejections=_counts(pd.Series([v for text in places["rejections"] for _, v in json.loads(text)], dtype=object)),
        baselines=_counts(places.loc[valid, "processing_baseline"]),
        statistics=_combine(store.schema.bands, [each.sums for each in results]),
        packages=package_versions(),
        commit=git_commit(),
        source=source,
        minimum_valid_fraction=minimum_valid_fraction,
        problems=tuple(problems),
    )
    write_json(folder / "dataset.json", asdict(record))
    if record.passed:
        write_json(root / "datasets" / "latest.json", {"version": version})
    logger.info(
        "dataset %s: %d of %d places have a patch, problems: %s", version, record.num_valid, len(places), problems
    )
    return record


@dataclass(frozen=True)
class ShardCheck:
    """What reading a shard again found: its rows, sums per band (count, sum, sum of squares, min, max), problems."""

    rows: pd.DataFrame
    sums: NDArray[np.float64]
    problems: tuple[str, ...]


def _check_shard(folder: Path, shard: int) -> ShardCheck:
    store = read_store(folder)
    rows = store.read_sidecar(shard)
    valid = rows["valid"].to_numpy(dtype=bool)
    empty = np.zeros((len(store.schema.bands), 5))
    empty[:, 3:] = np.inf, -np.inf
    try:
        dn = store.read_shard(shard)
    except (ValueError, OSError, RuntimeError) as error:
        return ShardCheck(rows, empty, (f"shard {shard}: pixels unreadable ({error})",))
    changed = [int(i) for i in np.flatnonzero(valid) if patch_sha256(dn[i]) != rows["sha256"].iloc[i]]
    problems = (f"shard {shard}: pixels of rows {changed[:5]} differ from their record",) if changed else ()
    if not valid.any():
        return ShardCheck(rows, empty, problems)
    sums = empty
    for index in np.flatnonzero(valid):
        values = reflectance(dn[index], rows["boa_add_offset"].iloc[index])
        for band in range(len(sums)):
            seen = values[band][dn[index, band] != NODATA_DN].astype(np.float64)
            if seen.size:
                low, high = min(sums[band, 3], seen.min()), max(sums[band, 4], seen.max())
                sums[band, :3] += (seen.size, seen.sum(), np.square(seen).sum())
                sums[band, 3:] = low, high
    return ShardCheck(rows, sums, problems)


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


def _write_coordinates(folder: Path, places: pd.DataFrame) -> None:
    """One array per column beside the pixels, one chunk each, then consolidated metadata: visible last, all at once."""
    group = zarr.open_group(folder / "patches.zarr", mode="r+")
    for name, attributes in COORDINATES.items():
        values = places[name].to_numpy()
        group.create_array(
            name, data=values, chunks=values.shape, dimension_names=("place",), attributes=attributes, overwrite=True
        )
    group.create_array(
        "time",
        data=_epoch_seconds(places["datetime"]),
        chunks=(len(places),),
        dimension_names=("place",),
        attributes={
            "standard_name": "time",
            "units": "seconds since 1970-01-01",
            "calendar": "standard",
            "_FillValue": UNKNOWN_TIME,
        },
        overwrite=True,
    )
    group["image"].attrs["coordinates"] = " ".join([*COORDINATES, "time"])
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Consolidated metadata", category=zarr.errors.ZarrUserWarning)
        zarr.consolidate_metadata(group.store)


def _epoch_seconds(datetimes: pd.Series) -> NDArray[np.int64]:
    times = pd.to_datetime(datetimes.where(datetimes != ""), utc=True, format="ISO8601")
    seconds = (times - pd.Timestamp(0, tz="UTC")) // pd.Timedelta(seconds=1)
    filled: NDArray[np.int64] = seconds.fillna(UNKNOWN_TIME).to_numpy(dtype=np.int64)
    return filled


def _counts(values: pd.Series) -> dict[str, int]:
    return {str(name): int(count) for name, count in values.value_counts().sort_index().items()}


def _ranges(numbers: list[int]) -> str:
    shown = ", ".join(str(number) for number in numbers[:10])
    return shown + (f" and {len(numbers) - 10} more" if len(numbers) > 10 else "")
