"""Which acquisitions exist: orbits, dates, baselines, and the names that carry all of it."""

import math
import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache, cached_property
from itertools import pairwise
from typing import Final

import numpy as np
from numpy.typing import NDArray

from pipelines.sandbox.tiling import Tile, tile_from_id

FIRST_DAY: Final = datetime(2021, 1, 1, tzinfo=UTC)
LAST_DAY: Final = datetime(2023, 5, 17, tzinfo=UTC)
BASELINE_4_DAY: Final = datetime(2022, 1, 25, tzinfo=UTC)
"""From this acquisition date on products were made by baseline 04.00, which adds 1000 to the digital numbers."""
BASELINE_5_DAY: Final = datetime(2022, 12, 6, tzinfo=UTC)
OFFSET_BASELINE: Final = "04.00"
NUM_ORBITS: Final = 143
NODE_STEP_DEG: Final = 360.0 / NUM_ORBITS
TRACK_TILT_DEG: Final = 6.8
"""Angle of the descending track against the meridian at the equator; less than the real 8.6, so that 84 N is seen."""
HALF_SWATH: Final = math.sin(145_000.0 / 6_371_000.0)
REPEAT_DAYS: Final = 5
PASSES_PER_ORBIT: Final = 10
MAX_ACQUISITIONS: Final = 8
MAX_SOLAR_ZENITH_DEG: Final = 82.0
MIN_COVERED_SHARE: Final = 0.2
REPROCESSED_SHARE: Final = 0.12
DUPLICATE_SHARE: Final = 0.10
_NAME = re.compile(r"(S2[AB])_MSIL2A_(\d{8}T\d{6})_N(\d{2})(\d{2})_R(\d{3})_T(\d{2}[A-Z]{3})_(\d{8}T\d{6})")
_STAMP = "%Y%m%dT%H%M%S"


@dataclass(frozen=True)
class Scene:
    """One product: a tile at one time, processed once.

    Attributes:
        satellite: ``S2A`` or ``S2B``.
        sensed: Start of the datatake, UTC, whole seconds; all tiles of a pass share it.
        relative_orbit: 1 to 143.
        baseline: Processing baseline such as ``04.00``.
        generated: When the product was made, UTC.
    """

    satellite: str
    sensed: datetime
    relative_orbit: int
    tile: Tile
    baseline: str
    generated: datetime

    @property
    def item_id(self) -> str:
        """Identifier of the STAC item, as the Planetary Computer forms it."""
        return (
            f"{self.satellite}_MSIL2A_{self.sensed:{_STAMP}}_R{self.relative_orbit:03d}"
            f"_T{self.tile.tile_id}_{self.generated:{_STAMP}}"
        )

    @property
    def product_name(self) -> str:
        """Name of the product: the item's identifier with the baseline in it."""
        return (
            f"{self.satellite}_MSIL2A_{self.sensed:{_STAMP}}_N{self.baseline.replace('.', '')}"
            f"_R{self.relative_orbit:03d}_T{self.tile.tile_id}_{self.generated:{_STAMP}}"
        )

    @property
    def boa_add_offset(self) -> int:
        """What has to be added to a digital number before it is divided by 10,000: 0 or -1000."""
        return -1000 if self.baseline >= OFFSET_BASELINE else 0

    @property
    def days(self) -> float:
        """Time since the beginning of 2021 in days."""
        return (self.sensed - FIRST_DAY).total_seconds() / 86_400

    @property
    def season(self) -> float:
        """+1 in the middle of July, -1 in the middle of January."""
        return math.cos(2 * math.pi * (self.sensed.timetuple().tm_yday - 197) / 365.25)

    @cached_property
    def swath_normal(self) -> NDArray[np.float64]:
        """Unit normal of the orbit's plane; its product with a position is the sine of the cross-track angle."""
        return np.asarray(orbit_normals()[self.relative_orbit - 1])


def scene_from_product_name(name: str) -> Scene:
    """Reads a product name.

    Raises:
        ValueError: The name does not have the form of a Sentinel-2 L2A product.
    """
    match = _NAME.fullmatch(name)
    if match is None:
        raise ValueError(f"{name!r} is not the name of a Sentinel-2 L2A product")
    orbit = int(match[5])
    if not 1 <= orbit <= NUM_ORBITS:
        raise ValueError(f"{name!r}: relative orbit {orbit} is not in 1 to {NUM_ORBITS}")
    sensed, generated = (datetime.strptime(match[k], _STAMP).replace(tzinfo=UTC) for k in (2, 7))
    return Scene(match[1], sensed, orbit, tile_from_id(match[6]), f"{match[3]}.{match[4]}", generated)


def _node_longitudes_rad() -> NDArray[np.float64]:
    return np.radians(180.0 - NODE_STEP_DEG * (np.arange(NUM_ORBITS) * 10 % NUM_ORBITS))


@cache
def orbit_nodes() -> NDArray[np.float64]:
    """Where each relative orbit's descending track crosses the equator, as unit vectors (143, 3)."""
    lon = _node_longitudes_rad()
    return np.stack([np.cos(lon), np.sin(lon), np.zeros_like(lon)], axis=1)


@cache
def orbit_normals() -> NDArray[np.float64]:
    """Normals of the planes of the relative orbits in the Earth's frame, unit vectors (143, 3)."""
    lon = _node_longitudes_rad()
    tilt = math.radians(TRACK_TILT_DEG)
    west = np.stack([np.sin(lon), -np.cos(lon), np.zeros_like(lon)], axis=1)
    heading = math.sin(tilt) * west + math.cos(tilt) * np.array([0.0, 0.0, -1.0])
    return np.cross(orbit_nodes(), heading)


def solar_angles_deg(lonlat_deg: NDArray[np.float64], time: datetime) -> tuple[float, float]:
    """Zenith and azimuth (clockwise from north) of the sun at one point, good to a degree."""
    day = time.timetuple().tm_yday + time.hour / 24
    declination = math.radians(-23.44) * math.cos(2 * math.pi * (day + 10) / 365.25)
    hour = math.radians(15.0 * (time.hour + time.minute / 60 + time.second / 3600 - 12.0) + float(lonlat_deg[0]))
    lat = math.radians(float(lonlat_deg[1]))
    up = math.sin(lat) * math.sin(declination) + math.cos(lat) * math.cos(declination) * math.cos(hour)
    east = -math.cos(declination) * math.sin(hour)
    north = math.cos(lat) * math.sin(declination) - math.sin(lat) * math.cos(declination) * math.cos(hour)
    return math.degrees(math.acos(min(1.0, max(-1.0, up)))), math.degrees(math.atan2(east, north)) % 360.0


@cache
def orbit_passes(seed: int, relative_orbit: int) -> tuple[datetime, ...]:
    """Times of the passes of one relative orbit that were kept, one in each tenth of the period, in order."""
    rng = np.random.default_rng([seed, 11, relative_orbit])
    num_days = (LAST_DAY - FIRST_DAY).days
    repeats = (num_days - REPEAT_DAYS) // REPEAT_DAYS
    edges = np.linspace(0, repeats, PASSES_PER_ORBIT + 1)
    node_deg = math.degrees(_node_longitudes_rad()[relative_orbit - 1])
    seconds = round((10.5 - node_deg / 15.0) % 24.0 * 3600)
    days = [
        int(rng.integers(math.ceil(low), max(math.ceil(low) + 1, math.floor(high)))) * REPEAT_DAYS
        + relative_orbit % REPEAT_DAYS
        for low, high in pairwise(edges)
    ]
    return tuple(FIRST_DAY + timedelta(days=day, seconds=seconds) for day in days)


def covering_orbits(tile: Tile) -> list[int]:
    """Relative orbits whose descending swath holds at least a fifth of the tile."""
    ring = np.radians(tile.boundary_lonlat_deg[:-1])
    inner = [ring.mean(axis=0) + share * (ring - ring.mean(axis=0)) for share in (0.0, 0.33, 0.66, 1.0)]
    lonlat = np.vstack(inner)
    xyz = np.stack(
        [np.cos(lonlat[:, 1]) * np.cos(lonlat[:, 0]), np.cos(lonlat[:, 1]) * np.sin(lonlat[:, 0]), np.sin(lonlat[:, 1])]
    )
    inside = (np.abs(orbit_normals() @ xyz) <= HALF_SWATH) & (orbit_nodes() @ xyz > 0)
    return [int(i) + 1 for i in np.flatnonzero(inside.mean(axis=1) >= MIN_COVERED_SHARE)]


def tile_scenes(tile: Tile, seed: int, max_acquisitions: int = MAX_ACQUISITIONS) -> list[Scene]:
    """The products of one tile, by time: acquisitions in sunlight up to a number, a few of them processed twice."""
    centre = tile.boundary_lonlat_deg[:-1].mean(axis=0)
    acquisitions = sorted(
        (time, orbit)
        for orbit in covering_orbits(tile)
        for time in orbit_passes(seed, orbit)
        if solar_angles_deg(centre, time)[0] < MAX_SOLAR_ZENITH_DEG
    )
    rng = np.random.default_rng([seed, 12, *tile.tile_id.encode()])
    kept = np.sort(rng.permutation(len(acquisitions))[:max_acquisitions])
    scenes = []
    for index in kept:
        sensed, orbit = acquisitions[int(index)]
        scenes.extend(products(tile, sensed, orbit, rng))
    return scenes


def products(tile: Tile, sensed: datetime, orbit: int, rng: np.random.Generator) -> list[Scene]:
    """The products of one acquisition: one, or two where it was processed again; the baseline follows from the date."""
    satellite = "S2A" if (sensed - FIRST_DAY).days // REPEAT_DAYS % 2 == 0 else "S2B"
    chance = float(rng.random())
    generated = sensed + timedelta(hours=int(rng.integers(4, 40)), seconds=int(rng.integers(3600)))
    reprocessed_at = datetime(2023, 6, 1, tzinfo=UTC) + timedelta(seconds=int(rng.integers(200 * 86_400)))
    if sensed >= BASELINE_5_DAY:
        baseline = "05.09"
    elif sensed >= BASELINE_4_DAY:
        baseline = "04.00"
    else:
        baseline = "03.01" if sensed >= datetime(2021, 7, 1, tzinfo=UTC) else "03.00"
    first = Scene(satellite, sensed, orbit, tile, baseline, generated)
    again = Scene(satellite, sensed, orbit, tile, "05.10", reprocessed_at)
    if baseline >= OFFSET_BASELINE or chance > REPROCESSED_SHARE + DUPLICATE_SHARE:
        return [first]
    return [again] if chance < REPROCESSED_SHARE else [first, again]
