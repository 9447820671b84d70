"""The quality of a dataset as `quality.json` and as one page of HTML beside it."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import NDArray

from pipelines.atomic import replacing
from pipelines.drawing import VERMILION, latitude_label, longitude_label
from pipelines.pages import png_uri, render_page
from pipelines.patches.quality_figures import (
    clear_chart,
    counts_chart,
    density_map,
    latitude_chart,
    month_chart,
    places_map,
)
from pipelines.patches.quality_summary import (
    PERCENTILES,
    AcceptanceLimits,
    QualitySummary,
    summarize_quality,
    write_quality,
)
from pipelines.patches.store import PatchStore
from pipelines.patches.uniformity import LandReference, WorstCap, land_reference
from pipelines.sampling.land import is_land
from pipelines.sampling.points import WHOLE_RANGE
from pipelines.sampling.tables import read_record

logger = logging.getLogger(__name__)

QUALITY_PAGE = "quality.html"
TEMPLATE = "quality_template.html"
LATTICE_SIZES = ((10_000, 1 << 18), (200_000, 1 << 20))
FEWEST_FOR_DENSITY = 1000
LARGEST_LATTICE = 1 << 22
"""The lattice's own error stays below a tenth of what independent uniform places show at these numbers of places."""


class QualitySource(Protocol):
    """What is needed of a dataset: its name, its table of places, the side of its patches, and what made its shards."""

    @property
    def version(self) -> str: ...  # noqa: D102

    @property
    def places(self) -> pd.DataFrame: ...  # noqa: D102

    @property
    def patch_size(self) -> int: ...  # noqa: D102

    @property
    def store(self) -> PatchStore: ...  # noqa: D102


def write_quality_page(
    dataset: QualitySource,
    folder: Path,
    bbox: Sequence[float] = WHOLE_RANGE,
    original_lonlat_deg: NDArray[np.float64] | None = None,
) -> QualitySummary:
    """Summarizes a dataset and writes `quality.json` and `quality.html`; equal datasets, equal files.

    Args:
        dataset: Such as `open_patch_dataset` returns.
        folder: Where the files go: the dataset's own folder.
        bbox: The box the places were drawn from: west, south, east, north in degrees.
        original_lonlat_deg: Patches chosen by the original's procedure, shape (n, 2), to compare with.
    """
    size = next((size for number, size in LATTICE_SIZES if len(dataset.places) < number), LARGEST_LATTICE)
    reference = land_reference(bbox, lattice_size=size)
    limits = recorded_limits(dataset.store)
    summary = summarize_quality(
        dataset.version, dataset.places, dataset.patch_size, reference, limits, original_lonlat_deg
    )
    page = render_quality(summary, draw_quality(summary, dataset.places, reference), reference)
    write_quality(folder, summary)
    with replacing(folder / QUALITY_PAGE) as partial:
        partial.write_text(page, encoding="utf-8")
    logger.info("%s: quality of %d patches, %.1f MB", folder / QUALITY_PAGE, summary.num_accepted, len(page) / 1e6)
    return summary


def drawn_bbox(sample_points: Path) -> Sequence[float]:
    """The box that the places of a workspace were drawn from; the default where its table does not tell."""
    if not sample_points.is_file():
        return WHOLE_RANGE
    config = read_record(sample_points).get("places_config")
    return list(config["bbox"]) if isinstance(config, dict) else WHOLE_RANGE


def recorded_limits(store: PatchStore) -> AcceptanceLimits | None:
    """The loosest limits that the finished shards were built under; None where a shard names none, as in an import."""
    found: list[AcceptanceLimits] = []
    for shard in store.finished_shards():
        settings = store.read_sidecar_record(shard).get("patch_config")
        if not isinstance(settings, dict):
            return None
        found.append(AcceptanceLimits(settings["max_unclear_fraction"], settings["max_nodata_fraction"]))
    if not found:
        return None
    return AcceptanceLimits(
        max(each.max_unclear_fraction for each in found), max(each.max_nodata_fraction for each in found)
    )


def draw_quality(summary: QualitySummary, places: pd.DataFrame, reference: LandReference) -> dict[str, Figure | None]:
    """The pictures of the page by name; None where there is no patch to draw."""
    accepted = places.loc[places["valid"].to_numpy(dtype=bool), ["lon_deg", "lat_deg"]].to_numpy(dtype=np.float64)
    limit = None if summary.limits is None else summary.limits.max_unclear_fraction
    without, refused = summary.num_places - summary.num_accepted, sum(summary.rejected_scenes.values())
    return {
        "places_map": places_map(places, reference, is_land),
        "density_map": density_map(accepted, reference, is_land) if len(accepted) >= FEWEST_FOR_DENSITY else None,
        "latitude_chart": latitude_chart(summary.latitude_bands) if len(accepted) else None,
        "clear_chart": clear_chart(summary.unclear_fraction, limit),
        "month_chart": month_chart(summary.months, summary.seasons),
        "baseline_chart": counts_chart("Processing baseline", "patches", summary.baselines),
        "rejected_places": counts_chart(
            "Places without a patch",
            f"{without:,} of {summary.num_places:,}, by reason",
            summary.rejected_places,
            VERMILION,
        ),
        "rejected_scenes": counts_chart(
            "Refused scenes", f"{refused:,} in all, by verdict", summary.rejected_scenes, VERMILION
        ),
    }


def render_quality(summary: QualitySummary, figures: dict[str, Figure | None], reference: LandReference) -> str:
    """The page as HTML."""
    reports = [("accepted patches", summary.uniformity), ("original's procedure", summary.original)]
    return render_page(
        "pipelines.patches",
        TEMPLATE,
        f"Quality of dataset {summary.version}",
        summary=summary,
        images={name: png_uri(figure) for name, figure in figures.items()},
        reports=[(name, report) for name, report in reports if report is not None],
        fractions=[
            ("cloud, shadow, defects", summary.unclear_fraction),
            ("snow", summary.snow_fraction),
            ("without data", summary.nodata_fraction),
        ],
        percentiles=PERCENTILES,
        num_caps=reference.cap_shares.size,
        at=_center,
        latitude=latitude_label,
    )


def _center(cap: WorstCap) -> str:
    return f"{latitude_label(round(cap.lat_deg))}, {longitude_label(round(cap.lon_deg))}"
