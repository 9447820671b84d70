"""The table of the species task, from the files of iNaturalist 2018 that its user downloads."""

import json
import logging
from pathlib import Path
from typing import Any

import pandas as pd

from pipelines.atomic import replacing
from pipelines.errors import MissingTableError, TableError

logger = logging.getLogger(__name__)


def write_species_table(annotations: Path, locations: Path, table: Path) -> int:
    """Writes a CSV of ``lon, lat, species`` (number of the category), a row per annotated image; returns the rows.

    Images without a place keep their row, with empty coordinates, so that a task counts them.

    Args:
        annotations: Such as ``train2018.json`` of the iNaturalist 2018 competition.
        locations: Such as ``train2018_locations.json`` of Mac Aodha et al. 2019.
        table: Where the CSV goes.

    Raises:
        MissingTableError: A file is not there.
        TableError: A file is not of its form, or no image has a place.
    """
    try:
        annotated = {int(each["image_id"]): each["category_id"] for each in _read(annotations)["annotations"]}
        places = {int(each["id"]): (each["lon"], each["lat"]) for each in _read(locations)}
    except (KeyError, TypeError, ValueError) as error:
        raise TableError(
            f"{annotations}, {locations}: not of the form of iNaturalist 2018 ({type(error).__name__}: {error}); "
            "expected annotations with image_id and category_id, and a list of id, lon, lat"
        ) from error
    rows = [(*places.get(image, (None, None)), species) for image, species in annotated.items()]
    frame = pd.DataFrame(rows, columns=["lon", "lat", "species"])
    if frame["lon"].isna().all():
        raise TableError(f"{locations}: has a place for none of the {len(frame)} images of {annotations}")
    with replacing(table) as partial:
        frame.to_csv(partial, index=False)
    logger.info("%s: %d images, %d of them without a place", table, len(frame), int(frame["lon"].isna().sum()))
    return len(frame)


def _read(path: Path) -> Any:  # noqa: ANN401
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise MissingTableError(f"{path}: no such file; download it as docs/evaluation.md says") from error
