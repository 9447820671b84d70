"""Places drawn uniformly by area over land."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipelines.errors import ConfigurationError
from pipelines.sampling.config import PlacesConfig
from pipelines.sampling.land import is_land
from pipelines.sampling.tables import read_table, write_table

DRAWS_PER_BLOCK = 65_536
MAX_BLOCKS_WITHOUT_LAND = 64
WHOLE_RANGE = (-180.0, -56.0, 180.0, 84.0)


def draw_land_points(num_places: int, seed: int, bbox: Sequence[float] = WHOLE_RANGE) -> NDArray[np.float64]:
    """Places uniform by area on the land of a bounding box.

    The first n places of a longer draw are the places of a shorter one, so that a dataset can grow.

    Args:
        num_places: How many.
        seed: Key of the counter-based generator (Philox).
        bbox: West, south, east, north in degrees; west > east crosses the antimeridian.

    Returns:
        Longitude in [-180, 180) and latitude, float64, shape (num_places, 2).

    Raises:
        ConfigurationError: the box holds no land.
    """
    rng = np.random.Generator(np.random.Philox(key=seed))
    west, south, east, north = bbox
    width_deg = (east - west) % 360.0 or 360.0
    sin_range = np.sin(np.deg2rad([south, north]))
    drawn: list[NDArray[np.float64]] = []
    found = empty_blocks = 0
    while found < num_places:
        uniform = rng.random((DRAWS_PER_BLOCK, 2))
        lon_deg = (west + width_deg * uniform[:, 0] + 180.0) % 360.0 - 180.0
        lat_deg = np.rad2deg(np.arcsin(sin_range[0] + (sin_range[1] - sin_range[0]) * uniform[:, 1]))
        lonlat_deg = np.column_stack([lon_deg, lat_deg])
        on_land = lonlat_deg[is_land(lonlat_deg)]
        empty_blocks = 0 if len(on_land) else empty_blocks + 1
        if empty_blocks == MAX_BLOCKS_WITHOUT_LAND:
            raise ConfigurationError(
                f"bbox {bbox}: found no land in {empty_blocks * DRAWS_PER_BLOCK} draws, expected at least one place; "
                "choose a bounding box (west, south, east, north in degrees) that holds land"
            )
        drawn.append(on_land)
        found += len(on_land)
    return np.concatenate(drawn)[:num_places]


def write_sample_points(path: Path, config: PlacesConfig) -> pd.DataFrame:
    """Draws places and writes them as GeoParquet: place_id (0, 1, ...), lon_deg, lat_deg."""
    lonlat_deg = draw_land_points(config.num_places, config.seed, config.bbox)
    places = pd.DataFrame(
        {"place_id": np.arange(len(lonlat_deg)), "lon_deg": lonlat_deg[:, 0], "lat_deg": lonlat_deg[:, 1]}
    )
    write_table(path, places, {"places_config": config.model_dump(mode="json")})
    return places


def read_sample_points(path: Path) -> pd.DataFrame:
    """Reads what `write_sample_points` wrote; raises ArtefactError where the file is missing."""
    return read_table(path, asset="sample_points")
