"""Building one shard of the store: for every place the first candidate scene that passes."""

import json
import logging
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipelines.errors import SceneContentError, StoreError
from pipelines.patches.async_read import open_reader
from pipelines.patches.config import PatchConfig
from pipelines.patches.offset_evidence import decide_offset
from pipelines.patches.quality import (
    UNKNOWN_QUALITY,
    WindowQuality,
    validate_pixels,
    validate_quality,
    window_quality,
)
from pipelines.patches.rows import EXHAUSTED, NO_CANDIDATE, PATCH_COLUMNS, SCENE_COLUMNS, PatchRow
from pipelines.patches.shard_lock import exclusive_shard
from pipelines.patches.store import PatchStore, StoreSchema, dataset_folder, open_store, read_store
from pipelines.patches.together import all_or_none, run_on_own_loop
from pipelines.patches.windows import Grid, PatchReader, PatchWindow, ReadTally
from pipelines.progress import Progress
from pipelines.provenance import content_hash, package_versions
from pipelines.sampling.catalog import Catalog, open_catalog
from pipelines.sampling.catalog_profile import CatalogProfile
from pipelines.sampling.manifest import SamplingManifest, open_plan
from pipelines.sampling.scenes import scene_hrefs
from pipelines.sentinel2 import BANDS, SCENE_CLASSIFICATION

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ShardReport:
    """What building a shard did.

    Attributes:
        num_reads: Windows of files that were read, of every scene that was tried.
        num_retries: Attempts at a file that failed.
        num_requests: HTTP requests for the scenes that were taken; those that GDAL makes are not counted.
        num_bytes: Bytes that they brought.
        num_requests_rejected: HTTP requests for scenes that were refused.
        num_bytes_rejected: Bytes that they brought.
    """

    shard: int
    skipped: bool
    num_places: int
    num_valid: int
    rejections: dict[str, int]
    num_reads: int = 0
    num_retries: int = 0
    num_requests: int = 0
    num_bytes: int = 0
    num_requests_rejected: int = 0
    num_bytes_rejected: int = 0


@dataclass(frozen=True)
class _Tallies:
    """What reading took for the scenes that were taken, and for those that were refused."""

    taken: ReadTally = field(default_factory=ReadTally)
    refused: ReadTally = field(default_factory=ReadTally)


def build_shard(
    manifest: SamplingManifest, store: PatchStore, shard: int, catalog: Catalog, config: PatchConfig
) -> ShardReport:
    """Reads the patches of a shard and writes it; a finished shard is left as it is.

    Runs on an event loop of its own, with ``num_workers`` places in flight.

    Raises:
        SceneReadError: a file could not be read now. Nothing of the shard is kept, so that the next run makes the same
            choices.
        StoreError: the shard was finished under other acceptance settings, or is being written elsewhere.
    """
    with exclusive_shard(store.folder, shard):
        if store.is_done(shard):
            return _skip(store, shard, config)
        return _build_and_write(manifest, store, shard, catalog, config)


def _build_and_write(
    manifest: SamplingManifest, store: PatchStore, shard: int, catalog: Catalog, config: PatchConfig
) -> ShardReport:
    rows = store.schema.rows(shard)
    size = store.schema.patch_size_px
    dn = np.zeros((len(rows), len(BANDS), size, size), dtype=np.uint16)
    planned = store.schema.plan_rows(shard)
    places = manifest.places.iloc[planned.start : planned.stop]
    candidates = dict(tuple(manifest.shard_candidates(planned).groupby("place_id", sort=False)))
    progress = Progress(logger, f"shard {shard}", total=len(rows), unit="places")
    tallies = _Tallies()

    async def build() -> list[PatchRow]:
        built: dict[int, PatchRow] = {}
        async with open_reader(catalog, config) as reader:

            async def work(waiting: Iterator[int]) -> None:
                for index in waiting:
                    place = places.iloc[index]
                    found = candidates.get(place["place_id"])
                    built[index] = await _build_place(place, found, dn[index], reader, config, catalog.profile, tallies)
                    progress.advance()

            waiting = iter(range(len(rows)))
            await all_or_none([work(waiting) for _ in range(min(config.num_workers, len(rows)))])
        return [built[index] for index in range(len(rows))]

    table = pd.DataFrame([asdict(row) for row in run_on_own_loop(build)], columns=list(PATCH_COLUMNS))
    settings = acceptance_settings(config)
    record = {"patch_config": settings, "config_sha256": content_hash(settings), "packages": package_versions()}
    store.write_shard(shard, dn, table, record)
    return _report(store, shard, tallies)


def acceptance_settings(config: PatchConfig) -> dict[str, object]:
    """The settings that decide which patches a shard holds."""
    return config.model_dump(mode="json", include={"max_unclear_fraction", "max_nodata_fraction", "clear_test"})


def _skip(store: PatchStore, shard: int, config: PatchConfig) -> ShardReport:
    found, wanted = store.read_sidecar_record(shard).get("patch_config"), acceptance_settings(config)
    if found != wanted:
        raise StoreError(
            f"{store.sidecar_path(shard)}: shard {shard} was built with {found}, expected {wanted}; set the former, or "
            f"delete {store.folder / 'shards'} to build every shard again"
        )
    return _report(store, shard, None)


async def _build_place(
    place: Any,  # noqa: ANN401
    candidates: pd.DataFrame | None,
    out: NDArray[np.uint16],
    reader: PatchReader,
    config: PatchConfig,
    profile: CatalogProfile,
    tallies: _Tallies,
) -> PatchRow:
    rejections: list[tuple[str, str]] = []
    empty = PatchRow(
        place_id=int(place["place_id"]),
        place_lon_deg=float(place["lon_deg"]),
        place_lat_deg=float(place["lat_deg"]),
        lon_deg=float(place["lon_deg"]),
        lat_deg=float(place["lat_deg"]),
        valid=False,
    )
    for candidate in () if candidates is None else candidates.itertuples(index=False):
        tally = ReadTally()
        try:
            quality = await _read_patch(candidate, out, reader, config, tally)
        except SceneContentError as error:
            tallies.refused.add(tally)
            rejections.append((str(candidate.item_id), error.reason))
            logger.debug("place %d: %s", empty.place_id, error)
            out[:] = 0
            continue
        tallies.taken.add(tally)
        offset, offset_source = decide_offset(out, int(candidate.boa_add_offset), str(candidate.offset_source), profile)
        scene = {name: getattr(candidate, name) for name in SCENE_COLUMNS}
        return replace(
            empty,
            lon_deg=float(candidate.patch_lon_deg),
            lat_deg=float(candidate.patch_lat_deg),
            valid=True,
            rejections=json.dumps(rejections),
            x_ul_m=float(candidate.x_ul_m + candidate.col_px * candidate.resolution_m),
            y_ul_m=float(candidate.y_ul_m - candidate.row_px * candidate.resolution_m),
            **asdict(quality),
            **scene | {"boa_add_offset": offset, "offset_source": offset_source},
        )
    reason = NO_CANDIDATE if candidates is None else EXHAUSTED
    return replace(empty, reason=reason, rejections=json.dumps(rejections))


async def _read_patch(
    candidate: Any,  # noqa: ANN401
    out: NDArray[np.uint16],
    reader: PatchReader,
    config: PatchConfig,
    tally: ReadTally,
) -> WindowQuality:
    """Reads a candidate's window into ``out``, the scene classification first.

    Raises:
        SceneContentError: the window is not clear, or a file is missing or damaged.
        SceneReadError: a file cannot be read now.
    """
    item_id = str(candidate.item_id)
    hrefs = scene_hrefs(candidate)
    grid = Grid(
        epsg=int(candidate.epsg),
        x_ul_m=float(candidate.x_ul_m),
        y_ul_m=float(candidate.y_ul_m),
        width_px=int(candidate.width_px),
        height_px=int(candidate.height_px),
        resolution_m=float(candidate.resolution_m),
    )
    window = PatchWindow(int(candidate.row_px), int(candidate.col_px), out.shape[-1])
    quality = UNKNOWN_QUALITY
    if config.clear_test == "scl":
        if SCENE_CLASSIFICATION not in hrefs:
            raise SceneContentError(
                "missing_band:SCL", f"{item_id}: no scene classification; set clear_test to none to accept such scenes"
            )
        first = await reader.read_bands({SCENE_CLASSIFICATION: hrefs[SCENE_CLASSIFICATION]}, grid, window, tally)
        scl = first[SCENE_CLASSIFICATION]
        if scl.dtype != np.uint8:
            raise SceneContentError(
                f"wrong_type:{SCENE_CLASSIFICATION}", f"{item_id}: SCL holds {scl.dtype}, expected uint8"
            )
        quality = window_quality(scl)
        validate_quality(quality, config, item_id)
    read = await reader.read_bands({band: hrefs[band] for band in BANDS}, grid, window, tally)
    for index, band in enumerate(BANDS):
        if read[band].dtype != np.uint16:
            raise SceneContentError(
                f"wrong_type:{band}", f"{item_id}: {band} holds {read[band].dtype}, expected uint16"
            )
        out[index] = read[band]
    nodata_fraction = validate_pixels(out, config, item_id)
    return WindowQuality(quality.unclear_fraction, quality.snow_fraction, nodata_fraction)


def _report(store: PatchStore, shard: int, tallies: _Tallies | None) -> ShardReport:
    rows = store.read_sidecar(shard)
    verdicts = Counter(verdict for text in rows["rejections"] for _, verdict in json.loads(text))
    taken, refused = (tallies.taken, tallies.refused) if tallies else (ReadTally(), ReadTally())
    report = ShardReport(
        shard=shard,
        skipped=tallies is None,
        num_places=len(rows),
        num_valid=int(rows["valid"].sum()),
        rejections=dict(sorted(verdicts.items())),
        num_reads=taken.num_reads + refused.num_reads,
        num_retries=taken.num_retries + refused.num_retries,
        num_requests=taken.num_requests,
        num_bytes=taken.num_bytes,
        num_requests_rejected=refused.num_requests,
        num_bytes_rejected=refused.num_bytes,
    )
    logger.info(
        "shard %d %s: %d of %d places have a patch, rejected scenes %s",
        shard,
        "was done" if report.skipped else "done",
        report.num_valid,
        report.num_places,
        report.rejections or "none",
    )
    return report


def shards_of_partition(partition: int, num_partitions: int, num_shards: int) -> range:
    """The consecutive whole shards that a partition owns: ceil(num_shards / num_partitions) each, then none."""
    per_partition = -(-num_shards // num_partitions)
    first = min(partition * per_partition, num_shards)
    return range(first, min(first + per_partition, num_shards))


def store_schema(root: Path, manifest: SamplingManifest) -> StoreSchema:
    """The store that a plan fills; a refresh's begins with the shards of the dataset that it builds upon.

    Raises:
        StoreError: that dataset is gone, or its patches have another size.
    """
    own = StoreSchema(manifest.plan_id, manifest.num_places, manifest.patch_size_px)
    if manifest.base_version is None:
        return own
    base = read_store(dataset_folder(root, manifest.base_version)).schema
    if (base.patch_size_px, base.bands) != (own.patch_size_px, own.bands):
        raise StoreError(
            f"dataset {base.plan_id}: patches of {base.patch_size_px} px, its refresh plans {own.patch_size_px} px; "
            "set patch_size_px to the former, or plan the whole dataset anew with refresh set to false"
        )
    return replace(
        own,
        base_version=manifest.base_version,
        base_rows=base.num_shards * base.shard_size,
        shard_size=base.shard_size,
    )


@dataclass(frozen=True)
class ShardTask:
    """Everything a worker needs to build one shard, wherever it runs.

    Attributes:
        root: The workspace.
        plan_folder: The plan.
        shard: Which shard.
        catalog_url: Landing page of the STAC API.
        signing: How addresses are signed.
        config: How patches are read.
        profile: How the catalog names things; a profile's name or the path of one.
    """

    root: Path
    plan_folder: Path
    shard: int
    catalog_url: str
    signing: str
    config: PatchConfig
    profile: str = "auto"


def run_shard_task(task: ShardTask) -> ShardReport:
    """Builds the shard of a task; a finished shard costs no request.

    Raises:
        SceneReadError: a file could not be read now.
        CatalogError: the catalog does not answer.
    """
    manifest = open_plan(task.plan_folder)
    store = open_store(dataset_folder(task.root, manifest.plan_id), store_schema(task.root, manifest))
    if store.is_done(task.shard):
        return _skip(store, task.shard, task.config)
    catalog = open_catalog(task.catalog_url, manifest.collection, task.signing, profile=task.profile)
    return build_shard(manifest, store, task.shard, catalog, task.config)
