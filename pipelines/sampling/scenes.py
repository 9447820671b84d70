"""Candidate scenes of a place: found by grouped searches, resolved, described in the columns of the plan."""

import json
import logging
import time
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, fields
from itertools import takewhile
from pathlib import Path
from typing import Any

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
from pipelines.sampling.tables import read_scene_table, write_scene_table
from pipelines.sentinel2 import ALL_ASSETS, BANDS, boa_add_offset

logger = logging.getLogger(__name__)

CONCURRENT_SEARCHES = 4


@dataclass(frozen=True)
class Scene:
    """One item of a collection, as far as the plan needs it.

    Attributes:
        hrefs: JSON object from band to address, relative to ``href_base``.
        href_base: Common beginning of all addresses, relative to the catalog.
        x_ul_m: Easting of the upper-left corner of the 10 m grid.
        y_ul_m: Northing of the upper-left corner.
        boa_add_offset: What to add to the digital numbers (0 or -1000).
    """

    item_id: str
    datetime: str
    platform: str
    mgrs_tile: str
    epsg: int
    x_ul_m: float
    y_ul_m: float
    width_px: int
    height_px: int
    resolution_m: float
    scene_cloud_cover_percent: float
    scene_nodata_percent: float
    processing_baseline: str
    boa_add_offset: int
    offset_source: str
    generation_time: str
    relative_orbit: int
    sun_zenith_deg: float
    sun_azimuth_deg: float
    href_base: str
    hrefs: str


def scene_of_item(item: dict[str, Any], catalog: Catalog) -> Scene | str:
    """The plan's description of a STAC item, or the reason why it cannot serve."""
    properties, assets = item["properties"], item["assets"]
    missing = [band for band in BANDS if band not in assets]
    if missing:
        return f"missing_band:{missing[0]}"
    epsg = _epsg(properties)
    grid = assets["B02"]
    transform, size = grid.get("proj:transform"), grid.get("proj:shape")
    if epsg is None or transform is None or size is None:
        return "no_grid"
    if transform[0] != -transform[4] or transform[1] or transform[3]:
        return "grid_not_north_up"
    hrefs = {name: catalog.relative_href(assets[name]["href"]) for name in ALL_ASSETS if name in assets}
    base = _common_folder(list(hrefs.values()))
    baseline = str(properties.get("s2:processing_baseline", ""))
    offset, offset_source = boa_add_offset(properties, grid)
    return Scene(
        item_id=item["id"],
        datetime=properties["datetime"],
        platform=str(properties.get("platform", "")),
        mgrs_tile=_mgrs_tile(properties),
        epsg=epsg,
        x_ul_m=float(transform[2]),
        y_ul_m=float(transform[5]),
        width_px=int(size[1]),
        height_px=int(size[0]),
        resolution_m=float(transform[0]),
        scene_cloud_cover_percent=float(properties["eo:cloud_cover"]),
        scene_nodata_percent=float(properties.get("s2:nodata_pixel_percentage", np.nan)),
        processing_baseline=baseline,
        boa_add_offset=offset,
        offset_source=offset_source,
        generation_time=str(properties.get("s2:generation_time", "")),
        relative_orbit=int(properties.get("sat:relative_orbit", -1)),
        sun_zenith_deg=float(properties.get("s2:mean_solar_zenith", np.nan)),
        sun_azimuth_deg=float(properties.get("s2:mean_solar_azimuth", np.nan)),
        href_base=base,
        hrefs=json.dumps({name: href.removeprefix(base) for name, href in hrefs.items()}, sort_keys=True),
    )


def scene_hrefs(row: Any) -> dict[str, str]:  # noqa: ANN401
    """Addresses by band of a row of the plan, relative to the catalog."""
    return {name: row.href_base + tail for name, tail in json.loads(row.hrefs).items()}


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
    table = pd.DataFrame([asdict(scene) for scene in unique], columns=[each.name for each in fields(Scene)])
    table["footprint"] = [found[scene.item_id][1] for scene in unique]
    at = points(places["lon_deg"].to_numpy(), places["lat_deg"].to_numpy())
    served = np.unique(STRtree(table["footprint"].to_numpy()).query(at, predicate="intersects")[0])
    if not len(served):
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
        places_without_scene=len(places) - len(served),
        seconds=time.monotonic() - started,
    )
    return table, report


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


def _epsg(properties: dict[str, Any]) -> int | None:
    if properties.get("proj:epsg") is not None:
        return int(properties["proj:epsg"])
    code = str(properties.get("proj:code") or "")
    return int(code.removeprefix("EPSG:")) if code.startswith("EPSG:") else None


def _mgrs_tile(properties: dict[str, Any]) -> str:
    tile = properties.get("s2:mgrs_tile") or properties.get("grid:code") or ""
    if not tile and "mgrs:utm_zone" in properties:
        tile = f"{properties['mgrs:utm_zone']:02d}{properties['mgrs:latitude_band']}{properties['mgrs:grid_square']}"
    return str(tile).removeprefix("MGRS-")


def _common_folder(hrefs: list[str]) -> str:
    """The longest common beginning that ends with a slash, or nothing."""
    folders = [href.split("/")[:-1] for href in hrefs]
    shared = takewhile(lambda parts: len(set(parts)) == 1, zip(*folders, strict=False))
    return "".join(f"{parts[0]}/" for parts in shared)


def write_scene_candidates(path: Path, scenes: pd.DataFrame, record: Mapping[str, object]) -> None:
    """Writes the scenes from `find_scenes` with what made them."""
    write_scene_table(path, scenes, record)


def read_scene_candidates(path: Path) -> pd.DataFrame:
    """Reads the table of asset ``scene_candidates``; raises ArtefactError where it is missing."""
    return read_scene_table(path, asset="scene_candidates")
