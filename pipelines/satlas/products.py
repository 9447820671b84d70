"""Monthly products of a task, of all months that are predicted."""

import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from pipelines.errors import ArtefactError
from pipelines.patches.shard_lock import exclusive_writer
from pipelines.provenance import content_hash, git_commit, package_versions
from pipelines.satlas.history import History, smooth_history, snapshot, stays
from pipelines.satlas.month_objects import MonthObjects, read_month
from pipelines.satlas.months import months_between
from pipelines.satlas.pending import pending_tiles, require_whole
from pipelines.satlas.predictions import TASK_KINDS, predicted_months
from pipelines.satlas.product_config import PUBLISHED_CATEGORIES, ProductConfig
from pipelines.satlas.tracking import track_points, track_polygons
from pipelines.satlas.vector_files import geojson_text, publishable, validate_product, write_objects
from pipelines.satlas.versions import HISTORY, Published, products_folder, publish, publish_latest

logger = logging.getLogger(__name__)

LONGEST_WAIT_S = 3600.0


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

    Products are a function of all months that are predicted to their end: the order in which months are made does not
    matter, and a second call changes no byte. Another month that inference has begun and not ended takes no part, and
    what was published of it stays as it is.

    Raises:
        ArtefactError: The month has no prediction that can be read or is not predicted to its end, or products break
            their schema.
        StoreError: Another process publishes products of the task and did not end within an hour.
        ValueError: The task predicts no objects.
    """
    if task not in PUBLISHED_CATEGORIES:
        raise ValueError(f"task is {task!r}; expected one of {', '.join(PUBLISHED_CATEGORIES)}")
    with exclusive_writer(products_folder(root, task), "publication", f"products of {task}", wait_s=LONGEST_WAIT_S):
        require_whole(root, task, month)
        months = [read_month(root, task, each, config) for each in months_between(_whole_months(root, task))]
        asked = next((each for each in months if each.month == month), None)
        if asked is None or not asked.tiles:
            told = "none are there" if asked is None else "; ".join(asked.failures.values()) or "none are there"
            raise ArtefactError(f"{root}: no predictions of {task} in {month} ({told}); materialize satlas_predictions")
        history = smooth_months(task, months, config)
        published, counts = _publish_all(root, task, history, months, config)
        latest = publish_latest(root, task)
    logger.info("%s %s: %d objects, %d versions made", task, month, counts[month], sum(p.is_new for p in published))
    return ProductRun(published, counts, asked.rejected, asked.failures, latest)


def _whole_months(root: Path, task: str) -> list[str]:
    months = []
    for month in predicted_months(root, task):
        if pending_tiles(root, task, month):
            logger.warning("%s %s takes no part: it is not predicted to its end", task, month)
        else:
            months.append(month)
    return months


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
