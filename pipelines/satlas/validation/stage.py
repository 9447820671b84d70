"""Validation of a workspace's products: draws samples, takes verdicts, writes scores and a report."""

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from pipelines.atomic import replacing, write_json
from pipelines.errors import ArtefactError, ConfigurationError, SatclipError
from pipelines.provenance import content_hash, file_sha256, git_commit, package_versions
from pipelines.satlas.history import places_of
from pipelines.satlas.index import read_index
from pipelines.satlas.product_config import PUBLISHED_CATEGORIES
from pipelines.satlas.validation.estimates import Estimate, precision_estimates, recall_estimates, scores_frame
from pipelines.satlas.validation.recall import read_reference
from pipelines.satlas.validation.report import (
    DEFINITIONS,
    PICTURE,
    draw_intervals,
    estimates_table,
    published_table,
)
from pipelines.satlas.validation.samples import (
    UNSURE,
    WORLD,
    WRONG,
    draw_samples,
    read_labels,
    with_verdicts,
    write_samples,
)
from pipelines.satlas.versions import HISTORY, products_folder

if TYPE_CHECKING:
    import geopandas
    import pandas as pd

logger = logging.getLogger(__name__)

SAMPLES_FILE: Final = "samples.csv"
LABELS_FILE: Final = "labels.csv"
SCORES_FILE: Final = "scores.csv"
REPORT_FILE: Final = "report.md"
TOLERANCE_AT_SEA_KM: Final = 400.0
"""About an exclusive economic zone of 200 nautical miles, in which platforms stand."""


class ValidationConfig(BaseModel):
    """How products are validated.

    Attributes:
        month: ``YYYY-MM``, or ``latest``.
        samples_per_continent: Most objects that a person judges per continent and category.
        seed: Of the order of samples.
        confidence: Of the intervals.
        recall_distance_m: How near a known object an object must lie to have found it.
        by_continent: Whether samples are drawn per continent; otherwise of the world as one.
        countries: Natural Earth's countries; empty: the user's cache.
        download_countries: Whether they are fetched where they are not there.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    month: str = Field(default="latest", pattern=r"^(latest|\d{4}-(0[1-9]|1[0-2]))$")
    samples_per_continent: int = Field(default=100, ge=1)
    seed: int = 0
    confidence: float = Field(default=0.95, gt=0, lt=1)
    recall_distance_m: float = Field(default=200.0, gt=0)
    by_continent: bool = True
    countries: str = ""
    download_countries: bool = False


@dataclass(frozen=True)
class Validation:
    """What a validation found.

    Attributes:
        task: Whose products.
        month: Of them.
        estimates: Precision, then recall.
        num_samples: Objects in the table to fill in.
        num_judged: Of those, with a verdict.
        confusers: What wrong objects were, counted.
        report: The report.
    """

    task: str
    month: str
    estimates: Sequence[Estimate]
    num_samples: int
    num_judged: int
    confusers: dict[str, int]
    report: Path


def validation_folder(root: Path, task: str) -> Path:
    """Where samples, labels and the report of a task lie; a person puts ``labels.csv`` there."""
    return root / "satlas" / "validation" / task


def validate_products(
    root: Path, task: str, config: ValidationConfig, reference: "geopandas.GeoDataFrame | None" = None
) -> Validation:
    """Draws samples of a month's product, scores those that are judged, and writes the report.

    ``samples.csv`` is the table to fill in, as ``labels.csv`` beside it; verdicts found there are carried over by the
    object's id, also from other months. A second call without new verdicts changes no byte.

    Args:
        root: The workspace.
        task: Whose products.
        config: The settings.
        reference: Known objects for recall, with a column ``category`` where the task has several; None leaves
            recall out.

    Raises:
        ArtefactError: The product is not indexed, or is not the one indexed.
        TableError: Labels that cannot be read.
        MissingTableError: The countries are not there.
    """
    if task not in PUBLISHED_CATEGORIES:
        raise ConfigurationError(
            f"{task} has no objects to validate; expected one of {', '.join(PUBLISHED_CATEGORIES)}"
        )
    month, objects, entry = read_indexed(root, task, config.month)
    continents = continents_of(places_of(objects), config)
    categories = tuple(PUBLISHED_CATEGORIES[task].values())
    samples = _draw(objects, continents, categories, config)
    folder = validation_folder(root, task)
    labels = read_labels(folder / LABELS_FILE) if (folder / LABELS_FILE).is_file() else None
    samples = with_verdicts(samples, labels)
    write_samples(folder / SAMPLES_FILE, samples)
    estimates = precision_estimates(samples, objects["category"].to_numpy(dtype=str), continents, config.confidence)
    if reference is not None:
        where = continents_of(places_of(reference), config)
        distance_m, confidence = config.recall_distance_m, config.confidence
        estimates += recall_estimates(task, reference, objects, where, distance_m, confidence)
    confusers = Counter(samples.loc[samples["verdict"] == WRONG, "confused_with"].replace("", "not told"))
    judged = int((samples["verdict"] != "").sum())
    told = Validation(
        task, month, estimates, len(samples), judged, dict(sorted(confusers.items())), folder / REPORT_FILE
    )
    _write(folder, told, samples, entry, config)
    return told


def read_indexed(root: Path, task: str, month: str) -> tuple[str, "geopandas.GeoDataFrame", dict[str, Any]]:
    """The month, objects and index entry of a product; refused unless it is the one the index names.

    Raises:
        ArtefactError: It is not indexed, missing or another.
    """
    import geopandas

    entries = {each["name"]: each for each in read_index(root)["entries"] if each["task"] == task}
    months = sorted(name for name in entries if name != HISTORY)
    month = months[-1] if months and month == "latest" else month
    if month not in months:
        found = f"{months[0]} to {months[-1]}" if months else "none"
        raise ArtefactError(f"{root}: {task} {month} is not indexed, found {found}; materialize satlas_index")
    path = products_folder(root, task) / month / f"{task}.parquet"
    expected = entries[month]["files"].get(path.name, {}).get("sha256")
    if not path.is_file() or file_sha256(path) != expected:
        raise ArtefactError(f"{path}: is not the file that the index names; materialize satlas_index")
    return month, geopandas.read_parquet(path), entries[month]


def continents_of(lonlat_deg: NDArray[np.float64], config: ValidationConfig) -> NDArray[np.str_]:
    """Continent of each place, or one name for all; at sea the continent of the nearest coast within 400 km."""
    if not config.by_continent:
        return np.full(len(lonlat_deg), WORLD)
    from pipelines.evaluation.tasks.continents import continent_of

    countries = Path(config.countries) if config.countries else None
    return continent_of(lonlat_deg, countries, tolerance_km=TOLERANCE_AT_SEA_KM, download=config.download_countries)


def _draw(
    objects: "geopandas.GeoDataFrame", continents: NDArray[np.str_], categories: Sequence[str], config: ValidationConfig
) -> "pd.DataFrame":
    import pandas as pd

    of_category = [objects["category"].to_numpy(dtype=str) == category for category in categories]
    drawn = [
        draw_samples(objects[rows], continents[rows], config.samples_per_continent, config.seed) for rows in of_category
    ]
    return pd.concat(drawn, ignore_index=True)


def _write(
    folder: Path, found: Validation, samples: "pd.DataFrame", entry: dict[str, Any], config: ValidationConfig
) -> None:
    from pipelines.drawing import save_png

    with replacing(folder / SCORES_FILE) as partial:
        scores_frame(found.estimates).to_csv(partial, index=False, lineterminator="\n")
    save_png(folder / PICTURE, draw_intervals(found.estimates, f"{found.task}, {found.month}"))
    with replacing(folder / REPORT_FILE) as partial:
        partial.write_text(_report(found, samples, entry, config), encoding="utf-8")
    settings = config.model_dump(mode="json")
    record = {
        "task": found.task,
        "month": found.month,
        "product_version": entry["version"],
        "product_sha256": entry["content_sha256"],
        "config": settings,
        "config_sha256": content_hash(settings),
        "packages": package_versions(),
        "commit": git_commit(),
    }
    write_json(folder / "record.json", record)


def _report(found: Validation, samples: "pd.DataFrame", entry: dict[str, Any], config: ValidationConfig) -> str:
    unsure = int((samples["verdict"] == UNSURE).sum()) if len(samples) else 0
    told = (
        f"Product version {entry['version']}, content {entry['content_sha256'][:16]}. Samples: {found.num_samples}, "
        f"judged {found.num_judged}, of them unsure {unsure}. To judge the others, fill in {SAMPLES_FILE} and keep it "
        f"as {LABELS_FILE}."
    )
    parts = [
        f"# Validation of {found.task}, {found.month}",
        told,
        estimates_table(found.estimates, config.confidence) if found.estimates else "The product has no objects.",
        f"![Intervals]({PICTURE})",
        DEFINITIONS.format(distance_m=config.recall_distance_m, percent=100 * config.confidence).rstrip(),
    ]
    if found.confusers:
        parts.append("## What wrong objects were")
        parts.append("\n".join(f"- {name}: {number}" for name, number in found.confusers.items()))
    parts.append("## The published report, recomputed")
    parts.append(published_table().rstrip())
    return "\n\n".join(parts) + "\n"


def validate_tasks(
    root: Path, tasks: Sequence[str], config: ValidationConfig, references: Mapping[str, str]
) -> tuple[list[Validation], dict[str, str]]:
    """Validates several tasks; returns what was found, and why a task could not be validated.

    Args:
        root: The workspace.
        tasks: Their names.
        config: The settings.
        references: Files of known objects by task.

    Raises:
        ArtefactError: No task could be validated.
    """
    found, failures = [], {}
    for task in tasks:
        try:
            found.append(validate_products(root, task, config, read_references(references.get(task, ""))))
        except SatclipError as error:
            logger.warning("%s is not validated: %s", task, error)
            failures[task] = str(error)
    if not found:
        told = "; ".join(f"{task}: {reason}" for task, reason in failures.items())
        raise ArtefactError(f"{root}: no task could be validated ({told})")
    return found, failures


def read_references(path: str) -> "geopandas.GeoDataFrame | None":
    """Known objects of a file, None where none is named."""
    return read_reference(Path(path)) if path else None
