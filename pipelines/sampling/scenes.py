"""Candidate scenes: one row per acquisition that holds a place, found by few searches or in a table of all items."""

import logging
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import shapely
from numpy.typing import NDArray

from pipelines.errors import CatalogError
from pipelines.sampling.bulk import find_in_bulk
from pipelines.sampling.catalog import Catalog
from pipelines.sampling.config import SearchConfig
from pipelines.sampling.items import Scene, scene_hrefs, scene_of_item
from pipelines.sampling.scene_table import FOOTPRINT, read_scene_table, write_scene_table
from pipelines.sampling.search import Searcher

__all__ = [
    "Scene", "SearchReport", "find_scenes", "read_scene_candidates", "resolve_duplicates",
    "scene_hrefs", "scene_of_item", "write_scene_candidates",
]  # fmt: skip

logger = logging.getLogger(__name__)

PLACES_PER_LOOKUP = 20_000
SHARED_FRACTION = 0.5
"""Two products of one acquisition that share less than this of the smaller footprint are parts of it, not versions."""


@dataclass(frozen=True)
class SearchReport:
    """What finding the scenes took and found.

    Attributes:
        source: ``search`` or ``bulk``.
        reason: Why not ``bulk``, where it was looked for.
        num_searches: Searches whose answer was needed.
        num_cached: Those that the cache answered.
        num_requests: Pages asked for, beside retries.
        num_items: Items found, with those that cannot serve.
        num_scenes: Acquisitions that hold a place.
        num_duplicates: Further versions of them.
    """

    source: str
    reason: str
    num_places: int
    num_searches: int
    num_cached: int
    num_requests: int
    num_items: int
    num_scenes: int
    num_duplicates: int
    unusable_items: dict[str, int]
    places_without_scene: int
    seconds: float

    @property
    def requests_per_1000_places(self) -> float:
        """Requests per 1,000 places."""
        return 1000.0 * self.num_requests / max(self.num_places, 1)


def find_scenes(
    places: pd.DataFrame, catalog: Catalog, config: SearchConfig, cache_folder: Path | None = None
) -> tuple[pd.DataFrame, SearchReport]:
    """Scenes that hold at least one of the places, within dates and cloud cover.

    One acquisition under several processing baselines is kept once: highest baseline, then latest generation time.
    The rows depend on what the catalog holds, not on how it was asked.

    Args:
        places: place_id, lon_deg, lat_deg.
        catalog: Where to search.
        config: Dates, cloud cover, how to ask.
        cache_folder: Keeps the answers to searches; an interrupted run goes on from there.

    Returns:
        One row per scene, ordered by item_id: the fields of `Scene` and ``footprint`` (shapely, lon/lat, cut at the
        antimeridian).

    Raises:
        CatalogError: the API fails, or no place has a scene.
    """
    started = time.monotonic()
    lonlat_deg = places[["lon_deg", "lat_deg"]].to_numpy(dtype=np.float64)
    before = requests_made(catalog)
    searcher = Searcher(catalog, config, lonlat_deg, cache_folder)
    table, reason = find_in_bulk(lonlat_deg, catalog, config, searcher)
    source = "bulk" if table is not None else "search"
    if table is None:
        table = searcher.find()
    num_items, unusable = table.num_items, table.unusable
    frame = table.frame()
    holding, has_scene = _holding_places(frame[FOOTPRINT].to_numpy(), lonlat_deg)
    if not holding.any():
        raise CatalogError(_nothing_found(catalog, config, len(places), num_items, unusable))
    frame = frame[holding].reset_index(drop=True)
    scenes = resolve_duplicates(frame)
    report = SearchReport(
        source=source,
        reason=reason,
        num_places=len(places),
        num_searches=searcher.num_searches,
        num_cached=searcher.num_cached,
        num_requests=searcher.num_pages if before is None else (requests_made(catalog) or 0) - before,
        num_items=num_items,
        num_scenes=len(scenes),
        num_duplicates=len(frame) - len(scenes),
        unusable_items=unusable,
        places_without_scene=int((~has_scene).sum()),
        seconds=time.monotonic() - started,
    )
    return scenes, report


def requests_made(catalog: Catalog) -> int | None:
    """Requests that the catalog's client has sent so far, where it counts them."""
    count = getattr(catalog, "num_requests", None)
    return None if count is None else int(count)


def resolve_duplicates(scenes: pd.DataFrame) -> pd.DataFrame:
    """One row per acquisition (platform, second, tile): highest baseline, then latest generation time.

    Products of one acquisition that cover different parts of a tile (a tile split between two datastrips) all stay.
    """
    acquisition = scenes["platform"] + "|" + scenes["datetime"].str[:19] + "|" + scenes["mgrs_tile"]
    acquisition = acquisition.where(scenes["mgrs_tile"] != "", "item|" + scenes["item_id"])
    order = scenes.assign(_acquisition=acquisition)[
        ["_acquisition", "processing_baseline", "generation_time", "item_id"]
    ]
    order = order.sort_values(list(order.columns), kind="stable")
    newest = ~order["_acquisition"].duplicated(keep="last")
    kept = set(order.index[newest])
    several = order[order["_acquisition"].duplicated(keep=False)]
    footprints = scenes[FOOTPRINT].to_numpy() if FOOTPRINT in scenes else None
    if footprints is not None:
        for _, versions in several.groupby("_acquisition", sort=True):
            kept.update(_parts_of_acquisition(versions.index[::-1].tolist(), footprints))
    return scenes.loc[sorted(kept)].reset_index(drop=True)


def _parts_of_acquisition(newest_first: list[int], footprints: NDArray[np.object_]) -> list[int]:
    kept: list[int] = []
    for row in newest_first:
        area = footprints[row].area
        shared = [footprints[row].intersection(footprints[other]).area for other in kept]
        smaller = [min(area, footprints[other].area) for other in kept]
        if all(part < SHARED_FRACTION * whole for part, whole in zip(shared, smaller, strict=True)):
            kept.append(row)
    return kept


def _holding_places(
    footprints: NDArray[np.object_], lonlat_deg: NDArray[np.float64]
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which footprints hold a place, and which places lie in one."""
    tree = shapely.STRtree(footprints)
    holding = np.zeros(len(footprints), dtype=np.bool_)
    has_scene = np.zeros(len(lonlat_deg), dtype=np.bool_)
    for start in range(0, len(lonlat_deg), PLACES_PER_LOOKUP):
        block = lonlat_deg[start : start + PLACES_PER_LOOKUP]
        place_rows, scene_rows = tree.query(shapely.points(block), predicate="intersects")
        holding[scene_rows] = True
        has_scene[start + place_rows] = True
    return holding, has_scene


def _nothing_found(
    catalog: Catalog, config: SearchConfig, num_places: int, num_items: int, unusable: Mapping[str, int]
) -> str:
    if not num_items:
        return (
            f"{catalog.url}: no scene of {catalog.collection} from {config.start_date} to {config.end_date} under "
            f"{config.max_cloud_cover_percent} % cloud cover at any of {num_places} places; "
            "widen the dates or raise max_cloud_cover_percent"
        )
    return (
        f"{catalog.url}: {num_items} items found, none can serve a place (unusable: {dict(unusable) or 'none'}; "
        "the rest do not contain a place); check the collection's asset names and footprints"
    )


def write_scene_candidates(path: Path, scenes: pd.DataFrame, record: Mapping[str, object]) -> None:
    """Writes the scenes from `find_scenes` as GeoParquet, footprints as WKB, with what made them."""
    write_scene_table(path, scenes, record)


def read_scene_candidates(path: Path, columns: Iterable[str] | None = None) -> pd.DataFrame:
    """Reads the table of asset ``scene_candidates``, footprints as shapely geometries.

    Args:
        path: The file.
        columns: Those to read; all by default.

    Raises:
        ArtefactError: the file is missing.
    """
    return read_scene_table(path, "scene_candidates", columns)
