"""What a dataset's table of places says about its quality, in numbers: `quality.json`."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError
from sklearn.neighbors import KDTree

from pipelines.atomic import write_json
from pipelines.errors import DatasetError
from pipelines.patches.uniformity import EARTH_RADIUS_KM, LandReference, UniformityReport, measure_uniformity

QUALITY_FILE = "quality.json"
SEASONS = ("winter", "spring", "summer", "autumn")
LATITUDE_EDGES_DEG = (-90.0, -56.0, -35.0, -15.0, 15.0, 35.0, 50.0, 60.0, 70.0, 84.0, 90.0)
SHIFTED_PIXELS = 2.0
"""A patch whose center lies farther from its place than this was moved; less is snapping to the grid."""

HISTOGRAM_BINS = 20
PERCENTILES = (1, 5, 25, 50, 75, 95, 99)
PAIRS_BLOCK = 100_000


@dataclass(frozen=True)
class AcceptanceLimits:
    """What a patch had to satisfy: at most this share unclear, less than this share nodata."""

    max_unclear_fraction: float
    max_nodata_fraction: float


USUAL_LIMITS = AcceptanceLimits(max_unclear_fraction=0.01, max_nodata_fraction=0.10)
"""What histograms reach up to where no limit is recorded: the defaults of `PatchConfig`."""


@dataclass(frozen=True)
class Distribution:
    """A fraction over the accepted patches.

    Attributes:
        num_known: Patches whose fraction is known.
        num_unknown: The others.
        mean: Over the known ones, None where there is none.
        maximum: Their largest.
        percentiles: The 1st, 5th, 25th, 50th, 75th, 95th and 99th.
        bin_edges: Of the histogram, ascending.
        bin_counts: One fewer than edges.
    """

    num_known: int
    num_unknown: int
    mean: float | None
    maximum: float | None
    percentiles: tuple[float, ...]
    bin_edges: tuple[float, ...]
    bin_counts: tuple[int, ...]


@dataclass(frozen=True)
class LatitudeBand:
    """Places between two latitudes; ``density`` is the share of accepted patches over the share of land."""

    south_deg: float
    north_deg: float
    num_places: int
    num_accepted: int
    share_of_land: float
    density: float | None
    original_density: float | None

    @property
    def num_without_patch(self) -> int:
        """Places of the band that have no patch."""
        return self.num_places - self.num_accepted


@dataclass(frozen=True)
class Overlaps:
    """Pairs of accepted patches whose centers are closer than a patch's side, and how many chance would give."""

    num_pairs: int
    expected_pairs: float


@dataclass(frozen=True)
class Shifts:
    """How far accepted patches lie from the places that were drawn."""

    num_shifted: int
    largest_m: float | None


@dataclass(frozen=True)
class QualitySummary:
    """Quality of a dataset as its table of places tells it.

    Attributes:
        version: The dataset.
        num_places: Places drawn.
        num_accepted: Places with a patch.
        rejected_places: Places without a patch by reason.
        rejected_scenes: Candidates that were tried and refused, by verdict, over all places.
        uniformity: The accepted patches against independent uniform places; None without a patch.
        original: The same for places drawn by the original's procedure, where they were given.
        limits: What patches had to satisfy, where recorded.
        num_beyond_limits: Accepted patches that do not satisfy it; None without limits.
        unclear_fraction: Cloud, shadow and defects.
        snow_fraction: Snow.
        nodata_fraction: Without data.
        months: Patches per month, January first.
        seasons: Patches per meteorological season of their hemisphere.
        years: Patches per year.
        baselines: Patches per processing baseline.
        offsets: Patches per radiometric offset.
        offset_sources: Patches per source of the offset.
        num_duplicates: Patches whose pixels occur in an earlier row.
        overlaps: Patches that overlap.
        shifts: Patches away from their place.
        latitude_bands: From south to north.
    """

    version: str
    num_places: int
    num_accepted: int
    rejected_places: dict[str, int]
    rejected_scenes: dict[str, int]
    uniformity: UniformityReport | None
    original: UniformityReport | None
    limits: AcceptanceLimits | None
    num_beyond_limits: int | None
    unclear_fraction: Distribution
    snow_fraction: Distribution
    nodata_fraction: Distribution
    months: tuple[int, ...]
    seasons: dict[str, int]
    years: dict[str, int]
    baselines: dict[str, int]
    offsets: dict[str, int]
    offset_sources: dict[str, int]
    num_duplicates: int
    overlaps: Overlaps
    shifts: Shifts
    latitude_bands: tuple[LatitudeBand, ...]


def summarize_quality(
    version: str,
    places: pd.DataFrame,
    patch_size_px: int,
    reference: LandReference,
    limits: AcceptanceLimits | None = None,
    original_lonlat_deg: NDArray[np.float64] | None = None,
) -> QualitySummary:
    """Counts and measures a table of places; equal tables, equal summaries.

    Args:
        version: Name of the dataset.
        places: Columns of `PatchRow` and sha256.
        patch_size_px: Side of a patch.
        reference: The land the places were drawn from.
        limits: What patches had to satisfy.
        original_lonlat_deg: Patches chosen by the original's procedure, shape (n, 2), to compare with.
    """
    accepted = places[places["valid"].to_numpy(dtype=bool)]
    rejected = places[~places["valid"].to_numpy(dtype=bool)]
    lonlat_deg = accepted[["lon_deg", "lat_deg"]].to_numpy(dtype=np.float64)
    days, hemisphere = _days(accepted), np.where(accepted["lat_deg"].to_numpy() < 0, 2, 0)
    known = days.notna().to_numpy()
    months = days.dt.month.to_numpy(dtype=np.float64)[known].astype(int)
    seasons = (months % 12 // 3 + hemisphere[known]) % 4
    verdicts = Counter(verdict for text in places["rejections"] for _, verdict in json.loads(text))
    uniformity = measure_uniformity(lonlat_deg, reference) if len(lonlat_deg) else None
    original = None if original_lonlat_deg is None else measure_uniformity(original_lonlat_deg, reference)
    bounds = limits or USUAL_LIMITS
    return QualitySummary(
        version=version,
        num_places=len(places),
        num_accepted=len(accepted),
        rejected_places=_counts(rejected["reason"]),
        rejected_scenes=dict(sorted(verdicts.items())),
        uniformity=uniformity,
        original=original,
        limits=limits,
        num_beyond_limits=None if limits is None else _count_beyond(accepted, limits),
        unclear_fraction=_distribution(accepted["unclear_fraction"], bounds.max_unclear_fraction),
        snow_fraction=_distribution(accepted["snow_fraction"], 1.0),
        nodata_fraction=_distribution(accepted["nodata_fraction"], bounds.max_nodata_fraction),
        months=tuple(int(count) for count in np.bincount(months, minlength=13)[1:]),
        seasons={name: int((seasons == index).sum()) for index, name in enumerate(SEASONS)},
        years=_counts(days[known].dt.year),
        baselines=_counts(accepted["processing_baseline"].replace("", "unknown")),
        offsets=_counts(accepted["boa_add_offset"]),
        offset_sources=_counts(accepted["offset_source"].replace("", "unknown")),
        num_duplicates=int(accepted["sha256"].duplicated().sum()),
        overlaps=_overlaps(accepted, lonlat_deg, patch_size_px, reference),
        shifts=_shifts(accepted, lonlat_deg),
        latitude_bands=_latitude_bands(places, lonlat_deg, reference, original_lonlat_deg),
    )


def write_quality(folder: Path, summary: QualitySummary) -> None:
    """Writes `quality.json`, whole or not at all."""
    write_json(folder / QUALITY_FILE, asdict(summary))


def read_quality(folder: Path) -> QualitySummary:
    """Reads what `write_quality` wrote.

    Raises:
        DatasetError: there is none, or it is of another version of this package.
    """
    path = folder / QUALITY_FILE
    if not path.is_file():
        raise DatasetError(f"{path}: no quality summary; materialize patch_dataset")
    try:
        return TypeAdapter(QualitySummary).validate_json(path.read_bytes())
    except ValidationError as error:
        raise DatasetError(
            f"{path}: not a quality summary of this version ({error.error_count()} fields differ); "
            "materialize patch_dataset again"
        ) from error


def density_by_latitude(lat_deg: NDArray[np.float64], reference: LandReference) -> NDArray[np.float64]:
    """Share of the places over share of the land in each band of ``LATITUDE_EDGES_DEG``; NaN where there is no land."""
    found = _histogram(lat_deg) / max(len(lat_deg), 1)
    land = _histogram(reference.lonlat_deg[:, 1]) / len(reference.lonlat_deg)
    density: NDArray[np.float64] = np.divide(found, land, out=np.full(len(land), np.nan), where=land > 0)
    return density


def _histogram(lat_deg: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.histogram(lat_deg, LATITUDE_EDGES_DEG)[0].astype(np.float64)


def _latitude_bands(
    places: pd.DataFrame,
    lonlat_deg: NDArray[np.float64],
    reference: LandReference,
    original_lonlat_deg: NDArray[np.float64] | None,
) -> tuple[LatitudeBand, ...]:
    drawn = places["place_lat_deg"].to_numpy(dtype=np.float64)
    with_patch = drawn[places["valid"].to_numpy(dtype=bool)]
    land = _histogram(reference.lonlat_deg[:, 1]) / len(reference.lonlat_deg)
    density = density_by_latitude(lonlat_deg[:, 1], reference)
    original = np.full(len(land), np.nan)
    if original_lonlat_deg is not None:
        original = density_by_latitude(original_lonlat_deg[:, 1], reference)
    bands = zip(
        LATITUDE_EDGES_DEG, LATITUDE_EDGES_DEG[1:], _histogram(drawn), _histogram(with_patch), land, density, original,
        strict=False,
    )  # fmt: skip
    return tuple(
        LatitudeBand(south, north, int(num), int(good), float(share), _finite(ratio), _finite(other))
        for south, north, num, good, share, ratio, other in bands
        if share > 0 or num > 0
    )


def _days(accepted: pd.DataFrame) -> pd.Series:
    texts = accepted["datetime"].astype(object)
    return pd.to_datetime(texts.where(texts != ""), utc=True, format="ISO8601")


def _distribution(values: pd.Series, limit: float) -> Distribution:
    """The histogram reaches up to the limit, or to the largest value where that is beyond it."""
    fractions = values.to_numpy(dtype=np.float64)
    known = fractions[np.isfinite(fractions)]
    if not len(known):
        return Distribution(0, len(fractions), None, None, (), (), ())
    counts, edges = np.histogram(known, HISTOGRAM_BINS, range=(0.0, max(float(known.max()), limit)))
    return Distribution(
        num_known=len(known),
        num_unknown=len(fractions) - len(known),
        mean=float(known.mean()),
        maximum=float(known.max()),
        percentiles=_floats(np.percentile(known, PERCENTILES)),
        bin_edges=_floats(edges),
        bin_counts=tuple(int(count) for count in counts),
    )


def _count_beyond(accepted: pd.DataFrame, limits: AcceptanceLimits) -> int:
    """A fraction that is unknown is not beyond: it says that no test was asked for."""
    unclear = accepted["unclear_fraction"].to_numpy(dtype=np.float64)
    nodata = accepted["nodata_fraction"].to_numpy(dtype=np.float64)
    return int(((unclear > limits.max_unclear_fraction) | (nodata >= limits.max_nodata_fraction)).sum())


def _overlaps(
    accepted: pd.DataFrame, lonlat_deg: NDArray[np.float64], patch_size_px: int, reference: LandReference
) -> Overlaps:
    if len(accepted) < 2:
        return Overlaps(0, 0.0)
    side_km = patch_size_px * float(accepted["resolution_m"].median()) / 1000
    if not np.isfinite(side_km):
        return Overlaps(0, 0.0)
    vectors = _vectors(lonlat_deg)
    tree, chord = KDTree(vectors), 2 * np.sin(side_km / EARTH_RADIUS_KM / 2)
    neighbors = sum(
        int(tree.query_radius(vectors[start : start + PAIRS_BLOCK], chord, count_only=True).sum())
        for start in range(0, len(vectors), PAIRS_BLOCK)
    )
    pairs = len(vectors) * (len(vectors) - 1) / 2
    return Overlaps((neighbors - len(vectors)) // 2, float(pairs * np.pi * side_km**2 / reference.land_area_km2))


def _shifts(accepted: pd.DataFrame, lonlat_deg: NDArray[np.float64]) -> Shifts:
    if not len(accepted):
        return Shifts(0, None)
    places = _vectors(accepted[["place_lon_deg", "place_lat_deg"]].to_numpy(dtype=np.float64))
    chords = np.linalg.norm(_vectors(lonlat_deg) - places, axis=1)
    distances_m = 2 * np.arcsin(np.minimum(chords / 2, 1.0)) * EARTH_RADIUS_KM * 1000
    shifted = distances_m > SHIFTED_PIXELS * accepted["resolution_m"].to_numpy(dtype=np.float64)
    return Shifts(int(shifted.sum()), float(distances_m.max()))


def _vectors(lonlat_deg: NDArray[np.float64]) -> NDArray[np.float64]:
    lon, lat = np.deg2rad(lonlat_deg).T
    vectors: NDArray[np.float64] = np.column_stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)])
    return vectors


def _counts(values: pd.Series) -> dict[str, int]:
    return {str(name): int(count) for name, count in values.value_counts().sort_index().items()}


def _floats(values: Sequence[float] | NDArray[np.float64]) -> tuple[float, ...]:
    return tuple(float(value) for value in values)


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
