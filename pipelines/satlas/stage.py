"""A month of all tasks: what the monthly run publishes."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.errors import ArtefactError, SatclipError
from pipelines.satlas.predictions import list_predictions
from pipelines.satlas.product_config import ProductConfig
from pipelines.satlas.products import build_products
from pipelines.satlas.tree_cover import TASK as TREE_COVER
from pipelines.satlas.tree_cover import TreeCoverConfig, build_tree_cover
from pipelines.satlas.versions import HISTORY, Published

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TaskProducts:
    """What one task published.

    Attributes:
        task: Its name.
        published: Versions as they are now.
        num_objects: Objects of the month asked for; for tree cover 0.
        rejected: Objects that cannot be published, by reason.
        failures: Tiles left out, and why.
    """

    task: str
    published: Sequence[Published]
    num_objects: int
    rejected: Mapping[str, int]
    failures: Mapping[str, str]


@dataclass(frozen=True)
class MonthProducts:
    """What a month's run published.

    Attributes:
        month: ``YYYY-MM``.
        tasks: Those that were published.
        failures: Why a task was not, by its name; the others went on.
        without_predictions: Tasks of which the month has no predictions.
    """

    month: str
    tasks: Sequence[TaskProducts]
    failures: Mapping[str, str]
    without_predictions: Sequence[str]

    @property
    def other_months(self) -> Mapping[str, Sequence[str]]:
        """Months other than the one asked for that got a version by this run, and of which tasks."""
        months: dict[str, list[str]] = {}
        for each in self.tasks:
            for version in each.published:
                if version.is_new and version.name not in (self.month, HISTORY):
                    months.setdefault(version.name, []).append(each.task)
        return dict(sorted(months.items()))

    def versions_of(self, month: str) -> dict[str, str]:
        """Content hash of each task's present version of a month."""
        return {each.task: p.content_sha256 for each in self.tasks for p in each.published if p.name == month}


def publish_month(
    root: Path, month: str, tasks: Sequence[str], config: ProductConfig, tree_cover: TreeCoverConfig
) -> MonthProducts:
    """Publishes a month of several tasks; a task that cannot be is noted, the others go on.

    Raises:
        ArtefactError: No task was published.
    """
    found, failures, without = [], {}, []
    for task in tasks:
        if not list_predictions(root, task, month):
            without.append(task)
            continue
        try:
            found.append(_publish_task(root, task, month, config, tree_cover))
        except SatclipError as error:
            logger.warning("%s %s is not published: %s", task, month, error)
            failures[task] = str(error)
    if not found:
        told = "; ".join(f"{task}: {reason}" for task, reason in failures.items())
        told = told or f"no predictions of {', '.join(tasks)}"
        raise ArtefactError(f"{root}: nothing published for {month} ({told}); materialize satlas_predictions")
    return MonthProducts(month, found, failures, without)


def _publish_task(
    root: Path, task: str, month: str, config: ProductConfig, tree_cover: TreeCoverConfig
) -> TaskProducts:
    if task == TREE_COVER:
        published, left_out = build_tree_cover(root, month, tree_cover)
        return TaskProducts(task, [published], 0, {}, left_out)
    run = build_products(root, task, month, config)
    return TaskProducts(task, run.published, run.num_objects[month], run.rejected, run.failures)


def summary(products: MonthProducts) -> dict[str, Any]:
    """A month's run as plain values: objects per task, what was left out, which other months changed."""
    return {
        "objects": {each.task: each.num_objects for each in products.tasks},
        "rejected": {each.task: dict(each.rejected) for each in products.tasks if each.rejected},
        "tiles_left_out": {each.task: dict(each.failures) for each in products.tasks if each.failures},
        "tasks_not_published": dict(products.failures),
        "without_predictions": list(products.without_predictions),
        "other_months": {month: list(tasks) for month, tasks in products.other_months.items()},
    }
