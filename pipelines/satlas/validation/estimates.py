"""Precision and recall per continent, from verdicts and from known objects."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from pipelines.satlas.history import places_of
from pipelines.satlas.predictions import TASK_KINDS
from pipelines.satlas.product_config import PUBLISHED_CATEGORIES
from pipelines.satlas.validation.proportions import (
    Proportion,
    clustered_proportion,
    proportion,
    stratified_proportion,
)
from pipelines.satlas.validation.recall import matched_within, pixels_found
from pipelines.satlas.validation.samples import CORRECT, WRONG

if TYPE_CHECKING:
    import geopandas
    import pandas as pd

ALL: Final = "All"


@dataclass(frozen=True)
class Estimate:
    """Precision or recall of one category on one continent.

    Attributes:
        measure: ``precision`` or ``recall``.
        unit: What is counted: ``objects`` or ``pixels``.
        category: Of the objects.
        continent: Or `ALL`.
        found: How many were right, or found; of pixels, pixels.
        counted: How many were judged, or are known.
        num_objects: Objects in the product there (precision), or known objects (recall).
        estimate: The share with its interval; None where nothing was counted.
    """

    measure: str
    unit: str
    category: str
    continent: str
    found: int
    counted: int
    num_objects: int
    estimate: Proportion | None


def precision_estimates(
    samples: "pd.DataFrame", categories: NDArray[np.str_], continents: NDArray[np.str_], confidence: float
) -> list[Estimate]:
    """Precision of each category per continent, and of all continents weighted by objects.

    Args:
        samples: Columns category, continent, verdict.
        categories: Of all objects of the product.
        continents: Of all objects of the product.
        confidence: Of the intervals.
    """
    estimates = []
    for category in np.unique(categories).tolist():
        hits, trials, sizes = [], [], []
        for continent in np.unique(continents[categories == category]).tolist():
            own = samples[(samples["category"] == category) & (samples["continent"] == continent)]
            hits.append(int((own["verdict"] == CORRECT).sum()))
            trials.append(hits[-1] + int((own["verdict"] == WRONG).sum()))
            sizes.append(int(((categories == category) & (continents == continent)).sum()))
            share = proportion(hits[-1], trials[-1], confidence) if trials[-1] else None
            estimates.append(
                Estimate("precision", "objects", category, continent, hits[-1], trials[-1], sizes[-1], share)
            )
        share = stratified_proportion(hits, trials, sizes, confidence) if sum(trials) else None
        estimates.append(Estimate("precision", "objects", category, ALL, sum(hits), sum(trials), sum(sizes), share))
    return estimates


def recall_estimates(
    task: str,
    reference: "geopandas.GeoDataFrame",
    objects: "geopandas.GeoDataFrame",
    continents: NDArray[np.str_],
    distance_m: float,
    confidence: float,
) -> list[Estimate]:
    """Recall of each category per continent and of all known objects: by pixels for polygons, else by objects.

    Args:
        task: Whose products.
        reference: Known objects; a column ``category`` tells them apart, without it all are of the task's first.
        objects: The product.
        continents: Of the known objects.
        distance_m: How near an object must lie to a known one.
        confidence: Of the intervals.
    """
    names = PUBLISHED_CATEGORIES[task]
    default = next(iter(names.values()))
    known = reference["category"].to_numpy(dtype=str) if "category" in reference else np.full(len(reference), default)
    by_pixels = TASK_KINDS[task] == "polygons" and bool(reference.geom_type.isin(["Polygon", "MultiPolygon"]).all())
    estimates = []
    for category in names.values():
        rows = known == category
        own = objects[objects["category"] == category]
        if by_pixels:
            hits, totals = pixels_found(reference.geometry.to_numpy()[rows], own.geometry.to_numpy())
        else:
            found = matched_within(places_of(reference[rows]), places_of(own), distance_m)
            hits, totals = found.astype(np.float64), np.ones(len(found))
        for continent in [*np.unique(continents[rows]).tolist(), ALL]:
            here = np.ones(len(totals), bool) if continent == ALL else continents[rows] == continent
            estimates.append(_recall(category, continent, hits[here], totals[here], confidence, by_pixels=by_pixels))
    return estimates


def _recall(
    category: str,
    continent: str,
    hits: NDArray[np.float64],
    totals: NDArray[np.float64],
    confidence: float,
    *,
    by_pixels: bool,
) -> Estimate:
    share = None
    if totals.sum() > 0:
        counted = clustered_proportion if by_pixels else lambda h, t, c: proportion(float(h.sum()), float(t.sum()), c)
        share = counted(hits, totals, confidence)
    unit = "pixels" if by_pixels else "objects"
    return Estimate("recall", unit, category, continent, int(hits.sum()), int(totals.sum()), len(totals), share)


def scores_frame(estimates: Sequence[Estimate]) -> "pd.DataFrame":
    """Estimates as a table, a row each."""
    import pandas as pd

    rows = []
    for each in estimates:
        share = each.estimate
        interval = {"value": share.value, "low": share.low, "high": share.high} if share else {}
        told = {key: value for key, value in each.__dict__.items() if key != "estimate"}
        rows.append({**told, "value": np.nan, "low": np.nan, "high": np.nan, **interval})
    return pd.DataFrame(rows)
