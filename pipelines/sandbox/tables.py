"""Downstream tables: points on land with one value of the planet's fields each."""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from pipelines.sandbox.fields import FIELD_NAMES, Planet

NUM_POINTS: Final = 1_200
"""Points of a table: about as few labels as users of embeddings have; air temperature, for one, has 3,076 stations."""
MAX_POINTS: Final = 100_000
SOUTH_DEG, NORTH_DEG = -56.0, 84.0
CLASS_FIELDS: Final = ("biome", "land_cover")


def table_points(planet: Planet, num_points: int = NUM_POINTS) -> NDArray[np.float64]:
    """Points uniform by area on land, from their own seed, shape (num_points, 2), rounded to 1e-6 degrees."""
    rng = np.random.default_rng([planet.seed, 21])
    found: list[NDArray[np.float64]] = []
    while sum(len(part) for part in found) < num_points:
        low, high = np.sin(np.radians([SOUTH_DEG, NORTH_DEG]))
        lat = np.degrees(np.arcsin(rng.uniform(low, high, num_points)))
        lonlat = np.round(np.stack([rng.uniform(-180.0, 180.0, num_points), lat], axis=1), 6)
        found.append(lonlat[planet.is_land(lonlat)])
    return np.concatenate(found)[:num_points]


def table_csv(planet: Planet, name: str, num_points: int = NUM_POINTS) -> str:
    """One table as CSV with the columns lon, lat and the field's name; classes are integers.

    Raises:
        ValueError: There is no such field, or the number of points is none of 1 to MAX_POINTS.
    """
    if not 1 <= num_points <= MAX_POINTS:
        raise ValueError(f"{num_points} points asked for; expected 1 to {MAX_POINTS}")
    if name not in FIELD_NAMES:
        raise ValueError(f"no table {name!r}; there are {', '.join(FIELD_NAMES)}")
    points = table_points(planet, num_points)
    values = planet.fields(points)[name]
    form = "{:.0f}" if name in CLASS_FIELDS else "{:.4f}"
    rows = [f"{lon:.6f},{lat:.6f},{form.format(value)}" for (lon, lat), value in zip(points, values, strict=True)]
    return "\n".join([f"lon,lat,{name}", *rows, ""])
