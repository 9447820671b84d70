"""What is planted: places, sizes and dates, from nothing but the seed."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, Literal

import numpy as np

from pipelines.sandbox.planted.areas import (
    AREAS,
    CELL_M,
    CELLS_ACROSS,
    FIRST_EVENT,
    LAST_EVENT,
    PlantedArea,
    first_day,
    is_clouded_cell,
    month_text,
    offset_lonlat_deg,
)

if TYPE_CHECKING:
    import geopandas

Kind = Literal[
    "solar_farm", "greenhouse", "wind_turbine", "pylon", "hedge", "forest", "platform", "offshore_turbine", "vessel"
]

LAND_SHARES: Final[Mapping[Kind, float]] = MappingProxyType(
    {"solar_farm": 0.08, "greenhouse": 0.26, "wind_turbine": 0.11, "pylon": 0.36, "hedge": 0.06, "forest": 0.10}
)
SEA_SHARES: Final[Mapping[Kind, float]] = MappingProxyType({"platform": 0.12, "offshore_turbine": 0.15})
"""Share of the cells by what they hold; the others are empty."""
VESSEL_SHARE: Final = 0.05
"""Share of the cells at sea with a vessel on a day."""
TASK_CATEGORIES: Final[Mapping[str, Mapping[Kind, str]]] = MappingProxyType(
    {
        "solar_farm": MappingProxyType({"solar_farm": "solar_farm"}),
        "wind_turbine": MappingProxyType({"wind_turbine": "wind_turbine"}),
        "marine_infrastructure": MappingProxyType({"platform": "platform", "offshore_turbine": "turbine"}),
    }
)
"""What a task calls the kinds that it looks for; all others are there to be mistaken for them."""
TREE_DENSITIES: Final = (0.2, 0.45, 0.75, 0.95)
_SIZES_M: Final[Mapping[Kind, tuple[float, float, float, float]]] = MappingProxyType(
    {
        "solar_farm": (160.0, 380.0, 120.0, 280.0),
        "greenhouse": (160.0, 380.0, 120.0, 280.0),
        "wind_turbine": (16.0, 18.0, 16.0, 18.0),
        "pylon": (16.0, 18.0, 16.0, 18.0),
        "hedge": (80.0, 200.0, 10.0, 12.0),
        "forest": (220.0, 380.0, 220.0, 380.0),
        "platform": (36.0, 60.0, 30.0, 50.0),
        "offshore_turbine": (16.0, 18.0, 16.0, 18.0),
        "vessel": (70.0, 200.0, 20.0, 32.0),
    }
)
"""Least and greatest length, least and greatest width."""


@dataclass(frozen=True)
class PlantedObject:
    """One object.

    Attributes:
        kind: What it is.
        area: Name of the area it stands in.
        row: Row of its cell, from the north.
        column: Column of its cell, from the west.
        lon_deg: Longitude of its middle, may continue past 180.
        lat_deg: Latitude of its middle.
        length_m: Along its axis.
        width_m: Across it.
        angle_rad: Of the axis, from east towards north.
        seed: Of its texture.
        first_event: Month at whose start it was built; None: before the first.
        last_event: Month at whose start it was removed; None: it stays.
        density: Share of the ground under trees, of forests.
    """

    kind: Kind
    area: str
    row: int
    column: int
    lon_deg: float
    lat_deg: float
    length_m: float
    width_m: float
    angle_rad: float
    seed: int
    first_event: int | None = None
    last_event: int | None = None
    density: float = 0.0

    @property
    def radius_m(self) -> float:
        """All of it lies within, but for its shadow."""
        return float(np.hypot(self.length_m, self.width_m)) / 2 * (1.4 if self.kind == "forest" else 1.0)

    @property
    def built(self) -> datetime | None:
        """When it was built, if it was not there from the beginning."""
        return None if self.first_event is None else first_day(self.first_event)

    @property
    def removed(self) -> datetime | None:
        """When it was removed, if it was."""
        return None if self.last_event is None else first_day(self.last_event)

    def is_there(self, time: datetime) -> bool:
        """Whether it stands at a time."""
        return (self.built is None or time >= self.built) and (self.removed is None or time < self.removed)


@cache
def planted_objects(seed: int) -> tuple[PlantedObject, ...]:
    """All objects that stand still, area by area and cell by cell."""
    return tuple(
        found
        for number, area in enumerate(AREAS)
        for row in range(CELLS_ACROSS)
        for column in range(CELLS_ACROSS)
        if (found := _in_cell(seed, number, area, row, column)) is not None
    )


@cache
def vessels(seed: int, day: int) -> tuple[PlantedObject, ...]:
    """Vessels of a day, a proleptic ordinal; no two days have one at the same place."""
    found = []
    for number, area in enumerate(AREAS):
        if area.is_sea:
            rng = np.random.default_rng([seed, 23, number, day])
            cells = np.argwhere(rng.random((CELLS_ACROSS, CELLS_ACROSS)) < VESSEL_SHARE)
            found += [_placed(rng, "vessel", area, int(row), int(column)) for row, column in cells]
    return tuple(found)


def _in_cell(seed: int, number: int, area: PlantedArea, row: int, column: int) -> PlantedObject | None:
    rng = np.random.default_rng([seed, 21, number, row, column])
    shares = SEA_SHARES if area.is_sea else LAND_SHARES
    draw, total = float(rng.random()), 0.0
    for kind, share in shares.items():
        total += share
        if draw < total:
            return _placed(rng, kind, area, row, column, _events(rng))
    return None


def _events(rng: np.random.Generator) -> tuple[int | None, int | None]:
    draw = float(rng.random())
    if draw < 0.45:
        return None, None
    if draw < 0.70:
        return int(rng.integers(FIRST_EVENT, LAST_EVENT + 1)), None
    if draw < 0.92:
        return None, int(rng.integers(FIRST_EVENT, LAST_EVENT + 1))
    return FIRST_EVENT + int(rng.integers(2)), LAST_EVENT - int(rng.integers(2))


def _placed(
    rng: np.random.Generator,
    kind: Kind,
    area: PlantedArea,
    row: int,
    column: int,
    events: tuple[int | None, int | None] = (None, None),
) -> PlantedObject:
    shortest, longest, narrowest, widest = _SIZES_M[kind]
    length, width = float(rng.uniform(shortest, longest)), float(rng.uniform(narrowest, widest))
    spare = max(0.0, CELL_M / 2 - 20.0 - np.hypot(length, width) / 2)
    shift = rng.uniform(-spare, spare, 2)
    east = (column + 0.5 - CELLS_ACROSS / 2) * CELL_M + shift[0]
    north = (CELLS_ACROSS / 2 - row - 0.5) * CELL_M + shift[1]
    lon, lat = area.lonlat_deg(np.asarray(east), np.asarray(north))
    return PlantedObject(
        kind, area.name, row, column, float(lon), float(lat), length, width, float(rng.uniform(0.0, np.pi)),
        int(rng.integers(2**31)), *events, density=float(rng.choice(TREE_DENSITIES)) if kind == "forest" else 0.0,
    )  # fmt: skip


def planted_truth(seed: int, task: str) -> "geopandas.GeoDataFrame":
    """The objects that a task looks for.

    Returns:
        Points, or polygons of solar farms, in EPSG:4326 with ``category``, ``first_month`` and ``last_month``
        (``YYYY-MM``, None where it was there from the beginning or stays), ``area``, ``continent`` and ``clouded``
        (under the cloud that does not clear).

    Raises:
        KeyError: A task that looks for no objects.
    """
    import geopandas
    import pandas as pd

    categories = TASK_CATEGORIES[task]
    areas = {area.name: area for area in AREAS}
    chosen = [each for each in planted_objects(seed) if each.kind in categories]
    columns = {
        "category": [categories[each.kind] for each in chosen],
        "first_month": [None if each.first_event is None else month_text(each.first_event) for each in chosen],
        "last_month": [None if each.last_event is None else month_text(each.last_event - 1) for each in chosen],
        "area": [each.area for each in chosen],
        "continent": [areas[each.area].continent for each in chosen],
    }
    frame = pd.DataFrame({name: pd.Series(values, dtype=object) for name, values in columns.items()})
    frame["clouded"] = [is_clouded_cell(areas[each.area], each.row, each.column) for each in chosen]
    return geopandas.GeoDataFrame(frame, geometry=[_outline(each) for each in chosen], crs="EPSG:4326")


def _outline(planted: PlantedObject) -> object:
    import shapely

    if planted.kind != "solar_farm":
        return shapely.Point((planted.lon_deg + 180.0) % 360.0 - 180.0, planted.lat_deg)
    along = np.array([-1, 1, 1, -1]) * planted.length_m / 2
    across = np.array([-1, -1, 1, 1]) * planted.width_m / 2
    cosine, sine = np.cos(planted.angle_rad), np.sin(planted.angle_rad)
    east, north = along * cosine - across * sine, along * sine + across * cosine
    return shapely.Polygon(offset_lonlat_deg(planted.lon_deg, planted.lat_deg, east, north))
