"""Where objects are planted, and through which months."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

import numpy as np
from numpy.typing import NDArray

EARTH_RADIUS_M: Final = 6_371_000.0
CELL_M: Final = 512.0
CELLS_ACROSS: Final = 20
AREA_SIZE_M: Final = CELL_M * CELLS_ACROSS
FIRST_MONTH: Final = (2021, 10)
NUM_MONTHS: Final = 18
FIRST_EVENT: Final = 5
LAST_EVENT: Final = 13
CLOUDED_MONTHS: Final = (6, 11)
"""First and last of the months in which a corner of every other area never clears."""
CLOUDED_ROWS: Final = 10
CLOUDED_COLUMNS: Final = 5


@dataclass(frozen=True)
class PlantedArea:
    """A square of ground or sea, 10,240 m across, cut into cells that hold one object at most.

    Attributes:
        name: Unique.
        continent: As products call it, or ``none`` far at sea.
        lon_deg: Longitude of its middle.
        lat_deg: Latitude of its middle.
        is_sea: Whether it lies at sea.
        is_clouded: Whether its north-western corner is under clouds for half a year.
    """

    name: str
    continent: str
    lon_deg: float
    lat_deg: float
    is_sea: bool = False
    is_clouded: bool = False

    def lonlat_deg(self, east_m: NDArray[np.float64], north_m: NDArray[np.float64]) -> NDArray[np.float64]:
        """Places at distances from the middle, shape (..., 2); longitudes may continue past 180."""
        return offset_lonlat_deg(self.lon_deg, self.lat_deg, east_m, north_m)

    @property
    def box_deg(self) -> tuple[float, float, float, float]:
        """West, south, east, north; west above east across the antimeridian."""
        half = np.array([-AREA_SIZE_M / 2, AREA_SIZE_M / 2])
        (west, south), (east, north) = self.lonlat_deg(half, half)
        return _wrapped(west), float(south), _wrapped(east), float(north)


AREAS: Final = (
    PlantedArea("altmark", "Europe", 10.6, 52.55, is_clouded=True),
    PlantedArea("zone_border", "Europe", 12.0, 51.65),
    PlantedArea("deccan", "Asia", 76.4, 17.2, is_clouded=True),
    PlantedArea("free_state", "Africa", 26.2, -28.7),
    PlantedArea("kansas", "North America", -98.4, 37.6, is_clouded=True),
    PlantedArea("pampas", "South America", -61.6, -33.9),
    PlantedArea("murray", "Oceania", 143.4, -35.6, is_clouded=True),
    PlantedArea("north_sea", "Europe", 6.0, 54.6, is_sea=True),
    PlantedArea("gulf", "North America", -91.2, 28.4, is_sea=True, is_clouded=True),
    PlantedArea("antimeridian", "none", 180.0, -18.4, is_sea=True),
)
"""Two lie across a border of UTM zones, one across the antimeridian."""


def offset_lonlat_deg(
    lon_deg: float, lat_deg: float, east_m: NDArray[np.float64], north_m: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Places at distances of some kilometers from a place, shape (..., 2)."""
    lat = lat_deg + np.degrees(np.asarray(north_m) / EARTH_RADIUS_M)
    lon = lon_deg + np.degrees(np.asarray(east_m) / (EARTH_RADIUS_M * np.cos(np.radians(lat_deg))))
    return np.stack([lon, lat], axis=-1)


def first_day(number: int) -> datetime:
    """First day of a month counted from 1; months before the first and after the last go on."""
    months = FIRST_MONTH[0] * 12 + FIRST_MONTH[1] - 1 + number - 1
    return datetime(months // 12, months % 12 + 1, 1, tzinfo=UTC)


def month_text(number: int) -> str:
    """A month as ``YYYY-MM``."""
    return f"{first_day(number):%Y-%m}"


def is_clouded_cell(area: PlantedArea, row: int, column: int) -> bool:
    """Whether a cell, counted from the north-west, is under the cloud that does not clear."""
    return area.is_clouded and row < CLOUDED_ROWS and column < CLOUDED_COLUMNS


def _wrapped(lon_deg: float) -> float:
    return float((lon_deg + 180.0) % 360.0 - 180.0)
