"""Monthly products of a task, of all predictions that are there."""

import hashlib
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.errors import ArtefactError
from pipelines.patches.shard_lock import exclusive_writer
from pipelines.provenance import content_hash, file_sha256, git_commit, package_versions
from pipelines.satlas.geometry import areas_m2
from pipelines.satlas.history import History, places_of, smooth_history, snapshot, stays
from pipelines.satlas.merging import gather_lonlat, merge_points, merge_polygons, usable_objects
from pipelines.satlas.months import months_between
from pipelines.satlas.observations import ObservedMonth
from pipelines.satlas.predictions import (
    RECORD_FILE,
    TASK_KINDS,
    TileGrid,
    list_predictions,
    predicted_months,
    read_predictions,
)
from pipelines.satlas.product_config import PUBLISHED_CATEGORIES, UNPUBLISHED_CATEGORIES, ProductConfig
from pipelines.satlas.tracking import track_points, track_polygons
from pipelines.satlas.vector_files import geojson_text, publishable, validate_product, write_objects
from pipelines.satlas.versions import HISTORY, Published, products_folder, publish, publish_latest

if TYPE_CHECKING:
    import geopandas

logger = logging.getLogger(__name__)

LONGEST_WAIT_S = 3600.0


@dataclass(frozen=True)
class MonthObjects:
    """A month's objects of all tiles, merged.

    Attributes:
        month: ``YYYY-MM``.
        objects: WGS 84, columns category, score, geometry.
        observed: Where there were images.
        rejected: How many objects cannot be published, by reason.
        failures: Why a tile could not be read, by its name; the others went on.
        tiles: Hash of each tile's record that was read.
        radiometry: What the tiles say of the scaling of their images.
    """

    month: str
    objects: "geopandas.GeoDataFrame"
    observed: ObservedMonth
    rejected: Mapping[str, int]
    failures: Mapping[str, str]
    tiles: Mapping[str, str]
    radiometry: Sequence[str]


@dataclass(frozen=True)
class ProductRun:
    """What a call published.

    Attributes:
        published: The version of each month, and of the history, as it is now.
        num_objects: Objects in each month's snapshot.
        rejected: Objects of the month asked for that cannot be published, by reason.
        failures: Tiles of the month asked for that could not be read.
        latest: The newest month.
    """

    published: Sequence[Published]
    num_objects: Mapping[str, int]
    rejected: Mapping[str, int]
    failures: Mapping[str, str]
    latest: str | None

    @property
    def revised(self) -> list[str]:
        """Months, and the history, that had a version and got another by this call."""
        return [each.name for each in self.published if each.is_new and each.version > 1]


def build_products(root: Path, task: str, month: str, config: ProductConfig) -> ProductRun:
    """Publishes a task's products of a month and revises those of others that its predictions change.

    Products are a function of all predictions that are there: the order in which months are made does not matter, and
    a second call changes no byte.

    Raises:
        ArtefactError: The month has no prediction that can be read, or products break their schema.
        StoreError: Another process publishes products of the task and did not end within an hour.
        ValueError: The task predicts no objects.
    """
    if task not in PUBLISHED_CATEGORIES:
        raise ValueError(f"task is {task!r}; expected one of {', '.join(PUBLISHED_CATEGORIES)}")
    with exclusive_writer(products_folder(root, task), "publication", f"products of {task}", wait_s=LONGEST_WAIT_S):
        months = [read_month(root, task, each, config) for each in months_between(predicted_months(root, task))]
        asked = next((each for each in months if each.month == month), None)
        if asked is None or not asked.tiles:
            told = "none are there" if asked is None else "; ".join(asked.failures.values()) or "none are there"
            raise ArtefactError(f"{root}: no predictions of {task} in {month} ({told}); materialize satlas_predictions")
        history = smooth_months(task, months, config)
        published, counts = _publish_all(root, task, history, months, config)
        latest = publish_latest(root, task)
    logger.info("%s %s: %d objects, %d versions made", task, month, counts[month], sum(p.is_new for p in published))
    return ProductRun(published, counts, asked.rejected, asked.failures, latest)


def read_month(root: Path, task: str, month: str, config: ProductConfig) -> MonthObjects:
    """All tiles of a month as one set of objects; a tile that cannot be read is noted, the others go on."""
    names = PUBLISHED_CATEGORIES[task]
    polygons = TASK_KINDS[task] == "polygons"
    rejected: Counter[str] = Counter()
    failures, records, radiometry = {}, {}, set()
    tiles: list[tuple[TileGrid, Path]] = []
    objects: list[geopandas.GeoDataFrame] = []
    for folder in list_predictions(root, task, month):
        try:
            tile = read_predictions(folder)
        except ArtefactError as error:
            logger.warning("tile left out: %s", error)
            failures[folder.name] = str(error)
            continue
        records[folder.name] = file_sha256(folder / RECORD_FILE)
        radiometry.add(str(tile.parents.get("radiometry", "not stated")))
        tiles.append((tile.grid, folder))
        assert tile.objects is not None
        kept, wrong = usable_objects(tile.objects, (*names, *UNPUBLISHED_CATEGORIES), polygons=polygons)
        rejected.update(wrong)
        objects.append(kept[(kept["score"] >= config.min_score) & kept["category"].isin(list(names))])
    observed = ObservedMonth(tiles)
    gathered = gather_lonlat(objects)
    seen = observed.num_periods(places_of(gathered)) > 0
    rejected["no image there"] += int((~seen).sum())
    merged = _merge(gathered[seen].assign(category=gathered["category"].map(names)), config, polygons=polygons)
    return MonthObjects(month, merged, observed, dict(+rejected), failures, records, sorted(radiometry))


def _merge(objects: "geopandas.GeoDataFrame", config: ProductConfig, *, polygons: bool) -> "geopandas.GeoDataFrame":
    if not polygons:
        return merge_points(objects, config.merge_distance_m)
    merged = merge_polygons(objects, config.gap_m)
    return merged[areas_m2(merged.geometry.to_numpy()) >= config.min_area_m2].reset_index(drop=True)


def smooth_months(task: str, months: Sequence[MonthObjects], config: ProductConfig) -> History:
    """Objects of consecutive months linked and smoothed."""
    frames = {each.month: each.objects for each in months}
    if TASK_KINDS[task] == "polygons":
        tracks = track_polygons(frames, config.gap_m)
    else:
        tracks = track_points(frames, config.track_distance_m)
    return smooth_history(task, list(frames), tracks, [each.observed for each in months], config.smoothing)


def _publish_all(
    root: Path, task: str, history: History, months: Sequence[MonthObjects], config: ProductConfig
) -> tuple[list[Published], dict[str, int]]:
    """Every month that has tiles, then the history; all are checked before the first is written."""
    frames = {each.month: publishable(snapshot(history, each.month)) for each in months if each.tiles}
    frames[HISTORY] = publishable(stays(history))
    categories = tuple(PUBLISHED_CATEGORIES[task].values())
    for name, frame in frames.items():
        validate_product(frame, categories, f"{task} {name}")
    parents = {each.month: each for each in months}
    shared = _shared_record([each.month for each in months], config)
    published = []
    for name, frame in frames.items():
        record = {**shared, **_own_record(parents.get(name))}
        content = hashlib.sha256(geojson_text(task, frame).encode()).hexdigest()
        write = partial(write_objects, name=task, objects=frame)
        published.append(publish(root, task, name, content, write, record))
    return published, {name: len(frame) for name, frame in frames.items()}


def _shared_record(months: Sequence[str], config: ProductConfig) -> dict[str, Any]:
    settings = config.model_dump(mode="json")
    return {
        "first_month": months[0],
        "last_month": months[-1],
        "config": settings,
        "config_sha256": content_hash(settings),
        "packages": package_versions(),
        "commit": git_commit(),
    }


def _own_record(month: MonthObjects | None) -> dict[str, Any]:
    if month is None:
        return {}
    return {
        "tiles_sha256": content_hash(dict(month.tiles)),
        "num_tiles": len(month.tiles),
        "tiles_left_out": dict(month.failures),
        "rejected": dict(month.rejected),
        "radiometry": list(month.radiometry),
    }
