"""How much of every pixel an object covers, and with what."""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from pipelines.sandbox.planted.areas import offset_lonlat_deg
from pipelines.sandbox.planted.objects import PlantedObject
from pipelines.sandbox.spectra import BANDS
from pipelines.sandbox.utm import FALSE_NORTHING_SOUTH_M, to_utm

PANEL: Final = (0.08, 0.08, 0.08, 0.08, 0.09, 0.10, 0.11, 0.12, 0.12, 0.12, 0.17, 0.15)
GRAVEL: Final = (0.12, 0.14, 0.17, 0.20, 0.22, 0.23, 0.24, 0.25, 0.26, 0.26, 0.31, 0.28)
METAL: Final = (0.48, 0.48, 0.47, 0.46, 0.46, 0.46, 0.46, 0.46, 0.46, 0.45, 0.40, 0.38)
TREES: Final = (0.020, 0.025, 0.040, 0.025, 0.060, 0.160, 0.200, 0.220, 0.240, 0.240, 0.100, 0.050)
WAKE: Final = (0.16, 0.16, 0.15, 0.14, 0.13, 0.12, 0.12, 0.11, 0.11, 0.10, 0.06, 0.05)
"""Reflectance by band."""
SHADE: Final = 0.7
"""Share of the light that a shadow takes."""
ROW_PITCH_M: Final = 40.0
"""From one row of panels to the next; half of it is panel."""
TURBINE_HEIGHT_M: Final = 160.0
TURBINE_SHADOW_WIDTH_M: Final = 18.0
LONGEST_SHADOW_M: Final = 320.0
ROTOR_SHADOW_RADIUS_M: Final = 36.0
"""Of the disc at the end of a turbine's shadow; a pylon casts none that shows."""
_FINEST_SAMPLE_M: Final = 2.5
_MAX_SAMPLES: Final = 8
_BANDS: Final = {name: position for position, name in enumerate(BANDS)}


@dataclass(frozen=True)
class PixelGrid:
    """Square pixels of a UTM zone.

    Attributes:
        zone: 1 to 60.
        is_south: Whether northings have the false northing of the south.
        west_m: Outer edge of the first column.
        north_m: Outer edge of the first row.
        resolution_m: Side of a pixel.
        size_px: Rows and columns.
    """

    zone: int
    is_south: bool
    west_m: float
    north_m: float
    resolution_m: float
    size_px: int

    def positions(self, lonlat_deg: NDArray[np.float64]) -> NDArray[np.float64]:
        """Easting and northing of places (n, 2)."""
        easting, northing = to_utm(lonlat_deg, self.zone)
        return np.stack([easting, northing + (FALSE_NORTHING_SOUTH_M if self.is_south else 0.0)], axis=-1)


@dataclass(frozen=True)
class Paint:
    """A material over a rectangle of pixels.

    Attributes:
        rows: Of the grid.
        columns: Of the grid.
        coverage: Share of each pixel, float32.
        spectrum: Reflectance by band, or None for a shadow.
    """

    rows: slice
    columns: slice
    coverage: NDArray[np.float32]
    spectrum: tuple[float, ...] | None

    def on(self, band: str, plane: NDArray[np.float32]) -> None:
        """Paints one band's reflectance in place."""
        part = plane[self.rows, self.columns]
        if self.spectrum is None:
            part *= 1 - np.float32(SHADE) * self.coverage
        else:
            part += self.coverage * (np.float32(self.spectrum[_BANDS[band]]) - part)


@dataclass(frozen=True)
class _Samples:
    """Points in the pixels around an object, several per pixel, in meters from its middle."""

    rows: slice
    columns: slice
    east_m: NDArray[np.float64]
    north_m: NDArray[np.float64]
    per_side: int

    def share(self, inside: NDArray[np.bool_]) -> NDArray[np.float32]:
        height, width = self.rows.stop - self.rows.start, self.columns.stop - self.columns.start
        cut = inside.reshape(height, self.per_side, width, self.per_side)
        return cut.mean(axis=(1, 3), dtype=np.float32)


def _samples(planted: PlantedObject, reach_m: float, grid: PixelGrid) -> _Samples | None:
    """Sample points, or None where the object does not reach into the grid."""
    step = np.array([0.0, 100.0, 0.0]), np.array([0.0, 0.0, 100.0])
    middle, east, north = grid.positions(offset_lonlat_deg(planted.lon_deg, planted.lat_deg, *step))
    res = grid.resolution_m
    low = np.floor(np.array([middle[0] - reach_m - grid.west_m, grid.north_m - middle[1] - reach_m]) / res)
    high = np.ceil(np.array([middle[0] + reach_m - grid.west_m, grid.north_m - middle[1] + reach_m]) / res)
    (first_column, first_row), (last_column, last_row) = (
        np.clip(each, 0, grid.size_px).astype(np.int64) for each in (low, high)
    )
    if first_column >= last_column or first_row >= last_row:
        return None
    per_side = int(np.clip(np.ceil(res / _FINEST_SAMPLE_M), 1, _MAX_SAMPLES))
    fine = res / per_side
    x = grid.west_m + first_column * res + (np.arange((last_column - first_column) * per_side) + 0.5) * fine
    y = grid.north_m - first_row * res - (np.arange((last_row - first_row) * per_side) + 0.5) * fine
    inverse = np.linalg.inv(np.stack([east - middle, north - middle], axis=1) / 100.0)
    dx, dy = np.meshgrid(x - middle[0], y - middle[1])
    return _Samples(
        slice(int(first_row), int(last_row)),
        slice(int(first_column), int(last_column)),
        inverse[0, 0] * dx + inverse[0, 1] * dy,
        inverse[1, 0] * dx + inverse[1, 1] * dy,
        per_side,
    )


def paints(planted: PlantedObject, grid: PixelGrid, solar_zenith_deg: float, solar_azimuth_deg: float) -> list[Paint]:
    """What an object leaves on a grid in the light of a day, in the order of painting."""
    has_shadow = planted.kind in ("wind_turbine", "offshore_turbine")
    shadow_m = min(TURBINE_HEIGHT_M * np.tan(np.radians(min(solar_zenith_deg, 85.0))), LONGEST_SHADOW_M)
    reach = (
        planted.radius_m
        + (shadow_m + ROTOR_SHADOW_RADIUS_M if has_shadow else 0.0)
        + (200.0 if planted.kind == "vessel" else 0.0)
    )
    samples = _samples(planted, float(reach), grid)
    if samples is None:
        return []
    cosine, sine = np.cos(planted.angle_rad), np.sin(planted.angle_rad)
    along = samples.east_m * cosine + samples.north_m * sine
    across = samples.north_m * cosine - samples.east_m * sine
    layers: list[tuple[NDArray[np.bool_], tuple[float, ...] | None]]
    if planted.kind in ("solar_farm", "greenhouse"):
        inside = (np.abs(along) <= planted.length_m / 2) & (np.abs(across) <= planted.width_m / 2)
        layers = [(inside, GRAVEL), (inside & _panels(planted, along, across), PANEL)]
    elif planted.kind == "forest":
        layers = [(_stand(planted, along, across) & _trees(planted, along, across), TREES)]
    elif planted.kind == "hedge":
        layers = [((np.abs(along) <= planted.length_m / 2) & (np.abs(across) <= planted.width_m / 2), None)]
    elif planted.kind in ("platform", "vessel"):
        layers = _afloat(planted, along, across)
    else:
        spot = np.hypot(along, across) <= planted.length_m / 2
        layers = [(spot, METAL)]
        if has_shadow:
            azimuth = np.radians(solar_azimuth_deg)
            away = -samples.east_m * np.sin(azimuth) - samples.north_m * np.cos(azimuth)
            aside = samples.east_m * np.cos(azimuth) - samples.north_m * np.sin(azimuth)
            shadow = (away >= 0) & (away <= shadow_m) & (np.abs(aside) <= TURBINE_SHADOW_WIDTH_M / 2)
            shadow |= np.hypot(away - shadow_m, aside) <= ROTOR_SHADOW_RADIUS_M
            layers.insert(0, (shadow, None))
    return [
        Paint(samples.rows, samples.columns, samples.share(inside), spectrum)
        for inside, spectrum in layers
        if inside.any()
    ]


def _panels(planted: PlantedObject, along: NDArray[np.float64], across: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Rows of panels, or of a greenhouse the same number of roofs in no order."""
    half = ROW_PITCH_M / 2
    if planted.kind == "solar_farm":
        return np.asarray((across + planted.width_m / 2) % ROW_PITCH_M < half)
    return _chance(planted.seed, along, across, half) < 0.5


def _stand(planted: PlantedObject, along: NDArray[np.float64], across: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Within the ragged edge of a forest."""
    rng = np.random.default_rng(planted.seed)
    phases = rng.uniform(0.0, 2 * np.pi, 3)
    around = np.arctan2(across / planted.width_m, along / planted.length_m)
    edge = 0.5 + sum(0.06 * np.cos((k + 2) * around + phases[k]) for k in range(3))
    return np.asarray(np.hypot(along / planted.length_m, across / planted.width_m) <= edge)


def _trees(planted: PlantedObject, along: NDArray[np.float64], across: NDArray[np.float64]) -> NDArray[np.bool_]:
    return _chance(planted.seed, along, across, 7.0) < planted.density


def _afloat(
    planted: PlantedObject, along: NDArray[np.float64], across: NDArray[np.float64]
) -> list[tuple[NDArray[np.bool_], tuple[float, ...] | None]]:
    hull = (np.abs(along) <= planted.length_m / 2) & (np.abs(across) <= planted.width_m / 2)
    if planted.kind == "platform":
        return [(hull, METAL)]
    wake = (along < 0) & (along > -planted.length_m / 2 - 200.0) & (np.abs(across) < 8.0)
    return [(wake, WAKE), (hull, METAL)]


def _chance(seed: int, along: NDArray[np.float64], across: NDArray[np.float64], cell_m: float) -> NDArray[np.float64]:
    """A number in [0, 1) per square of an object's own grid."""
    table = np.random.default_rng(seed).random((128, 128))
    row, column = (np.floor(each / cell_m).astype(np.int64) % 128 for each in (across, along))
    return np.asarray(table[row, column])


def tree_cover(planted: PlantedObject, grid: PixelGrid) -> Paint | None:
    """The share of each pixel under a forest, times its density."""
    samples = _samples(planted, planted.radius_m, grid)
    if samples is None:
        return None
    cosine, sine = np.cos(planted.angle_rad), np.sin(planted.angle_rad)
    along = samples.east_m * cosine + samples.north_m * sine
    across = samples.north_m * cosine - samples.east_m * sine
    inside = samples.share(_stand(planted, along, across))
    return Paint(samples.rows, samples.columns, inside * np.float32(planted.density), None)
