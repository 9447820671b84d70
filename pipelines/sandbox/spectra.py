"""How the ground looks: reflectance of the 12 bands as a function of the planet's fields."""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

BANDS: Final = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B11", "B12")
RESOLUTION_M: Final = {
    "B01": 60, "B02": 10, "B03": 10, "B04": 10, "B05": 20, "B06": 20, "B07": 20, "B08": 10, "B8A": 20, "B09": 60,
    "B11": 20, "B12": 20, "SCL": 20, "visual": 10,
}  # fmt: skip
COMMON_NAMES: Final = {
    "B01": "coastal", "B02": "blue", "B03": "green", "B04": "red", "B05": "rededge", "B06": "rededge", "B07": "rededge",
    "B08": "nir", "B8A": "rededge", "B11": "swir16", "B12": "swir22",
}  # fmt: skip
CENTER_WAVELENGTH_UM: Final = (0.443, 0.49, 0.56, 0.665, 0.704, 0.74, 0.783, 0.842, 0.865, 0.945, 1.61, 2.19)

SOIL: Final = (0.09, 0.11, 0.14, 0.18, 0.21, 0.23, 0.25, 0.27, 0.28, 0.29, 0.34, 0.29)
VEGETATION: Final = (0.035, 0.04, 0.07, 0.05, 0.10, 0.22, 0.28, 0.31, 0.33, 0.33, 0.19, 0.10)
SNOW: Final = (0.75, 0.77, 0.77, 0.76, 0.75, 0.74, 0.72, 0.70, 0.68, 0.62, 0.16, 0.13)
WATER: Final = (0.060, 0.055, 0.045, 0.028, 0.022, 0.018, 0.016, 0.014, 0.012, 0.010, 0.006, 0.005)
CLOUD: Final = (0.72, 0.71, 0.70, 0.69, 0.69, 0.69, 0.69, 0.68, 0.68, 0.55, 0.45, 0.38)
COVER_GREEN: Final = (0.04, 0.35, 0.45, 0.60, 0.92, 0.75)
"""Share of vegetation by land cover: bare, shrub, grass, crop, forest, wetland."""
COVER_ROUGHNESS: Final = ((0.05, 0.05), (0.09, 0.16), (0.04, 0.04), (0.17, 0.04), (0.06, 0.20), (0.12, 0.08))
"""Relative standard deviation of the texture at 500 m and at 45 m by land cover."""
SIGNATURE_AMPLITUDE: Final = (0.26, 0.26, 0.24, 0.10)
"""Log gain per standard deviation of elevation, temperature, moisture and vegetation."""
CLASS_AMPLITUDE: Final = 0.12


@dataclass(frozen=True)
class BandSpectrum:
    """Parameters of one band for the reflectance kernel, float32."""

    endmembers: NDArray[np.float32]
    signatures: NDArray[np.float32]
    biome_gain: NDArray[np.float32]
    cover_gain: NDArray[np.float32]
    cloud_reflectance: float


COVER_GREEN_ARRAY: Final = np.array(COVER_GREEN, dtype=np.float32)
ROUGHNESS_ARRAY: Final = np.array(COVER_ROUGHNESS, dtype=np.float32)


def band_spectra(seed: int) -> dict[str, BandSpectrum]:
    """Spectra of the 12 bands.

    The signatures of the four fields are orthogonal cosines over the bands, so that no field's effect can be mistaken
    for another's; those of biomes and land covers are mixtures of the higher cosines, drawn from the seed.
    """
    num = len(BANDS)
    cosines = np.cos(np.pi * np.arange(num)[:, None] * (np.arange(num)[None, :] + 0.5) / num)
    rng = np.random.default_rng([seed, 4])
    biome = rng.standard_normal((8, 4)) @ cosines[5:9] / 2.0 * CLASS_AMPLITUDE * np.sqrt(2)
    cover = rng.standard_normal((6, 4)) @ cosines[5:9] / 2.0 * CLASS_AMPLITUDE * np.sqrt(2)
    signatures = cosines[1:5] * np.array(SIGNATURE_AMPLITUDE)[:, None] * np.sqrt(2)
    return {
        band: BandSpectrum(
            endmembers=np.array([SOIL[i], VEGETATION[i], SNOW[i], WATER[i]], dtype=np.float32),
            signatures=signatures[:, i].astype(np.float32),
            biome_gain=biome[:, i].astype(np.float32),
            cover_gain=cover[:, i].astype(np.float32),
            cloud_reflectance=CLOUD[i],
        )
        for i, band in enumerate(BANDS)
    }
