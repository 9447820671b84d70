"""Whether places lie uniformly over land: spherical-cap discrepancy against independent uniform places."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipelines.errors import ConfigurationError
from pipelines.sampling.land import is_land
from pipelines.sampling.points import WHOLE_RANGE, draw_uniform_points

NUM_CENTERS = 1024
NUM_RADII = 256
LATTICE_SIZE = 1 << 21
"""Lattice points over the bounding box; about 0.3 of them are land. Four times as many move no cap's share by 2e-4."""

LARGEST_SIMULATED = 20_000
NUM_DRAWS = 100
UNIFORM_SEED = 7_919
"""Apart from the seeds that places are drawn with, so that no dataset is compared with itself."""

EARTH_RADIUS_KM = 6371.0088
GOLDEN_RATIO_CONJUGATE = (5**0.5 - 1) / 2
POINTS_PER_BLOCK = 16_384
CENTERS_PER_BLOCK = 8


@dataclass(frozen=True, eq=False)
class LandReference:
    """How the land's area is shared out among a fixed family of spherical caps.

    Attributes:
        bbox: West, south, east, north in degrees; west > east crosses the antimeridian.
        lonlat_deg: The equal-area lattice's points on land, shape (n, 2).
        land_share: Share of the bounding box that is land.
        centers: Unit vectors of the caps' centers, float32, shape (c, 3): a Fibonacci lattice over the bounding box,
            and the pole where the box goes round the globe, for caps that are bands of latitude.
        largest_height: 1 - cos(radius) of the largest cap; radii step by equal areas up to it.
        cap_shares: Share of the land inside each cap, shape (c, r).
    """

    bbox: tuple[float, float, float, float]
    lonlat_deg: NDArray[np.float64]
    land_share: float
    centers: NDArray[np.float32]
    largest_height: float
    cap_shares: NDArray[np.float64]

    @property
    def land_area_km2(self) -> float:
        """Area of the land in the bounding box."""
        width_deg, low, high = _extent(self.bbox)
        box_km2 = np.deg2rad(width_deg) * (high - low) * EARTH_RADIUS_KM**2
        return float(box_km2 * self.land_share)


@dataclass(frozen=True)
class WorstCap:
    """The cap in which the share of the places and the share of the land differ most.

    Attributes:
        discrepancy: The absolute difference, 0 to 1.
        lon_deg: Longitude of the cap's center.
        lat_deg: Latitude of the cap's center.
        radius_deg: Angular radius of the cap.
        share_of_places: Share of the places inside.
        share_of_land: Share of the land's area inside.
    """

    discrepancy: float
    lon_deg: float
    lat_deg: float
    radius_deg: float
    share_of_places: float
    share_of_land: float


@dataclass(frozen=True)
class UniformityReport:
    """The discrepancy of places beside that of as many independent uniform places.

    Attributes:
        num_places: How many places were given.
        worst: The cap that decides.
        uniform_median: Median discrepancy of independent uniform places.
        uniform_quantile: Their ``quantile``: above it the places are not uniform.
        quantile: 0 to 1.
        share_of_draws_above: Share of the independent draws whose discrepancy is at least that of the places.
        num_draws: Independent draws.
        bbox: The land that was compared with: west, south, east, north in degrees.
    """

    num_places: int
    worst: WorstCap
    uniform_median: float
    uniform_quantile: float
    quantile: float
    share_of_draws_above: float
    num_draws: int
    bbox: tuple[float, float, float, float]

    @property
    def discrepancy(self) -> float:
        """The discrepancy of the places."""
        return self.worst.discrepancy

    @property
    def is_uniform(self) -> bool:
        """Whether the places are no farther from uniform than the quantile of independent uniform places."""
        return self.discrepancy <= self.uniform_quantile


def land_reference(
    bbox: Sequence[float] = WHOLE_RANGE,
    num_centers: int = NUM_CENTERS,
    num_radii: int = NUM_RADII,
    lattice_size: int = LATTICE_SIZE,
) -> LandReference:
    """Shares the land of a bounding box out among caps; takes a few seconds, the same on every call.

    Args:
        bbox: West, south, east, north in degrees; west > east crosses the antimeridian.
        num_centers: Centers of caps.
        num_radii: Radii per center, in equal steps of area.
        lattice_size: Points of the equal-area lattice over the box.

    Raises:
        ConfigurationError: the box holds no land.
    """
    west, south, east, north = (float(edge) for edge in bbox)
    box = (west, south, east, north)
    lattice = equal_area_lattice(lattice_size, box)
    land = lattice[is_land(lattice)]
    if not len(land):
        raise ConfigurationError(
            f"bbox {list(box)}: none of {lattice_size} lattice points is on land, expected at least one; choose a "
            "bounding box (west, south, east, north in degrees) that holds land"
        )
    centers = _unit_vectors(equal_area_lattice(num_centers, box))
    if _extent(box)[0] == 360.0:
        centers = np.concatenate([centers, np.array([[0.0, 0.0, 1.0]], dtype=np.float32)])
    height = 2.0 if _extent(box)[0] == 360.0 else min(2.0, 1.05 * (1.0 - float((centers @ centers.T).min())))
    shares = _cap_shares(_unit_vectors(land), centers, height, num_radii)
    return LandReference(box, land, len(land) / lattice_size, centers, height, shares)


def equal_area_lattice(num_points: int, bbox: Sequence[float] = WHOLE_RANGE) -> NDArray[np.float64]:
    """A Fibonacci lattice over a bounding box, land or not: longitude in [-180, 180) and latitude, shape (n, 2).

    Source: Gonzalez (2010), Measurement of areas on a sphere using Fibonacci and latitude-longitude lattices.
    """
    width_deg, low, high = _extent(bbox)
    steps = np.arange(num_points) + 0.5
    lon_deg = (bbox[0] + width_deg * (steps * GOLDEN_RATIO_CONJUGATE % 1.0) + 180.0) % 360.0 - 180.0
    lat_deg = np.rad2deg(np.arcsin(low + (high - low) * steps / num_points))
    return np.column_stack([lon_deg, lat_deg])


def worst_cap(lonlat_deg: NDArray[np.float64], reference: LandReference) -> WorstCap:
    """The cap in which the share of the places differs most from the share of the land.

    Args:
        lonlat_deg: Places, shape (n, 2), longitude first; memory does not grow with n.
        reference: The land and the caps.

    Raises:
        ValueError: there is no place, or a coordinate is not finite.
    """
    lonlat_deg = np.asarray(lonlat_deg, dtype=np.float64).reshape(-1, 2)
    if not len(lonlat_deg) or not np.isfinite(lonlat_deg).all():
        raise ValueError(f"{len(lonlat_deg)} places; expected at least one, all coordinates finite")
    num_radii = reference.cap_shares.shape[1]
    shares = _cap_shares(_unit_vectors(lonlat_deg), reference.centers, reference.largest_height, num_radii)
    differences = np.abs(shares - reference.cap_shares)
    center, radius = np.unravel_index(int(differences.argmax()), differences.shape)
    x, y, z = reference.centers[center].astype(np.float64)
    cosine = 1.0 - reference.largest_height * (int(radius) + 1) / num_radii
    return WorstCap(
        discrepancy=float(differences[center, radius]),
        lon_deg=float(np.rad2deg(np.arctan2(y, x))),
        lat_deg=float(np.rad2deg(np.arctan2(z, np.hypot(x, y)))),
        radius_deg=float(np.rad2deg(np.arccos(np.clip(cosine, -1.0, 1.0)))),
        share_of_places=float(shares[center, radius]),
        share_of_land=float(reference.cap_shares[center, radius]),
    )


def spherical_cap_discrepancy(lonlat_deg: NDArray[np.float64], reference: LandReference) -> float:
    """Largest difference, over the reference's caps, between the share of the places and the share of the land inside.

    Args:
        lonlat_deg: Places, shape (n, 2), longitude first.
        reference: The land and the caps.

    Returns:
        0 (uniform) to 1 (all places where next to no land is). Independent uniform places have about 1.4 / sqrt(n).
    """
    return worst_cap(lonlat_deg, reference).discrepancy


def uniform_discrepancies(
    num_places: int, reference: LandReference, num_draws: int = NUM_DRAWS, seed: int = UNIFORM_SEED
) -> NDArray[np.float64]:
    """Discrepancies of independent uniform samples of the same number, ascending, shape (num_draws,).

    Above 20,000 places samples of 20,000 are drawn and scaled by 1 / sqrt(n), the rate of an empirical process.
    """
    simulated = min(num_places, LARGEST_SIMULATED)
    found = [
        spherical_cap_discrepancy(draw_uniform_points(simulated, seed + draw, reference.bbox), reference)
        for draw in range(num_draws)
    ]
    scaled: NDArray[np.float64] = np.sort(np.array(found)) * float(np.sqrt(simulated / num_places))
    return scaled


def uniform_discrepancy_quantile(
    num_places: int,
    reference: LandReference,
    quantile: float = 0.95,
    num_draws: int = NUM_DRAWS,
    seed: int = UNIFORM_SEED,
) -> float:
    """The quantile of `uniform_discrepancies`: what independent uniform places exceed in 1 - ``quantile`` of cases."""
    return float(np.quantile(uniform_discrepancies(num_places, reference, num_draws, seed), quantile))


def measure_uniformity(
    lonlat_deg: NDArray[np.float64],
    reference: LandReference,
    quantile: float = 0.95,
    num_draws: int = NUM_DRAWS,
    seed: int = UNIFORM_SEED,
) -> UniformityReport:
    """Compares places with independent uniform places of the same number; equal input, equal report.

    Raises:
        ValueError: there is no place.
    """
    worst = worst_cap(lonlat_deg, reference)
    uniform = uniform_discrepancies(len(lonlat_deg), reference, num_draws, seed)
    return UniformityReport(
        num_places=len(lonlat_deg),
        worst=worst,
        uniform_median=float(np.median(uniform)),
        uniform_quantile=float(np.quantile(uniform, quantile)),
        quantile=quantile,
        share_of_draws_above=float((uniform >= worst.discrepancy).mean()),
        num_draws=num_draws,
        bbox=reference.bbox,
    )


def _extent(bbox: Sequence[float]) -> tuple[float, float, float]:
    """Width in degrees, and the sines of the southern and northern bound."""
    west, south, east, north = bbox
    low, high = np.sin(np.deg2rad([south, north]))
    return (east - west) % 360.0 or 360.0, float(low), float(high)


def _unit_vectors(lonlat_deg: NDArray[np.float64]) -> NDArray[np.float32]:
    lon, lat = np.deg2rad(lonlat_deg[:, 0] % 360.0), np.deg2rad(lonlat_deg[:, 1])
    vectors: NDArray[np.float64] = np.column_stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)])
    return vectors.astype(np.float32)


def _cap_shares(
    vectors: NDArray[np.float32], centers: NDArray[np.float32], largest_height: float, num_radii: int
) -> NDArray[np.float64]:
    """Share of the points inside each cap, shape (centers, radii); one product of blocks and one count each."""
    counts = np.zeros((len(centers), num_radii + 1), dtype=np.int64)
    scale = np.float32(num_radii / largest_height)
    for start in range(0, len(vectors), POINTS_PER_BLOCK):
        points = np.ascontiguousarray(vectors[start : start + POINTS_PER_BLOCK].T)
        for first in range(0, len(centers), CENTERS_PER_BLOCK):
            block = centers[first : first + CENTERS_PER_BLOCK]
            rings = ((np.float32(1) - block @ points) * scale).astype(np.int32)
            np.clip(rings, 0, num_radii, out=rings)
            rings += (np.arange(len(block), dtype=np.int32) * (num_radii + 1))[:, None]
            found = np.bincount(rings.ravel(), minlength=len(block) * (num_radii + 1))
            counts[first : first + len(block)] += found.reshape(len(block), -1)
    inside: NDArray[np.float64] = counts[:, :num_radii].cumsum(axis=1) / len(vectors)
    return inside
