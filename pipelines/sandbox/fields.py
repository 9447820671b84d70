"""The seeded planet: elevation, temperature, moisture, biome and land cover anywhere on the sphere."""

from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
from numpy.typing import NDArray

from pipelines.sandbox import kernels
from pipelines.sandbox.land_raster import CELL_DEG, read_land_raster

MAX_DEGREE: Final = 40
FIELD_NAMES: Final = ("elevation", "temperature", "moisture", "biome", "land_cover")
BIOMES: Final = ("ice", "tundra", "desert", "boreal", "steppe", "temperate forest", "savanna", "rainforest")
LAND_COVERS: Final = ("bare", "shrub", "grass", "crop", "forest", "wetland")
_FIELD_ROWS: Final = {
    "elevation": kernels.ELEVATION,
    "temperature": kernels.TEMPERATURE,
    "moisture": kernels.MOISTURE,
    "biome": kernels.BIOME,
    "land_cover": kernels.LAND_COVER,
}


@dataclass(frozen=True)
class _Recipe:
    """Shares of variance of one smooth field over land; they sum to one.

    Attributes:
        zonal: Falls with the distance from the equator.
        coordinate: A seeded linear function of the position on the sphere.
        harmonic: Random harmonics with most power around ``peak_degree``, none below degree 4 and above 40.
        fine: Noise with wavelengths of 250 km and less.
    """

    zonal: float
    coordinate: float
    harmonic: float
    fine: float
    peak_degree: float


_RECIPES: Final = (
    _Recipe(zonal=0.04, coordinate=0.26, harmonic=0.65, fine=0.05, peak_degree=14.0),
    _Recipe(zonal=0.48, coordinate=0.08, harmonic=0.42, fine=0.02, peak_degree=13.0),
    _Recipe(zonal=0.06, coordinate=0.28, harmonic=0.61, fine=0.05, peak_degree=14.0),
    _Recipe(zonal=0.00, coordinate=0.42, harmonic=0.52, fine=0.06, peak_degree=13.0),
    _Recipe(zonal=0.00, coordinate=0.42, harmonic=0.52, fine=0.06, peak_degree=14.0),
)
_FINE_WAVELENGTHS_M: Final = (200_000.0, 40_000.0, 8_000.0)
_FINE_POWER: Final = (0.55, 0.3, 0.15)


def normalised_legendre(latitudes_rad: NDArray[np.float64], max_degree: int) -> NDArray[np.float64]:
    """Orthonormal associated Legendre functions, shape (degree, order, latitude); zero where order > degree.

    With them, cos and sin of order times longitude and a factor sqrt(2) for order > 0 the harmonics are orthonormal.
    Source: Holmes and Featherstone (2002), equations 11 and 12, here without their scaling (enough below degree 100).
    """
    sine, cosine = np.sin(latitudes_rad), np.cos(latitudes_rad)
    out = np.zeros((max_degree + 1, max_degree + 1, latitudes_rad.size))
    out[0, 0] = np.sqrt(1 / (4 * np.pi))
    for m in range(1, max_degree + 1):
        out[m, m] = np.sqrt((2 * m + 1) / (2 * m)) * cosine * out[m - 1, m - 1]
    for m in range(max_degree):
        out[m + 1, m] = np.sqrt(2 * m + 3) * sine * out[m, m]
        for degree in range(m + 2, max_degree + 1):
            scale = np.sqrt((4 * degree**2 - 1) / (degree**2 - m**2))
            previous = np.sqrt(((degree - 1) ** 2 - m**2) / (4 * (degree - 1) ** 2 - 1))
            out[degree, m] = scale * (sine * out[degree - 1, m] - previous * out[degree - 2, m])
    return out


def _random_harmonics(
    rng: np.random.Generator, legendre: NDArray[np.float64], peak_degree: float, num_lon: int
) -> NDArray[np.float64]:
    degrees = np.arange(MAX_DEGREE + 1)
    power = np.where(degrees >= 4, (degrees / peak_degree) ** 2 * np.exp(1 - (degrees / peak_degree) ** 2), 0.0)
    power += np.where(degrees >= 4, 0.01, 0.0)
    coefficients = (
        rng.standard_normal((2, MAX_DEGREE + 1, MAX_DEGREE + 1)) * np.sqrt(power / (2 * degrees + 1))[:, None]
    )
    spectrum = np.einsum("lm,lmy->ym", coefficients[0] - 1j * coefficients[1], legendre)
    spectrum[:, 1:] /= np.sqrt(2.0)
    return np.asarray(np.fft.irfft(spectrum, n=num_lon, axis=1) * num_lon)


class Planet:
    """All that is the same on every date, from one seed.

    Attributes:
        seed: The seed everything follows from.
        grids: Smooth parts of the five fields on 0.25 degrees, north first, float32 (5, 721, 1441).
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.land = read_land_raster()
        self.grids, self._weights = self._build_grids()
        rng = np.random.default_rng([seed, 2])
        self.salts = rng.integers(0, 2**32, size=16, dtype=np.uint32)
        self._wavelengths = np.tile(np.array(_FINE_WAVELENGTHS_M, dtype=np.float32), (len(_RECIPES), 1))

    def _build_grids(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        rng = np.random.default_rng([self.seed, 1])
        num_lon = round(360 / kernels.GRID_STEP_DEG)
        lat = np.radians(90.0 - kernels.GRID_STEP_DEG * np.arange(num_lon // 2 + 1))
        lon = np.radians(-180.0 + kernels.GRID_STEP_DEG * np.arange(num_lon))
        legendre = normalised_legendre(lat, MAX_DEGREE)
        weight = self._land_weight(lat, num_lon)
        sphere = np.stack(
            [
                np.outer(np.cos(lat), np.cos(lon)),
                np.outer(np.cos(lat), np.sin(lon)),
                np.outer(np.sin(lat), np.ones_like(lon)),
            ]
        )
        zonal = np.broadcast_to(np.cos(lat)[:, None] ** 2, weight.shape)
        grids = np.empty((len(_RECIPES), lat.size, num_lon + 1), dtype=np.float32)
        for index, recipe in enumerate(_RECIPES):
            direction = rng.standard_normal(3)
            direction[2] *= 0.5
            tilt = np.tensordot(direction, sphere, axes=1)
            waves = _random_harmonics(rng, legendre, recipe.peak_degree, num_lon)
            smooth = np.sqrt(recipe.zonal) * _standardised(zonal, weight)
            smooth += np.sqrt(recipe.coordinate) * _standardised(tilt, weight)
            smooth += np.sqrt(recipe.harmonic) * _standardised(waves, weight)
            grids[index, :, :-1] = _standardised(smooth, weight) * np.sqrt(1 - recipe.fine)
        grids[:, :, -1] = grids[:, :, 0]
        power = np.array([[recipe.fine * share for share in _FINE_POWER] for recipe in _RECIPES])
        return grids, np.sqrt(power).astype(np.float32)

    def _land_weight(self, lat_rad: NDArray[np.float64], num_lon: int) -> NDArray[np.float64]:
        rows = np.clip(((90.0 - np.degrees(lat_rad)) / CELL_DEG).astype(np.int64), 0, self.land.shape[0] - 1)
        cols = (np.arange(num_lon) * (kernels.GRID_STEP_DEG / CELL_DEG)).astype(np.int64)
        weight = self.land[rows[:, None], cols[None, :]] * np.cos(lat_rad)[:, None]
        weight[np.degrees(lat_rad) < -56.0] = 0.0
        return np.asarray(weight / weight.sum())

    @property
    def field_arguments(
        self,
    ) -> tuple[NDArray[np.float32], NDArray[np.uint8], NDArray[np.float32], NDArray[np.float32], NDArray[np.uint32]]:
        """What the field kernels need after the positions."""
        return self.grids, self.land, self._wavelengths, self._weights, self.salts

    def fields(self, lonlat_deg: NDArray[np.float64]) -> dict[str, NDArray[np.float32]]:
        """Field values at points of shape (n, 2).

        Elevation in metres, temperature in deg C, moisture in standard deviations; biome and land cover are indices
        into ``BIOMES`` and ``LAND_COVERS``. The values are those of land also at sea.
        """
        values = kernels.fields_at(np.radians(np.asarray(lonlat_deg, dtype=np.float64)), *self.field_arguments)
        return {name: values[row] for name, row in _FIELD_ROWS.items()}

    def is_land(self, lonlat_deg: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Whether the sandbox shows land at points of shape (n, 2), up to the width of its ragged shore."""
        values = kernels.fields_at(np.radians(np.asarray(lonlat_deg, dtype=np.float64)), *self.field_arguments)
        return np.asarray(values[kernels.LANDNESS] > 0)

    @cached_property
    def cloud_drift(self) -> NDArray[np.float32]:
        """Displacement of the cloud octaves, metres per day, shape (6, 3)."""
        rng = np.random.default_rng([self.seed, 3])
        direction = rng.standard_normal((6, 3))
        direction /= np.linalg.norm(direction, axis=1, keepdims=True)
        return np.asarray(
            direction * np.array([700e3, 900e3, 900e3, 1100e3, 1100e3, 1100e3])[:, None], dtype=np.float32
        )


def _standardised(values: NDArray[np.float64], weight: NDArray[np.float64]) -> NDArray[np.float64]:
    mean = (values * weight).sum()
    std = np.sqrt(((values - mean) ** 2 * weight).sum())
    return (values - mean) / std if std > 0 else np.zeros_like(values)
