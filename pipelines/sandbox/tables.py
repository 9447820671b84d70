"""Downstream tables: points on land with one value of the planet's fields each."""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from pipelines.sandbox.fields import FIELD_NAMES, Planet

NUM_POINTS: Final = 1_200
"""Points of a table: about as few labels as users of embeddings have; air temperature, for one, has 3,076 stations."""
SOUTH_DEG, NORTH_DEG = -56.0, 84.0
CLASS_FIELDS: Final = ("biome", "land_cover")


def table_points(planet: Planet) -> NDArray[np.float64]:
    """Points uniform by area on land, from their own seed, shape (NUM_POINTS, 2), rounded to 1e-6 degrees."""
    rng = np.random.default_rng([planet.seed, 21])
    found: list[NDArray[np.float64]] = []
    while sum(len(part) for part in found) < NUM_POINTS:
        low, high = np.sin(np.radians([SOUTH_DEG, NORTH_DEG]))
        lat = np.degrees(np.arcsin(rng.uniform(low, high, NUM_POINTS)))
        lonlat = np.round(np.stack([rng.uniform(-180.0, 180.0, NUM_POINTS), lat], axis=1), 6)
        found.append(lonlat[planet.is_land(lonlat)])
    return np.concatenate(found)[:NUM_POINTS]


def table_csv(planet: Planet, name: str) -> str:
    """One table as CSV with the columns lon, lat and the field's name; classes are integers.

    Raises:
        ValueError: There is no such field.
    """
    if name not in FIELD_NAMES:
        raise ValueError(f"no table {name!r}; there are {', '.join(FIELD_NAMES)}")
    points = table_points(planet)
    values = planet.fields(points)[name]
    form = "{:.0f}" if name in CLASS_FIELDS else "{:.4f}"
    rows = [f"{lon:.6f},{lat:.6f},{form.format(value)}" for (lon, lat), value in zip(points, values, strict=True)]
    return "\n".join([f"lon,lat,{name}", *rows, ""])
