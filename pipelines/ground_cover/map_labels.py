"""Labels of a dataset's patches from a land-cover map, shard by shard; a finished shard is kept."""

import json
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd

from pipelines.atomic import write_json
from pipelines.errors import ArtefactError, SceneReadError
from pipelines.ground_cover.classes import LandCoverClasses, read_classes
from pipelines.ground_cover.config import LabelsConfig
from pipelines.ground_cover.grids import PatchGrid
from pipelines.ground_cover.labels import concatenate_labels, labels_of_table, labels_table, write_labels
from pipelines.ground_cover.map_items import (
    MapItems,
    find_map_items,
    read_map_items,
    write_map_items,
)
from pipelines.ground_cover.map_store import open_map_store, write_maps
from pipelines.ground_cover.patch_labels import TOLD_COLUMNS, PatchLabel, label_patch, labels_of_patches, told_columns
from pipelines.patches.dataset import PatchDataset, open_patch_dataset
from pipelines.patches.file_reader import FileReader
from pipelines.patches.shard_lock import exclusive_shard, exclusive_writer
from pipelines.patches.store import sidecar_name
from pipelines.progress import Progress
from pipelines.provenance import git_commit, package_versions
from pipelines.redaction import redacted
from pipelines.sampling.catalog import open_catalog
from pipelines.sampling.tables import read_table, write_table

logger = logging.getLogger(__name__)

FOLDER: Final = "ground_cover"
ITEMS_NAME: Final = "map_items.parquet"
LATEST: Final = "latest"
MAX_FAILED_SHARDS: Final = 3
"""Shards that fail one after another before a run gives up: the server is not well."""


@dataclass(frozen=True)
class LabelTask:
    """Everything a worker needs to label one shard, wherever it runs.

    Attributes:
        root: The workspace.
        dataset_version: Id of the dataset.
        folder: Of the labels; holds the map's items.
        shard: Which shard_size places.
        catalog_url: Landing page of the STAC API.
        signing: How addresses are signed.
        profile: How the catalog names things.
    """

    root: Path
    dataset_version: str
    folder: Path
    shard: int
    catalog_url: str
    signing: str
    config: LabelsConfig
    profile: str = "auto"


@dataclass(frozen=True)
class LabelReport:
    """What labeling a shard did.

    Attributes:
        skipped: Whether it was done before.
        statuses: Places by status.
        failure: Why nothing of the shard was kept; empty where it is done.
    """

    shard: int
    skipped: bool = False
    statuses: dict[str, int] = field(default_factory=dict)
    num_reads: int = 0
    num_retries: int = 0
    failure: str = ""


def labels_folder(root: Path, dataset_version: str, fingerprint: str) -> Path:
    """Where the labels of a dataset with a fingerprint live in the workspace ``root``."""
    return root / FOLDER / f"{dataset_version}-{fingerprint}"


def publish_labels(root: Path, dataset_version: str, fingerprint: str) -> None:
    """Makes labels the latest of their dataset."""
    write_json(_pointer(root, dataset_version), {"fingerprint": fingerprint})


def latest_labels_folder(root: Path, dataset_version: str, fingerprint: str = LATEST) -> Path:
    """The folder of the labels that were published last for a dataset, or of those with a fingerprint.

    Raises:
        ArtefactError: the dataset has no labels yet.
    """
    if fingerprint != LATEST:
        return labels_folder(root, dataset_version, fingerprint)
    pointer = _pointer(root, dataset_version)
    if not pointer.is_file():
        raise ArtefactError(f"{root}: no labels of dataset {dataset_version} yet; materialize ground_cover_labels")
    return labels_folder(root, dataset_version, str(json.loads(pointer.read_text())["fingerprint"]))


def build_labels(
    root: Path,
    dataset: PatchDataset,
    config: LabelsConfig,
    catalog: tuple[str, str, str],
    stream: Callable[[Callable[[LabelTask], LabelReport], list[LabelTask]], Iterable[tuple[int, LabelReport]]]
    | None = None,
) -> Path:
    """Labels every place of a dataset and publishes the labels; what is finished of them is kept.

    Args:
        root: The workspace.
        dataset: A published dataset.
        config: Which map, and which labels are accepted.
        catalog: Address of the STAC API, way of signing, and profile.
        stream: Applies a function to tasks and yields numbers and results; without it, one after another here.

    Returns:
        The folder of the labels.

    Raises:
        CatalogError: the catalog fails, has no such collection, or nothing at the patches.
        SceneReadError: shards failed; all others are finished, and the next run does only those that are not.
    """
    classes = read_classes(config.classes)
    fingerprint = config.fingerprint(classes.sha256, dataset.record.content_sha256)
    folder = labels_folder(root, dataset.version, fingerprint)
    items = _open_items(folder, dataset, config, classes, catalog)
    if config.keep_maps:
        open_map_store(folder, dataset, classes)
    tasks = [
        LabelTask(root, dataset.version, folder, shard, catalog[0], catalog[1], config, catalog[2])
        for shard in range(dataset.num_shards)
        if not _shard_path(folder, shard).is_file()
    ]
    reports = _run(tasks, stream or _one_after_another)
    failed = [each for each in reports if each.failure]
    if failed or len(reports) < len(tasks):
        first = f"shard {failed[0].shard}: {failed[0].failure}" if failed else "not begun"
        raise SceneReadError(
            f"{folder}: {len(tasks) - len(reports) + len(failed)} of {dataset.num_shards} shards have no labels yet "
            f"({first}); run again when the server is well: finished shards are kept"
        )
    _finish(folder, dataset, config, classes, items, reports)
    publish_labels(root, dataset.version, fingerprint)
    return folder


def run_label_task(task: LabelTask) -> LabelReport:
    """Labels the shard of a task; a fault of the moment is told in the report, and nothing of the shard is kept."""
    path = _shard_path(task.folder, task.shard)
    with exclusive_shard(task.folder, task.shard):
        if path.is_file():
            return LabelReport(task.shard, skipped=True)
        dataset = open_patch_dataset(task.root, task.dataset_version)
        catalog = open_catalog(task.catalog_url, task.config.collection, task.signing, profile=task.profile)
        reader = FileReader(catalog, max_attempts=task.config.max_attempts, backoff_s=task.config.backoff_s)
        items = read_map_items(task.folder / ITEMS_NAME)
        try:
            statuses = label_shard(dataset, task.shard, items, reader, task.config, task.folder)
        except SceneReadError as error:
            logger.warning("shard %d: %s", task.shard, error)
            return LabelReport(task.shard, num_retries=reader.tally.num_retries, failure=redacted(error))
        return LabelReport(task.shard, False, statuses, reader.tally.num_reads, reader.tally.num_retries)


def label_shard(
    dataset: PatchDataset, shard: int, items: MapItems, reader: FileReader, config: LabelsConfig, folder: Path
) -> dict[str, int]:
    """Labels the places of a shard and writes them, the maps first, the table last.

    Returns:
        Places by status.

    Raises:
        SceneReadError: a file cannot be read now; nothing of the shard is kept.
    """
    classes = read_classes(config.classes)
    start = shard * dataset.shard_size
    places = dataset.places.iloc[start : start + dataset.shard_size]
    progress = Progress(logger, f"labels of shard {shard}", total=len(places), unit="places")

    def label(place: Any) -> PatchLabel:  # noqa: ANN401
        try:
            return label_patch(place, dataset.patch_size, items, reader, classes, config)
        finally:
            progress.advance()

    pool = ThreadPoolExecutor(config.num_workers, thread_name_prefix="labels")
    try:
        found = list(pool.map(label, places.itertuples(index=False)))
    finally:
        reader.stopping.set()
        pool.shutdown(cancel_futures=True)
    labels = labels_of_patches(places, found, classes)
    if config.keep_maps:
        write_maps(folder, start, [each.class_map for each in found], classes)
    write_table(
        _shard_path(folder, shard), labels_table(labels).assign(**told_columns(found)), {"classes": classes.sha256}
    )
    return labels.counts()


def _open_items(
    folder: Path, dataset: PatchDataset, config: LabelsConfig, classes: LandCoverClasses, catalog: tuple[str, str, str]
) -> MapItems:
    """The map's items as a run before found them, or as the catalog tells them now."""
    path = folder / ITEMS_NAME
    with exclusive_writer(folder, "items", "the map's items", wait_s=600.0):
        if not path.is_file():
            url, signing, profile = catalog
            opened = open_catalog(url, config.collection, signing, profile=profile)
            grids = [
                PatchGrid(int(each.epsg), each.x_ul_m, each.y_ul_m, each.resolution_m, dataset.patch_size)
                for each in dataset.places.itertuples(index=False)
                if each.valid and each.epsg > 0 and np.isfinite(each.x_ul_m)
            ]
            write_map_items(path, find_map_items(opened, classes, [each.footprint() for each in grids]))
        return read_map_items(path)


def _run(
    tasks: list[LabelTask],
    stream: Callable[[Callable[[LabelTask], LabelReport], list[LabelTask]], Iterable[tuple[int, LabelReport]]],
) -> list[LabelReport]:
    """Reports of the tasks; after a few failures in a row no further one is waited for."""
    reports: list[LabelReport] = []
    for _, report in stream(run_label_task, tasks):
        reports.append(report)
        last = reports[-MAX_FAILED_SHARDS:]
        if len(last) == MAX_FAILED_SHARDS and all(each.failure for each in last):
            break
    return reports


def _one_after_another(
    function: Callable[[LabelTask], LabelReport], tasks: list[LabelTask]
) -> Iterator[tuple[int, LabelReport]]:
    return ((number, function(task)) for number, task in enumerate(tasks))


def _finish(
    folder: Path,
    dataset: PatchDataset,
    config: LabelsConfig,
    classes: LandCoverClasses,
    items: MapItems,
    reports: list[LabelReport],
) -> None:
    """Writes all shards as one table, and the record."""
    tables = [
        read_table(_shard_path(folder, shard), asset="ground_cover_labels") for shard in range(dataset.num_shards)
    ]
    labels = concatenate_labels([labels_of_table(each, classes, str(folder)) for each in tables])
    whole = pd.concat(tables, ignore_index=True)
    told = {name: whole[name] for name in TOLD_COLUMNS}
    settings = config.decisive()
    record: dict[str, Any] = {
        "dataset_version": dataset.version,
        "dataset_content_sha256": dataset.record.content_sha256,
        "fingerprint": config.fingerprint(classes.sha256, dataset.record.content_sha256),
        "collection": config.collection,
        "config": settings,
        "map_items": len(items.items),
        "unusable_map_items": items.unusable,
        "unknown_codes": _summed(whole["unknown_codes"]),
        "failures": dict(Counter(reason for text in whole["failures"] for reason in json.loads(text).values())),
        "packages": package_versions(),
        "commit": git_commit(),
    }
    write_labels(folder, labels, record, told)
    logger.info("labels of %s: %s; %s", dataset.version, labels.counts(), [asdict(each) for each in reports[:3]])


def _summed(texts: Iterable[str]) -> dict[str, int]:
    total: Counter[str] = Counter()
    for text in texts:
        counts: Mapping[str, int] = json.loads(text)
        total.update(counts)
    return dict(total)


def _shard_path(folder: Path, shard: int) -> Path:
    return folder / "shards" / sidecar_name(shard)


def _pointer(root: Path, dataset_version: str) -> Path:
    return root / FOLDER / f"{dataset_version}-latest.json"
