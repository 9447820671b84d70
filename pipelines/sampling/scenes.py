"""Candidate scenes of a place: found by grouped searches, resolved, described in the columns of the plan."""

import logging
import time
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from shapely import STRtree, points
from shapely.geometry import shape
from shapely.geometry.base import BaseGeometry

from pipelines.errors import CatalogError
from pipelines.progress import Progress
from pipelines.sampling.catalog import Catalog
from pipelines.sampling.config import SearchConfig
from pipelines.sampling.items import Scene, scene_hrefs, scene_of_item
from pipelines.sampling.tables import read_table, write_table

logger = logging.getLogger(__name__)

__all__ = ["Scene", "SearchReport", "find_scenes", "scene_hrefs", "scene_of_item"]

CONCURRENT_SEARCHES = 4


@dataclass(frozen=True)
class SearchReport:
    """What finding the candidates took and found."""

    num_searches: int
    num_items: int
    num_scenes: int
    num_duplicates: int
    unusable_items: dict[str, int]
    places_without_scene: int
    seconds: float


def find_scenes(places: pd.DataFrame, catalog: Catalog, config: SearchConfig) -> tuple[pd.DataFrame, SearchReport]:
    """Candidate scenes of every place.

    Places are grouped by cell and searched together, then matched to footprints here. One acquisition under several
    processing baselines is kept once: highest baseline, then latest generation time.

    Args:
        places: place_id, lon_deg, lat_deg.
        catalog: Where to search.
        config: Dates, cloud cover, grouping.

    Returns:
        Pairs of place and scene ordered by place_id and item_id: place_id, lon_deg, lat_deg and the fields of `Scene`.

    Raises:
        CatalogError: the API fails, or no place has a scene.
    """
    started = time.monotonic()
    groups = list(group_places(places[["lon_deg", "lat_deg"]].to_numpy(), config))
    progress = Progress(logger, "searching scenes", total=len(groups), unit="searches")

    def search(rows: NDArray[np.intp]) -> list[tuple[str, Scene | str, BaseGeometry]]:
        coordinates = places[["lon_deg", "lat_deg"]].to_numpy()[rows].round(7).tolist()
        area = {"type": "MultiPoint", "coordinates": coordinates}
        items = catalog.search(area, config.start_date, config.end_date, config.max_cloud_cover_percent)
        return [(item["id"], scene_of_item(item, catalog), shape(item["geometry"])) for item in items]

    found: dict[str, tuple[Scene | str, BaseGeometry]] = {}
    with ThreadPoolExecutor(CONCURRENT_SEARCHES) as pool:
        for described in pool.map(search, groups):
            found.update((item_id, (scene, footprint)) for item_id, scene, footprint in described)
            progress.advance()
    if not found:
        raise CatalogError(
            f"{catalog.url}: no scene of {catalog.collection} from {config.start_date} to {config.end_date} under "
            f"{config.max_cloud_cover_percent} % cloud cover at any of {len(places)} places; "
            "widen the dates or raise max_cloud_cover_percent"
        )
    unusable = _count_unusable(found)
    scenes = [scene for scene, _ in found.values() if isinstance(scene, Scene)]
    unique = resolve_duplicates(scenes)
    pairs = _match(places, unique, [found[scene.item_id][1] for scene in unique])
    if not len(pairs):
        raise CatalogError(
            f"{catalog.url}: {len(found)} items found, none can serve a place (unusable: {unusable or 'none'}; "
            "the rest do not contain a place); check the collection's asset names and footprints"
        )
    report = SearchReport(
        num_searches=len(groups),
        num_items=len(found),
        num_scenes=len(unique),
        num_duplicates=len(scenes) - len(unique),
        unusable_items=unusable,
        places_without_scene=len(places) - pairs["place_id"].nunique(),
        seconds=time.monotonic() - started,
    )
    return pairs, report


def group_places(lonlat_deg: NDArray[np.float64], config: SearchConfig) -> Iterator[NDArray[np.intp]]:
    """Row numbers of the places that share a search: same cell, at most ``max_places_per_search``."""
    cells = np.floor(lonlat_deg / config.search_cell_deg).astype(np.int64)
    order = np.lexsort((np.arange(len(cells)), cells[:, 0], cells[:, 1]))
    boundaries = np.flatnonzero((np.diff(cells[order], axis=0) != 0).any(axis=1)) + 1
    for group in np.split(order, boundaries):
        for start in range(0, len(group), config.max_places_per_search):
            yield group[start : start + config.max_places_per_search]


def resolve_duplicates(scenes: Iterable[Scene]) -> list[Scene]:
    """One scene per acquisition (platform, second, tile): highest baseline, then latest generation time."""
    best: dict[tuple[str, str, str], Scene] = {}
    for scene in scenes:
        key = (scene.platform, scene.datetime[:19], scene.mgrs_tile)
        known = best.get(key)
        if known is None or _recency(scene) > _recency(known):
            best[key] = scene
    return sorted(best.values(), key=lambda scene: scene.item_id)


def _recency(scene: Scene) -> tuple[str, str, str]:
    return scene.processing_baseline, scene.generation_time, scene.item_id


def _count_unusable(found: Mapping[str, tuple[Scene | str, BaseGeometry]]) -> dict[str, int]:
    unusable: dict[str, int] = {}
    for item_id, (scene, _) in found.items():
        if isinstance(scene, str):
            unusable[scene] = unusable.get(scene, 0) + 1
            logger.warning("item %s cannot serve: %s; it is left out", item_id, scene)
    return unusable


def _match(places: pd.DataFrame, scenes: list[Scene], footprints: list[BaseGeometry]) -> pd.DataFrame:
    at = points(places["lon_deg"].to_numpy(), places["lat_deg"].to_numpy())
    place_rows, scene_rows = STRtree(footprints).query(at, predicate="intersects")
    order = np.lexsort((scene_rows, place_rows))
    pairs = places.iloc[place_rows[order]][["place_id", "lon_deg", "lat_deg"]].reset_index(drop=True)
    table = pd.DataFrame([asdict(scene) for scene in scenes], columns=[each.name for each in fields(Scene)])
    described = table.iloc[scene_rows[order]].reset_index(drop=True)
    return pd.concat([pairs, described], axis=1)


def write_scene_candidates(path: Path, pairs: pd.DataFrame, record: Mapping[str, object]) -> None:
    """Writes the pairs of place and scene from `find_scenes` with what made them."""
    write_table(path, pairs, record)


def read_scene_candidates(path: Path) -> pd.DataFrame:
    """Reads the table of asset ``scene_candidates``; raises ArtefactError where it is missing."""
    return read_table(path, asset="scene_candidates")
