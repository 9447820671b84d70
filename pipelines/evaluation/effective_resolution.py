"""How fine a location encoder sees: which checkerboards it can tell, and how fast similarity falls with distance."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipelines.evaluation.methods import LocationFeatures
from pipelines.evaluation.probes import Probe, RidgeProbe
from pipelines.evaluation.sphere import EARTH_RADIUS_KM, great_circle_km, unit_vectors
from pipelines.evaluation.splits import random_folds

CELL_SIDES_KM: Final = (10.0, 20.0, 50.0, 100.0, 222.0, 555.0, 1110.0, 2220.0, 5000.0)
_Z_95: Final = 1.959963984540054
_NUM_FOLDS: Final = 5


@dataclass(frozen=True)
class Resolution:
    """What is known of an encoder's fineness.

    Attributes:
        checkerboard: Columns side_km, accuracy, lower, upper (95 %, Wilson), and chance, the share of the commoner
            colour, which is above one half where few large cells meet the land.
        similarity: Columns distance_km (middle of a bin), mean, lower_decile, upper_decile of the cosine, num_pairs.
    """

    checkerboard: pd.DataFrame
    similarity: pd.DataFrame

    @property
    def finest_side_km(self) -> float:
        """Smallest side from which on all larger cells are told apart: lower bounds above chance; NaN if none."""
        told = self.checkerboard.sort_values("side_km", ascending=False)
        resolved = told.loc[(told["lower"] > told["chance"]).cumprod().astype(bool), "side_km"]
        return float(resolved.min()) if len(resolved) else float("nan")

    @property
    def half_similarity_km(self) -> float:
        """Distance at which the mean cosine has first fallen half way from 1 to its smallest; NaN if it does not.

        Interpolated between the bins by the logarithm of the distance.
        """
        mean, distance = self.similarity["mean"].to_numpy(), self.similarity["distance_km"].to_numpy()
        half = (1.0 + mean.min()) / 2
        fallen = np.flatnonzero(mean <= half)
        if not len(fallen) or mean.min() >= 1.0:
            return float("nan")
        first = int(fallen[0])
        if first == 0:
            return float(distance[0])
        above, below = mean[first - 1], mean[first]
        share = (above - half) / (above - below)
        return float(distance[first - 1] * (distance[first] / distance[first - 1]) ** share)


def measure_resolution(
    method: LocationFeatures,
    num_places: int = 4000,
    *,
    sides_km: Sequence[float] = CELL_SIDES_KM,
    is_wanted: Callable[[NDArray[np.float64]], NDArray[np.bool_]] | None = None,
    probe: Probe | None = None,
    seed: int = 0,
) -> Resolution:
    """Both measures of a method, over places drawn uniformly on the sphere.

    Args:
        method: What turns places into features.
        num_places: Places of each measure.
        sides_km: Sides of the cells of the checkerboards.
        is_wanted: Which places to keep, for example those on land; takes (n, 2), longitude first.
        probe: What is to tell the colours from the features; a ridge by default.
        seed: Of places and folds.

    Raises:
        ValueError: Fewer than 100 places, or a side that leaves the globe fewer than two rows of cells.
    """
    if num_places < 100:
        raise ValueError(f"num_places is {num_places}; expected at least 100")
    rng = np.random.default_rng(seed)
    places = draw_places(num_places, rng, is_wanted)
    features, folds = np.asarray(method.features(places)), random_folds(places, _NUM_FOLDS, seed)
    rows = []
    for side_km in sides_km:
        color = checkerboard(places, side_km)
        prediction = (probe or RidgeProbe()).out_of_fold(features, color, folds, "classification", seed).prediction
        right = int((prediction == color).sum())
        chance = max(float(color.mean()), 1.0 - float(color.mean()))
        rows.append(
            {"side_km": side_km, "accuracy": right / num_places, **_wilson(right, num_places), "chance": chance}
        )
    return Resolution(pd.DataFrame(rows), similarity_by_distance(method, num_places, rng, is_wanted))


def draw_places(
    number: int,
    rng: np.random.Generator,
    is_wanted: Callable[[NDArray[np.float64]], NDArray[np.bool_]] | None = None,
) -> NDArray[np.float64]:
    """Places uniform by area, shape (number, 2), longitude first in degrees."""
    found: list[NDArray[np.float64]] = []
    while sum(map(len, found)) < number:
        lon = rng.uniform(-180.0, 180.0, 2 * number)
        drawn = np.column_stack([lon, np.degrees(np.arcsin(rng.uniform(-1.0, 1.0, 2 * number)))])
        found.append(drawn if is_wanted is None else drawn[is_wanted(drawn)])
    return np.concatenate(found)[:number]


def checkerboard(lonlat_deg: NDArray[np.float64], side_km: float) -> NDArray[np.int64]:
    """Colour, 0 or 1, of the cell of each place; cells are about ``side_km`` high and wide everywhere.

    Rows run along parallels; each has an even number of cells, so that colours alternate across the antimeridian, too.

    Raises:
        ValueError: The globe has fewer than two rows of such cells.
    """
    num_rows = round(np.pi * EARTH_RADIUS_KM / side_km)
    if num_rows < 2:
        raise ValueError(f"side_km is {side_km}; expected at most {np.pi * EARTH_RADIUS_KM / 2:.0f}")
    row = np.minimum((lonlat_deg[:, 1] + 90.0) / 180.0 * num_rows, num_rows - 1).astype(np.int64)
    middle = np.deg2rad((row + 0.5) / num_rows * 180.0 - 90.0)
    pairs = np.maximum(np.round(np.pi * EARTH_RADIUS_KM * np.cos(middle) / side_km), 1.0)
    column = np.floor((lonlat_deg[:, 0] + 180.0) / 360.0 * 2.0 * pairs).astype(np.int64)
    return (row + column) % 2


def similarity_by_distance(
    method: LocationFeatures,
    num_pairs: int,
    rng: np.random.Generator,
    is_wanted: Callable[[NDArray[np.float64]], NDArray[np.bool_]] | None = None,
    num_bins: int = 16,
) -> pd.DataFrame:
    """Cosine similarity of pairs of places, in bins of distance that grow by equal factors from 1 to 20,000 km."""
    first = draw_places(num_pairs, rng, is_wanted)
    distance_km = np.exp(rng.uniform(0.0, np.log(20_000.0), num_pairs))
    second = _displaced(first, distance_km / EARTH_RADIUS_KM, rng.uniform(0.0, 2 * np.pi, num_pairs))
    one, other = (np.asarray(method.features(each), dtype=np.float64) for each in (first, second))
    lengths = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    cosine = (one * other).sum(axis=1) / np.maximum(lengths, 1e-30)
    chord = np.linalg.norm(unit_vectors(first) - unit_vectors(second), axis=1)
    edges = np.geomspace(1.0, 20_100.0, num_bins + 1)
    bins = np.clip(np.digitize(great_circle_km(chord), edges) - 1, 0, num_bins - 1)
    rows: list[dict[str, Any]] = []
    for index in range(num_bins):
        values = cosine[bins == index]
        if len(values):
            low, high = np.quantile(values, [0.1, 0.9])
            middle = float(np.sqrt(edges[index] * edges[index + 1]))
            rows.append(
                {
                    "distance_km": middle,
                    "mean": float(values.mean()),
                    "lower_decile": float(low),
                    "upper_decile": float(high),
                    "num_pairs": len(values),
                }
            )
    return pd.DataFrame(rows)


def _displaced(
    lonlat_deg: NDArray[np.float64], angle: NDArray[np.float64], bearing: NDArray[np.float64]
) -> NDArray[np.float64]:
    lon, lat = np.deg2rad(lonlat_deg).T
    sin_lat = np.sin(lat) * np.cos(angle) + np.cos(lat) * np.sin(angle) * np.cos(bearing)
    moved = lon + np.arctan2(np.sin(bearing) * np.sin(angle) * np.cos(lat), np.cos(angle) - np.sin(lat) * sin_lat)
    wrapped = (np.rad2deg(moved) + 180.0) % 360.0 - 180.0
    return np.column_stack([wrapped, np.rad2deg(np.arcsin(np.clip(sin_lat, -1.0, 1.0)))])


def _wilson(right: int, number: int) -> dict[str, float]:
    """Bounds of a share (Wilson 1927)."""
    share, weight = right / number, _Z_95**2 / number
    middle = (share + weight / 2) / (1 + weight)
    half = _Z_95 * np.sqrt(share * (1 - share) / number + weight / (4 * number)) / (1 + weight)
    return {"lower": float(middle - half), "upper": float(middle + half)}
