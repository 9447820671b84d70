"""Grouped searches: few requests, resumed from a cache, smaller where the catalog cannot cope."""

import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely.geometry.base import BaseGeometry

from pipelines.errors import CatalogError
from pipelines.progress import Progress
from pipelines.sampling.areas import Area, area_of_box, area_of_places, search_groups
from pipelines.sampling.catalog import Catalog
from pipelines.sampling.config import SearchConfig
from pipelines.sampling.footprints import footprint_of_item
from pipelines.sampling.item_cache import ItemCache
from pipelines.sampling.items import Scene, scene_of_item
from pipelines.sampling.scene_table import SceneTable

logger = logging.getLogger(__name__)

CONCURRENT_SEARCHES = 4
USUAL_PAGE = 250
SMALLER_PAGES = (100, 25)
MAX_PROBES = 3

Described = list[tuple[str, Scene | str, BaseGeometry]]


@dataclass
class Searcher:
    """Finds the items around places, and counts what it takes.

    Attributes:
        lonlat_deg: The places, shape (n, 2).
        cache_folder: Where answers are kept; None keeps none.
        num_searches: Searches answered so far, by the catalog or the cache.
        num_pages: Pages that the catalog sent.
    """

    catalog: Catalog
    config: SearchConfig
    lonlat_deg: NDArray[np.float64]
    cache_folder: Path | None = None
    num_searches: int = 0
    num_cached: int = 0
    num_pages: int = 0
    _page_size: int | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self._page_size = self.config.page_size
        self._cache = None if self.cache_folder is None or not self.config.cache_max_age_days else ItemCache(
            self.cache_folder,
            (self.catalog.url, self.catalog.collection),
            self.catalog.relative_href,
            self.config.cache_max_age_days,
        )  # fmt: skip

    def find(self) -> SceneTable:
        """The items around all places.

        Raises:
            CatalogError: the catalog fails, even when asked for less at once.
        """
        groups = search_groups(self.lonlat_deg, self.config, boxes_only=self._answers_boxes_only())
        progress = Progress(logger, "searching scenes", total=len(groups), unit="searches")
        table = SceneTable()
        pool = ThreadPoolExecutor(CONCURRENT_SEARCHES)
        try:
            for described in pool.map(lambda group: self._search_group(group[0], group[1], table), groups):
                for item_id, scene, footprint in described:
                    table.add(item_id, scene, footprint)
                progress.advance()
        finally:
            pool.shutdown(cancel_futures=True)
        if self._cache is not None:
            self._cache.prune()
        return table

    def search(self, area: Area, known_items: SceneTable | None = None) -> Described:
        """The items that touch an area, from the cache or the catalog.

        Args:
            area: GeoJSON geometry.
            known_items: Items that are in it already are not described again.

        Raises:
            CatalogError: the catalog fails.
        """
        config = self.config
        dates = (config.start_date, config.end_date)
        asked = {"area": area, "dates": dates, "cloud": config.max_cloud_cover_percent}
        known = self._cache.read(asked) if self._cache is not None else None
        with self._lock:
            self.num_searches += 1
            self.num_cached += known is not None
        if known is not None:
            return [self._describe(item) for item in known if not (known_items and str(item.get("id")) in known_items)]
        described: Described = []
        num_items = 0
        lines: list[str] = []
        size = self._page_size or USUAL_PAGE
        limit: dict[str, Any] = {"limit": size} if self._page_size else {}
        for item in self.catalog.search(area, *dates, config.max_cloud_cover_percent, **limit):
            num_items += 1
            if not (known_items and str(item.get("id")) in known_items):
                described.append(self._describe(item))
            if self._cache is not None:
                lines.append(self._cache.line(item))
        with self._lock:
            self.num_pages += max(1, -(-num_items // size))
        if self._cache is not None:
            self._cache.write(asked, lines)
        return described

    def _describe(self, item: dict[str, Any]) -> tuple[str, Scene | str, BaseGeometry]:
        return str(item.get("id")), scene_of_item(item, self.catalog), footprint_of_item(item)

    def _search_group(self, rows: NDArray[np.intp], by_box: bool, table: SceneTable) -> Described:
        """Searches for one group; where that fails but the catalog lives, in smaller pages, then in halves."""
        lonlat_deg = self.lonlat_deg[rows]
        area = area_of_box(lonlat_deg) if by_box else area_of_places(lonlat_deg)
        try:
            return self.search(area, table)
        except CatalogError as error:
            failure = error
        smaller = next((size for size in SMALLER_PAGES if size < (self._page_size or USUAL_PAGE)), None)
        if smaller is None and len(rows) == 1:
            raise failure
        logger.warning("%s; asking for less at once", failure)
        if smaller is not None:
            self._page_size = smaller
        if len(rows) == 1:
            return self._search_group(rows, by_box, table)
        first = self._search_group(rows[:1], by_box, table)  # of a catalog that is down no more is asked
        rest = np.array_split(rows[1:], min(2, len(rows) - 1))
        return [*first, *(each for half in rest for each in self._search_group(half, by_box, table))]

    def _answers_boxes_only(self) -> bool:
        """Whether the catalog misses items when it is asked for several places at once; measured, not believed."""
        if self.config.search_area != "auto":
            return self.config.search_area == "box"
        cells = search_groups(self.lonlat_deg, self.config, boxes_only=True)
        groups = [rows[:2] for rows, _ in cells if len(rows) > 1]
        spread = [float(np.ptp(self.lonlat_deg[rows], axis=0).sum()) for rows in groups]
        for index in np.argsort(spread, kind="stable")[:MAX_PROBES]:
            lonlat_deg = self.lonlat_deg[groups[index]]
            points = shapely.points(lonlat_deg)
            expected = {
                item_id
                for item_id, _, footprint in self.search(area_of_box(lonlat_deg))
                if shapely.intersects(footprint, points).any()
            }
            try:
                found = {item_id for item_id, _, _ in self.search(area_of_places(lonlat_deg))}
            except CatalogError as error:
                logger.warning("%s; asking for boxes instead of places", error)
                return True
            if expected - found:
                logger.warning(
                    "%s: a search by places misses %d of %d items of a search by their box; asking for boxes",
                    self.catalog.url, len(expected - found), len(expected),
                )  # fmt: skip
                return True
            if expected:
                return False
        return False
