"""The label of one patch: which map serves it, and whether enough of its pixels have a class."""

import json
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pandas as pd

from pipelines.ground_cover.classes import UNKNOWN, LandCoverClasses
from pipelines.ground_cover.config import LabelsConfig
from pipelines.ground_cover.grids import PatchGrid
from pipelines.ground_cover.labels import (
    NO_DATA,
    NO_GRID,
    NO_LABEL_ITEM,
    NO_PATCH,
    NO_YEAR,
    OTHER_YEAR,
    UNKNOWN_CODES,
    UNREADABLE,
    VALID,
    GroundCoverLabels,
)
from pipelines.ground_cover.map_items import MapItems, YearOfItems, days_since_epoch
from pipelines.ground_cover.reading import ClassMap, read_class_map
from pipelines.patches.file_reader import FileReader

TOLD_COLUMNS: Final = ("years_apart", "map_items", "failures", "unknown_codes")
"""Columns beside a label: years between patch and map, and as JSON its items, verdicts on others, and unknown codes."""


@dataclass(frozen=True)
class PatchLabel:
    """The label of one patch, and what is told of it.

    Attributes:
        class_map: Its pixels; None where no map was read.
    """

    status: str
    year: int
    years_apart: float = float("nan")
    class_map: ClassMap | None = None


def label_patch(
    place: Any,  # noqa: ANN401
    size_px: int,
    items: MapItems,
    reader: FileReader,
    classes: LandCoverClasses,
    config: LabelsConfig,
) -> PatchLabel:
    """The label of one patch from the map nearest to its date; a year that leaves too many gaps gives way to the next.

    Args:
        place: Row of a dataset's places: valid, datetime, epsg, x_ul_m, y_ul_m, resolution_m.
        size_px: Side of the patch.
        items: Where maps lie.
        reader: Of their files.
        classes: Of the map.
        config: What is accepted.

    Raises:
        SceneReadError: a file cannot be read now.
    """
    if not place.valid:
        return PatchLabel(NO_PATCH, NO_YEAR)
    grid = PatchGrid(int(place.epsg), float(place.x_ul_m), float(place.y_ul_m), float(place.resolution_m), size_px)
    if grid.epsg <= 0 or not np.isfinite([grid.x_ul_m, grid.y_ul_m]).all() or not grid.resolution_m > 0:
        return PatchLabel(NO_GRID, NO_YEAR)
    years = items.at(grid.footprint(), days_since_epoch(place.datetime), grid.epsg)
    if not years:
        return PatchLabel(NO_LABEL_ITEM, NO_YEAR)
    near = [each for each in years if each.years_apart <= config.max_years_apart]
    if not near:
        return PatchLabel(OTHER_YEAR, years[0].year, years[0].years_apart)
    first: PatchLabel | None = None
    for year in near:
        label = _label_of_year(year, grid, reader, classes, config)
        if label.status == VALID:
            return label
        first = first or label
    assert first is not None
    return first


def _label_of_year(
    year: YearOfItems, grid: PatchGrid, reader: FileReader, classes: LandCoverClasses, config: LabelsConfig
) -> PatchLabel:
    class_map = read_class_map(reader, grid, year.items, classes)
    valid = float((class_map.positions >= 0).mean())
    unknown = float((class_map.positions == UNKNOWN).mean())
    if unknown > config.maximum_unknown_fraction:
        status = UNKNOWN_CODES
    elif valid >= config.minimum_valid_fraction:
        status = VALID
    else:
        status = UNREADABLE if class_map.failures else NO_DATA
    return PatchLabel(status, year.year, year.years_apart, class_map)


def labels_of_patches(places: pd.DataFrame, found: list[PatchLabel], classes: LandCoverClasses) -> GroundCoverLabels:
    """The labels of places, in their order."""
    maps = [each.class_map for each in found]
    counts = np.array([np.zeros(len(classes)) if each is None else each.counts(len(classes)) for each in maps])
    totals = counts.sum(axis=1)
    return GroundCoverLabels(
        rows=places["row"].to_numpy(dtype=np.int64),
        lonlat_deg=places[["lon_deg", "lat_deg"]].to_numpy(dtype=np.float64),
        fractions=(counts / np.maximum(totals, 1)[:, None]).astype(np.float32),
        num_valid_pixels=totals.astype(np.int64),
        label_year=np.array([each.year for each in found], dtype=np.int64),
        status=tuple(each.status for each in found),
        classes=classes,
    )


def told_columns(found: list[PatchLabel]) -> dict[str, list[Any]]:
    """Columns beside the labels: which items a label is from, what was wrong with others, and unknown codes."""
    maps = [each.class_map for each in found]
    return {
        "years_apart": [each.years_apart for each in found],
        "map_items": [json.dumps(each.item_ids if each else ()) for each in maps],
        "failures": [json.dumps(each.failures if each else {}) for each in maps],
        "unknown_codes": [json.dumps(each.unknown_codes if each else {}) for each in maps],
    }
