"""The published validation of Satlas, and what can be computed from the counts behind it.

Source: allenai/satlas, DataValidationReport.md as of 16 August 2023 (products of 2022-10).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from pipelines.satlas.validation.proportions import CONFIDENCE, Proportion, proportion, stratified_proportion

SAMPLES_PER_CONTINENT: Final = 100
CONTINENTS: Final = ("Africa", "Asia", "Europe", "North America", "South America", "Oceania")

Row = tuple[int | None, float | None, int]
"""Precision in percent, recall in percent, objects in the product; None where the report has no number."""


def _table(*rows: Row) -> Mapping[str, Row]:
    return MappingProxyType(dict(zip(CONTINENTS, rows, strict=True)))


PUBLISHED: Final[Mapping[str, Mapping[str, Row]]] = MappingProxyType(
    {
        "solar_farm": _table(
            (57, None, 1_051), (97, 77.9, 87_197), (94, 78.2, 42_471), (86, 89.1, 15_493), (76, 67.8, 2_091),
            (74, 57.4, 797),
        ),
        "wind_turbine": _table(
            (100, None, 2_223), (100, 96.7, 130_233), (98, 92.5, 78_283), (100, 87.5, 69_161), (99, None, 8_371),
            (94, None, 3_471),
        ),
        "offshore_wind_turbine": _table(
            (None, None, 0), (99, 91.1, 5_509), (100, 97.0, 5_753), (None, None, 10), (None, None, 0), (None, None, 0)
        ),
        "offshore_platform": _table(
            (90, 90.6, 842), (96, 48.3, 6_531), (88, 66.1, 1_087), (94, 87.5, 2_277), (96, None, 1_329), (81, None, 126)
        ),
    }
)  # fmt: skip
PUBLISHED_ALL: Final[Mapping[str, Row]] = MappingProxyType(
    {
        "solar_farm": (95, 78.9, 149_100),
        "wind_turbine": (99, 93.2, 291_742),
        "offshore_wind_turbine": (99, 94.1, 11_272),
        "offshore_platform": (94, 61.7, 12_192),
    }
)


@dataclass(frozen=True)
class PublishedComparison:
    """A published figure beside the one computed from the counts.

    Attributes:
        category: Of the objects.
        continent: A name of `CONTINENTS`, or All.
        published_percent: As printed; None where the report has no number.
        computed: Precision with its interval; None where nothing was sampled.
        published_recall_percent: As printed; it cannot be computed again.
        num_objects: Objects in the product as printed; for All, the sum of the continents.
        remark: Why they differ, or what cannot be computed; empty where they agree.
    """

    category: str
    continent: str
    published_percent: int | None
    computed: Proportion | None
    published_recall_percent: float | None
    num_objects: int
    remark: str


def compare_published(confidence: float = CONFIDENCE) -> list[PublishedComparison]:
    """Precision of the published products, recomputed from the counts, with intervals.

    Per continent 100 objects were judged, so that the printed percentage is the number found right. The whole is each
    continent's share weighted by its objects.
    """
    rows = []
    for category, table in PUBLISHED.items():
        for continent, (precision, recall, number) in table.items():
            computed = None if precision is None else proportion(precision, SAMPLES_PER_CONTINENT, confidence)
            remark = "" if computed else f"{number} objects, fewer than the {SAMPLES_PER_CONTINENT} to be sampled"
            rows.append(PublishedComparison(category, continent, precision, computed, recall, number, remark))
        rows.append(_compare_all(category, confidence))
    return rows


def _compare_all(category: str, confidence: float) -> PublishedComparison:
    table, (printed, recall, printed_number) = PUBLISHED[category], PUBLISHED_ALL[category]
    hits = [row[0] or 0 for row in table.values()]
    trials = [0 if row[0] is None else SAMPLES_PER_CONTINENT for row in table.values()]
    sizes = [row[2] for row in table.values()]
    computed = stratified_proportion(hits, trials, sizes, confidence)
    assert printed is not None
    remarks = [_difference(printed, 100 * computed.value, 100 * sum(hits) / sum(trials))]
    if sum(sizes) != printed_number:
        remarks.append(f"the continents sum to {sum(sizes):,} objects, not {printed_number:,}")
    left_out = sum(size for size, trial in zip(sizes, trials, strict=True) if size and not trial)
    if left_out:
        remarks.append(f"{left_out} objects of continents without a sample are left out of the mean")
    told = "; ".join(each for each in remarks if each)
    return PublishedComparison(category, "All", printed, computed, recall, sum(sizes), told)


def _difference(printed: int, percent: float, pooled: float) -> str:
    if printed == round(percent):
        return ""
    if printed == int(percent):
        return f"the mean weighted by objects is {percent:.1f}: printed rounded down"
    return (
        f"the mean weighted by objects is {percent:.1f} and that of all judged objects {pooled:.1f}; how the printed "
        f"{printed} was weighted is not stated"
    )


def recall_remark() -> str:
    """What the published report does not let anyone compute."""
    return (
        "Recall: the report prints percentages and not how many labels each is of, so that neither intervals nor the "
        "figures for All can be computed from it; they are repeated as printed. Recall of solar farms is of pixels, of "
        "the others of objects."
    )
