"""Exporting a dataset in the layout of S2-100K: index.csv and GeoTIFFs, loose or in tars."""

import io
import logging
import os
import shutil
import tarfile
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

import numpy as np
import pandas as pd

from pipelines.atomic import write_json
from pipelines.errors import ConfigurationError, DatasetError
from pipelines.patches.dataset import LATEST, PatchDataset, open_patch_dataset
from pipelines.patches.s2_100k import INDEX_TABLE
from pipelines.patches.s2_100k_image import PatchGrid, encode_patch
from pipelines.patches.s2_100k_source import IMAGES, INDEX_NAME
from pipelines.patches.store import patch_sha256
from pipelines.progress import Progress
from pipelines.provenance import package_versions
from pipelines.sampling.tables import read_table

logger = logging.getLogger(__name__)

RECORD_NAME: Final = "export.json"
HIDDEN_COLUMNS: Final = ("valid", "reason", "rejections", "href_base", "hrefs", "geometry")
"""Columns of a place that an export leaves out: addresses, and what only rows without a patch have."""
PATCH_BYTES: Final = 1_600_000
"""Upper estimate of one GeoTIFF (mean of the published ones 926 kB)."""


@dataclass(frozen=True)
class ExportReport:
    """What was written.

    Attributes:
        folder: Where.
        version: Of which dataset.
        num_patches: GeoTIFFs.
        num_left_out: Places without a patch.
        num_tars: 0 where the files are loose.
        num_bytes: Bytes of all GeoTIFFs.
    """

    folder: Path
    version: str
    num_patches: int
    num_left_out: int
    num_tars: int
    num_bytes: int


def export_s2_100k(
    root: Path, target: Path, version: str = LATEST, *, num_tars: int = 0, num_workers: int | None = None
) -> ExportReport:
    """Writes the places that have a patch as ``images/patch_N.tif``, N from 0 in store order, with their index.csv.

    Columns of the index: fn, lon, lat (centre of the patch), source_place_id, the columns of a place, and those that
    an imported index had of its own. Digital numbers are as stored; the offset is a column. The same dataset gives the
    same bytes. The target appears whole or not at all; every patch is compared with its recorded hash on the way.

    Args:
        root: The workspace.
        target: A folder that does not exist or is empty.
        version: Which dataset.
        num_tars: Writes this many ``data/shard-NNN.tar`` instead of loose files; their members belong into ``images/``.
        num_workers: Patches encoded at once; None takes the number of cores.

    Raises:
        ConfigurationError: the target holds something, or more tars than patches are asked for.
        DatasetError: no dataset, no place with a patch, pixels that differ from their record, or too little disk space.
    """
    dataset = open_patch_dataset(root, version)
    rows = np.flatnonzero(dataset.places["valid"].to_numpy(dtype=bool))
    _validate(dataset, target, len(rows), num_tars)
    partial = target.with_name(f".{target.name}.{uuid4().hex}.partial")
    partial.mkdir(parents=True)
    try:
        num_bytes = _write_patches(dataset, rows.tolist(), partial, num_tars, num_workers or os.cpu_count() or 1)
        export_index(dataset, rows.tolist()).to_csv(partial / INDEX_NAME, index=False)
        report = ExportReport(
            target, dataset.version, len(rows), dataset.num_places - len(rows), num_tars, num_bytes=num_bytes
        )
        _write_record(dataset, report, partial)
        partial.rename(target)
    finally:
        if partial.exists():
            shutil.rmtree(partial)
    logger.info("exported %d patches of %s to %s", report.num_patches, report.version, target)
    return report


def patch_name(number: int) -> str:
    """Name of the n-th patch of the layout."""
    return f"patch_{number}.tif"


def export_index(dataset: PatchDataset, rows: list[int]) -> pd.DataFrame:
    """The index of an export, one row per patch, in the order of ``rows``."""
    places = dataset.places.iloc[rows].reset_index(drop=True)
    places = places.drop(columns=[name for name in HIDDEN_COLUMNS if name in places])
    index = pd.DataFrame({"fn": [patch_name(number) for number in range(len(rows))]})
    index["lon"], index["lat"] = places.pop("lon_deg"), places.pop("lat_deg")
    index["source_place_id"] = places.pop("place_id")
    index = pd.concat([index, places], axis=1)
    table = dataset.path / INDEX_TABLE
    if table.is_file():
        kept = read_table(table, asset="patch_dataset").iloc[rows].reset_index(drop=True)
        for name in kept.columns:
            known = name in index or name in ("place_id", "lon_deg", "lat_deg")
            if not known or name == "fn":
                index["source_fn" if name == "fn" else name] = kept[name]
    return index


def _validate(dataset: PatchDataset, target: Path, num_patches: int, num_tars: int) -> None:
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        raise ConfigurationError(f"{target}: something is there, expected a new or empty folder; name another target")
    if not num_patches:
        raise DatasetError(f"{dataset.path}: no place has a patch, nothing to export")
    if not 0 <= num_tars <= num_patches:
        raise ConfigurationError(f"{num_tars} tars for {num_patches} patches, expected 0 to {num_patches}")
    existing = next(each for each in target.absolute().parents if each.exists())
    free, wanted = shutil.disk_usage(existing).free, num_patches * PATCH_BYTES
    if free < wanted:
        raise DatasetError(
            f"{existing}: {free / 1e9:.1f} GB free, {num_patches} patches may need {wanted / 1e9:.1f} GB; make room or "
            "name a target on another disk"
        )


def _write_patches(dataset: PatchDataset, rows: list[int], folder: Path, num_tars: int, num_workers: int) -> int:
    """Writes the GeoTIFFs in their order and returns their bytes; a bounded number is in memory."""
    progress = Progress(logger, "exporting patches", total=len(rows), unit="patches")
    (folder / ("data" if num_tars else IMAGES)).mkdir()
    num_bytes, last = 0, -1
    with ThreadPoolExecutor(num_workers) as pool, ExitStack() as stack:
        archive: tarfile.TarFile | None = None
        for number, data in enumerate(_encoded(dataset, rows, pool, 2 * num_workers)):
            num_bytes += len(data)
            progress.advance()
            if not num_tars:
                (folder / IMAGES / patch_name(number)).write_bytes(data)
                continue
            tar = number * num_tars // len(rows)
            if archive is None or tar != last:
                stack.close()
                archive, last = stack.enter_context(_open_tar(folder, tar, num_tars)), tar
            member = tarfile.TarInfo(patch_name(number))
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return num_bytes


def _open_tar(folder: Path, tar: int, num_tars: int) -> tarfile.TarFile:
    digits = max(3, len(str(num_tars - 1)))
    return tarfile.open(folder / "data" / f"shard-{tar:0{digits}d}.tar", "w", format=tarfile.USTAR_FORMAT)


def _encoded(dataset: PatchDataset, rows: list[int], pool: ThreadPoolExecutor, limit: int) -> Iterator[bytes]:
    waiting: deque[Future[bytes]] = deque()
    try:
        for row in rows:
            waiting.append(pool.submit(_encode, dataset, row))
            if len(waiting) >= limit:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()


def _encode(dataset: PatchDataset, row: int) -> bytes:
    dn = dataset.read_dn(row)
    place: Any = dataset.places.iloc[row]
    if patch_sha256(dn) != place["sha256"]:
        raise DatasetError(
            f"{dataset.path}: pixels of place {place['place_id']} differ from their record; run satclip dataset verify "
            f"{dataset.version}"
        )
    grid = PatchGrid(int(place["epsg"]), float(place["x_ul_m"]), float(place["y_ul_m"]), float(place["resolution_m"]))
    return encode_patch(dn, grid)


def _write_record(dataset: PatchDataset, report: ExportReport, folder: Path) -> None:
    record = {
        "version": dataset.version,
        "content_sha256": dataset.record.content_sha256,
        "num_patches": report.num_patches,
        "num_left_out": report.num_left_out,
        "num_tars": report.num_tars,
        "bands": list(dataset.bands),
        "packages": package_versions(),
    }
    write_json(folder / RECORD_NAME, record)
