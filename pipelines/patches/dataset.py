"""A dataset: a finished store, verified, described and published under a version."""

import json
import logging
import warnings
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import zarr
import zarr.errors
from dask.base import compute as dask_compute
from dask.delayed import delayed
from numpy.typing import NDArray

from pipelines.atomic import write_json
from pipelines.errors import DatasetError
from pipelines.patches.radiometry import reflectance
from pipelines.patches.store import PatchStore, dataset_folder, patch_sha256, read_store
from pipelines.progress import Progress
from pipelines.provenance import content_hash, file_sha256, git_commit, package_versions
from pipelines.sampling.tables import read_table, write_table
from pipelines.sentinel2 import NODATA_DN

logger = logging.getLogger(__name__)

LATEST = "latest"
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


@dataclass(frozen=True)
class BandStatistics:
    """Offset-free reflectance of one band over all pixels with data."""

    band: str
    mean: float
    std: float
    minimum: float
    maximum: float
    num_pixels: int


@dataclass(frozen=True)
class DatasetRecord:
    """What is known of a published dataset; ``problems`` is empty where every check passed."""

    version: str
    plan_id: str
    content_sha256: str
    num_places: int
    num_valid: int
    num_shards: int
    bands: tuple[str, ...]
    reasons: dict[str, int]
    rejections: dict[str, int]
    baselines: dict[str, int]
    statistics: tuple[BandStatistics, ...]
    packages: dict[str, str]
    commit: str | None
    source: str
    problems: tuple[str, ...]

    @property
    def passed(self) -> bool:
        """Whether the dataset may be trained on."""
        return not self.problems


@dataclass(frozen=True)
class PatchDataset:
    """A published dataset, opened for reading.

    Attributes:
        version: Its id.
        path: Its folder.
        record: What was verified.
        places: One row per place in store order; columns of `PatchRow` and sha256.
        store: The pixels.
    """

    version: str
    path: Path
    record: DatasetRecord
    places: pd.DataFrame
    store: PatchStore

    @property
    def bands(self) -> tuple[str, ...]:
        """Names of the bands in pixel order."""
        return self.store.schema.bands

    @property
    def patch_size(self) -> int:
        """Side of a patch in pixels."""
        return self.store.schema.patch_size_px

    @property
    def shard_size(self) -> int:
        """Rows of a shard."""
        return self.store.schema.shard_size

    @property
    def num_shards(self) -> int:
        """Shards of the store."""
        return self.store.schema.num_shards

    @property
    def num_places(self) -> int:
        """Rows of the store, valid or not."""
        return self.store.schema.num_places

    def read_dn(self, index: int) -> NDArray[np.uint16]:
        """Digital numbers of one row, shape (12, size, size); zeros where the row is not valid."""
        pixels: NDArray[np.uint16] = np.asarray(self.store.image[int(index)])
        return pixels

    def read_shard_dn(self, shard: int) -> NDArray[np.uint16]:
        """Digital numbers of a shard in store order, shape (n, 12, size, size)."""
        return self.store.read_shard(shard)


def open_patch_dataset(root: Path, version: str = LATEST) -> PatchDataset:
    """Opens a dataset for training or embedding.

    Args:
        root: The workspace.
        version: Its id, or ``latest``.

    Raises:
        DatasetError: it does not exist, was never verified, or did not pass.
    """
    if version == LATEST:
        pointer = root / "datasets" / "latest.json"
        if not pointer.is_file():
            raise DatasetError(f"{root}: no dataset published yet; materialize patch_dataset or import one")
        version = str(json.loads(pointer.read_text())["version"])
    folder = dataset_folder(root, version)
    record = read_dataset_record(folder)
    if not record.passed:
        raise DatasetError(
            f"{folder}: the dataset did not pass its checks: {'; '.join(record.problems)}; "
            "materialize the named shards of patches and patch_dataset again"
        )
    places = read_table(folder / "places.parquet", asset="patch_dataset")
    found = content_hash(list(places["sha256"]))
    if found != record.content_sha256:
        raise DatasetError(
            f"{folder}: places.parquet has content {found[:12]}, dataset.json says {record.content_sha256[:12]}; "
            "materialize patch_dataset again"
        )
    return PatchDataset(version=version, path=folder, record=record, places=places, store=read_store(folder))


def read_dataset_record(folder: Path) -> DatasetRecord:
    """Reads what verification found.

    Raises:
        DatasetError: the dataset was never verified.
    """
    path = folder / "dataset.json"
    if not path.is_file():
        raise DatasetError(f"{folder}: no dataset.json, the dataset was never verified; materialize patch_dataset")
    fields = json.loads(path.read_text())
    fields["statistics"] = tuple(BandStatistics(**each) for each in fields["statistics"])
    for name in ("bands", "problems"):
        fields[name] = tuple(fields[name])
    return DatasetRecord(**fields)


def publish_dataset(
    root: Path,
    version: str,
    source: str,
    *,
    minimum_valid_fraction: float = 0.5,
    compute: Callable[..., Any] = dask_compute,
) -> DatasetRecord:
    """Verifies every shard, writes statistics, tables and the replay manifest, and points ``latest`` to the version.

    A dataset that fails is recorded with its problems and does not become the latest.

    Args:
        root: The workspace.
        version: Which dataset.
        source: What the dataset was built from, for people.
        minimum_valid_fraction: Share of places that must have a patch.
        compute: Runs delayed shard checks; ``dask.compute`` here, a cluster's elsewhere.

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
        results.extend(compute(*checks[start : start + 8], scheduler="threads", num_workers=2))
        progress.advance(len(checks[start : start + 8]))
    problems = [problem for each in results for problem in each.problems]
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


def replay_manifest_sha256(folder: Path) -> str:
    """SHA-256 of the replay manifest's file."""
    return file_sha256(folder / "replay_manifest.parquet")


def _counts(values: pd.Series) -> dict[str, int]:
    return {str(name): int(count) for name, count in values.value_counts().sort_index().items()}


def _ranges(numbers: list[int]) -> str:
    shown = ", ".join(str(number) for number in numbers[:10])
    return shown + (f" and {len(numbers) - 10} more" if len(numbers) > 10 else "")
