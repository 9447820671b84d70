"""On which continent a place lies, by the countries of Natural Earth."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

TOLERANCE_KM = 100.0
NO_CONTINENT = "none"


def continent_of(
    lonlat_deg: NDArray[np.float64],
    polygons: Path | None = None,
    *,
    tolerance_km: float = TOLERANCE_KM,
    download: bool = False,
) -> NDArray[np.str_]:
    """Continent of each place, shape (n,), of places of shape (n, 2), longitude first in degrees."""
    raise NotImplementedError
