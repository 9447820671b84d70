"""Items of a land-cover collection: where they lie, which time they stand for, and which of them serve a patch."""

import json
import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
import shapely
from numpy.typing import NDArray
from shapely.geometry.base import BaseGeometry

from pipelines.errors import CatalogError
from pipelines.ground_cover.classes import LandCoverClasses
from pipelines.sampling.areas import area_of_box, group_places
from pipelines.sampling.catalog import ALL_CLOUD_COVERS_PERCENT, Catalog
from pipelines.sampling.footprints import footprint_of_item
from pipelines.sampling.tables import read_record, read_table, write_table

logger = logging.getLogger(__name__)

SEARCH_CELL_DEG: Final = 10.0
MAX_SEARCHES: Final = 32
"""Cells with patches above which the whole collection is listed: an annual map of the world has some thousand items."""
FIRST_DAY: Final = "1900-01-01"
LAST_DAY: Final = "2100-12-31"
DAYS_PER_YEAR: Final = 365.25
NO_ASSET: Final = "no_map_asset"
NO_TIME: Final = "no_time"
NO_GEOMETRY: Final = "no_geometry"
_EPOCH_DAY_S: Final = 86_400.0


@dataclass(frozen=True)
class MapItem:
    """One file of a land-cover map.

    Attributes:
        item_id: Of the STAC item.
        href: Address relative to the catalog.
        first_day: Begin of the time it stands for, days since 1970.
        last_day: End of that time.
        epsg: Code of its grid, where the item tells it; 0 otherwise.
        footprint: Where it has data, in lon/lat, cut at the antimeridian.
    """

    item_id: str
    href: str
    first_day: float
    last_day: float
    epsg: int
    footprint: BaseGeometry

    @property
    def year(self) -> int:
        """The year in which the middle of its time lies."""
        middle = datetime.fromtimestamp((self.first_day + self.last_day) / 2 * _EPOCH_DAY_S, UTC)
        return middle.year

    def years_apart(self, day: float) -> float:
        """Years between a day and the time of the map; 0 within it."""
        return max(self.first_day - day, day - self.last_day, 0.0) / DAYS_PER_YEAR


@dataclass(frozen=True)
class YearOfItems:
    """The items of one year that touch a patch: those on its own grid first, then by name.

    Attributes:
        years_apart: Between the patch's date and the nearest of them.
    """

    year: int
    years_apart: float
    items: tuple[MapItem, ...]


class MapItems:
    """The items of a collection that lie at patches, found by place.

    Attributes:
        items: In ascending order of their ids.
        unusable: Items that cannot serve, by reason.
    """

    def __init__(self, items: Sequence[MapItem], unusable: dict[str, int] | None = None) -> None:
        self.items = tuple(sorted(items, key=lambda each: each.item_id))
        self.unusable = dict(unusable or {})
        self._tree = shapely.STRtree([each.footprint for each in self.items])

    def at(self, footprint: BaseGeometry, day: float | None, epsg: int) -> list[YearOfItems]:
        """The items that touch a patch, one entry per year, the nearest to its date first.

        Args:
            footprint: The patch's.
            day: Its date in days since 1970; None where it is not known: the newest map comes first.
            epsg: Of its grid.
        """
        found = [self.items[index] for index in sorted(self._tree.query(footprint, predicate="intersects"))]
        years: dict[int, list[MapItem]] = {}
        for item in sorted(found, key=lambda each: each.epsg != epsg):
            years.setdefault(item.year, []).append(item)
        entries = [
            YearOfItems(year, 0.0 if day is None else min(each.years_apart(day) for each in items), tuple(items))
            for year, items in years.items()
        ]
        return sorted(entries, key=lambda each: (each.years_apart, -each.year if day is None else each.year))


def find_map_items(catalog: Catalog, classes: LandCoverClasses, footprints: Sequence[BaseGeometry]) -> MapItems:
    """The items of a collection at patches, of all years.

    Few patches are asked for by boxes of at most 10 degrees, many by listing the collection.

    Raises:
        CatalogError: the catalog fails, or no item is found at all.
    """
    corners = [shapely.get_coordinates(each) for each in footprints]
    lonlat_deg = np.concatenate([*corners, np.empty((0, 2))])
    groups = list(group_places(lonlat_deg, SEARCH_CELL_DEG, max(len(lonlat_deg), 1)))
    areas = [area_of_box(lonlat_deg[rows]) for rows in groups] if len(groups) <= MAX_SEARCHES else [None]
    found: dict[str, MapItem] = {}
    unusable: dict[str, str] = {}
    for area in areas:
        for document in catalog.search(area, FIRST_DAY, LAST_DAY, ALL_CLOUD_COVERS_PERCENT):
            item = map_item(document, catalog, classes.item_assets)
            if isinstance(item, str):
                unusable[str(document.get("id"))] = item
            else:
                found[item.item_id] = item
    for item_id, reason in sorted(unusable.items())[:5]:
        logger.warning("map item %r cannot serve: %s", item_id, reason)
    logger.info("%s: %d items, %d unusable", catalog.collection, len(found), len(unusable))
    if not found:
        told = dict(Counter(unusable.values())) or "none at the patches"
        raise CatalogError(
            f"collection {catalog.collection!r}: no usable item ({told}), expected a map of ground cover; check the "
            f"collection, and the item_assets of classes {classes.name} ({', '.join(classes.item_assets) or 'none'})"
        )
    return MapItems(list(found.values()), dict(Counter(unusable.values())))


def map_item(document: dict[str, Any], catalog: Catalog, item_assets: Sequence[str]) -> MapItem | str:
    """A STAC item as a file of a map, or why it cannot be one.

    Args:
        document: The item.
        catalog: Judges its address.
        item_assets: Names under which the map may lie; without any the item's only asset of role ``data``.
    """
    href = _map_href(document, item_assets)
    if href is None:
        return NO_ASSET
    problem = catalog.files.problem(href)
    if problem:
        return problem
    properties = document.get("properties") or {}
    days = _days(properties)
    if days is None:
        return NO_TIME
    footprint = footprint_of_item(document)
    if footprint.is_empty:
        return NO_GEOMETRY
    return MapItem(str(document.get("id")), catalog.relative_href(href), days[0], days[1], _epsg(properties), footprint)


def days_since_epoch(moment: object) -> float | None:
    """Days since 1970 of an ISO 8601 moment, UTC where it names no zone; None where it is none."""
    if not isinstance(moment, str) or not moment:
        return None
    try:
        parsed = datetime.fromisoformat(moment)
    except ValueError:
        return None
    return (parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)).timestamp() / _EPOCH_DAY_S


def write_map_items(path: Path, items: MapItems) -> None:
    """Writes the items as GeoParquet, at the middles of their footprints and with the outlines as WKB."""
    middles: NDArray[np.float64] = shapely.get_coordinates(
        shapely.point_on_surface(np.array([each.footprint for each in items.items], dtype=np.object_))
    )
    table = pd.DataFrame(
        {
            "item_id": [each.item_id for each in items.items],
            "href": [each.href for each in items.items],
            "first_day": [each.first_day for each in items.items],
            "last_day": [each.last_day for each in items.items],
            "epsg": [each.epsg for each in items.items],
            "lon_deg": middles[:, 0],
            "lat_deg": middles[:, 1],
            "footprint": [shapely.to_wkb(each.footprint) for each in items.items],
        }
    )
    write_table(path, table, {"unusable": items.unusable})


def read_map_items(path: Path) -> MapItems:
    """The inverse of `write_map_items`.

    Raises:
        ArtefactError: the file does not exist.
    """
    table = read_table(path, asset="ground_cover_labels")
    unusable = json.loads(json.dumps(read_record(path).get("unusable", {})))
    items = [
        MapItem(
            str(row.item_id),
            str(row.href),
            float(row.first_day),
            float(row.last_day),
            int(row.epsg),
            shapely.from_wkb(row.footprint),
        )
        for row in table.itertuples(index=False)
    ]
    return MapItems(items, unusable)


def _map_href(document: dict[str, Any], item_assets: Sequence[str]) -> str | None:
    assets = document.get("assets")
    if not isinstance(assets, dict):
        return None
    named = [assets[name] for name in item_assets if isinstance(assets.get(name), dict)]
    if not named and not item_assets:
        data = [each for each in assets.values() if isinstance(each, dict) and "data" in (each.get("roles") or ())]
        named = data if len(data) == 1 else []
    href = named[0].get("href") if named else None
    return href if isinstance(href, str) and href else None


def _days(properties: dict[str, Any]) -> tuple[float, float] | None:
    first, last = (days_since_epoch(properties.get(name)) for name in ("start_datetime", "end_datetime"))
    if first is None or last is None:
        first = last = days_since_epoch(properties.get("datetime"))
    return None if first is None or last is None else (min(first, last), max(first, last))


def _epsg(properties: dict[str, Any]) -> int:
    code = properties.get("proj:code") or properties.get("proj:epsg") or 0
    text = str(code).rpartition(":")[2]
    return int(text) if text.isdigit() else 0
