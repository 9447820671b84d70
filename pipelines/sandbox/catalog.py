"""STAC collection and items of the sandbox, in the fields and asset names of the Planetary Computer."""

import json
import logging
import time
from collections.abc import Iterable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from pipelines.sandbox import spectra
from pipelines.sandbox.land_cover import MAP_YEARS, LandCoverMap, land_cover_collection, land_cover_item
from pipelines.sandbox.rendering import Renderer
from pipelines.sandbox.scenes import HALF_SWATH, Scene, solar_angles_deg
from pipelines.sandbox.tiling import TILE_SIZE_M, Tile, all_tiles, footprint, tiles_covering
from pipelines.sandbox.utm import from_utm

logger = logging.getLogger(__name__)

COLLECTION_ID: Final = "sentinel-2-l2a"
STORAGE_ACCOUNT: Final = "sandbox"
STORAGE_CONTAINER: Final = "sentinel2-l2"
ORIGIN: Final = "http://sandbox.invalid"
"""Stands for the server's address in stored items; the server puts its own in its place."""
STAC_ORIGIN: Final = "http://stac.sandbox.invalid"
"""The same for the links the STAC server writes."""
ITEM_ASSETS: Final = (*spectra.BANDS, "SCL", "visual")
COG_TYPE: Final = "image/tiff; application=geotiff; profile=cloud-optimized"
_EXTENSIONS: Final = [
    "https://stac-extensions.github.io/eo/v1.0.0/schema.json",
    "https://stac-extensions.github.io/sat/v1.0.0/schema.json",
    "https://stac-extensions.github.io/projection/v1.0.0/schema.json",
]
_CLASS_PROPERTIES: Final = {
    "s2:cloud_shadow_percentage": 3,
    "s2:vegetation_percentage": 4,
    "s2:not_vegetated_percentage": 5,
    "s2:water_percentage": 6,
    "s2:medium_proba_clouds_percentage": 8,
    "s2:high_proba_clouds_percentage": 9,
    "s2:thin_cirrus_percentage": 10,
    "s2:snow_ice_percentage": 11,
}


def collection() -> dict[str, Any]:
    """The collection, with the account and container a token is asked for."""
    return {
        "type": "Collection",
        "id": COLLECTION_ID,
        "stac_version": "1.0.0",
        "stac_extensions": ["https://stac-extensions.github.io/item-assets/v1.0.0/schema.json"],
        "title": "Sentinel-2 Level-2A of a synthetic planet",
        "description": "Scenes rendered on request from seeded fields. Nothing in them was measured on Earth.",
        "license": "proprietary",
        "keywords": ["Sentinel", "synthetic"],
        "extent": {
            "spatial": {"bbox": [[-180, -90, 180, 90]]},
            "temporal": {"interval": [["2021-01-01T00:00:00Z", "2023-05-17T23:59:59Z"]]},
        },
        "summaries": {
            "gsd": [10, 20, 60],
            "platform": ["Sentinel-2A", "Sentinel-2B"],
            "instruments": ["msi"],
            "constellation": ["sentinel-2"],
            "eo:bands": [_band(name) for name in spectra.BANDS],
        },
        "item_assets": {
            name: {"type": COG_TYPE, "roles": ["data"], "gsd": spectra.RESOLUTION_M[name]} for name in ITEM_ASSETS
        },
        "msft:storage_account": STORAGE_ACCOUNT,
        "msft:container": STORAGE_CONTAINER,
        "links": [],
    }


def _band(name: str) -> dict[str, Any]:
    band: dict[str, Any] = {"name": name}
    if name in spectra.COMMON_NAMES:
        band["common_name"] = spectra.COMMON_NAMES[name]
    band["center_wavelength"] = spectra.CENTER_WAVELENGTH_UM[spectra.BANDS.index(name)]
    return band


def _asset(scene: Scene, product_name: str, name: str) -> dict[str, Any]:
    resolution = spectra.RESOLUTION_M[name]
    asset: dict[str, Any] = {
        "href": f"{ORIGIN}/cog/{product_name}/{name}.tif",
        "type": COG_TYPE,
        "roles": ["data"],
        "gsd": resolution,
        "proj:shape": [TILE_SIZE_M // resolution] * 2,
        "proj:transform": [resolution, 0, scene.tile.x_ul_m, 0, -resolution, scene.tile.y_ul_m],
    }
    if name in spectra.BANDS:
        asset["eo:bands"] = [{"name": name}]
    return asset


def item(scene: Scene, renderer: Renderer) -> dict[str, Any]:
    """The STAC item of one scene; its percentages are counted on the scene's own classes at 24 x 24 points."""
    classes = renderer.scene_classes(scene)
    product_name = scene.product_name
    seen = max(1, int((classes != 0).sum()))
    centre = scene.tile.boundary_lonlat_deg[:-1].mean(axis=0)
    zenith, azimuth = solar_angles_deg(centre, scene.sensed)
    geometry, bbox = footprint(data_ring_lonlat_deg(scene))
    percentages = {key: round(100.0 * int((classes == k).sum()) / seen, 6) for key, k in _CLASS_PROPERTIES.items()}
    cloud = 100.0 * int(np.isin(classes, (8, 9, 10)).sum()) / seen
    return {
        "type": "Feature",
        "stac_version": "1.0.0",
        "stac_extensions": _EXTENSIONS,
        "id": scene.item_id,
        "collection": COLLECTION_ID,
        "geometry": geometry,
        "bbox": bbox,
        "links": [],
        "properties": {
            "datetime": f"{scene.sensed:%Y-%m-%dT%H:%M:%S}.024000Z",
            "platform": "Sentinel-2A" if scene.satellite == "S2A" else "Sentinel-2B",
            "constellation": "Sentinel 2",
            "instruments": ["msi"],
            "eo:cloud_cover": round(cloud, 6),
            "proj:epsg": scene.tile.epsg,
            "sat:orbit_state": "descending",
            "sat:relative_orbit": scene.relative_orbit,
            "s2:mgrs_tile": scene.tile.tile_id,
            "s2:product_uri": f"{product_name}.SAFE",
            "s2:product_type": "S2MSI2A",
            "s2:processing_baseline": scene.baseline,
            "s2:generation_time": f"{scene.generated:%Y-%m-%dT%H:%M:%S}.000Z",
            "s2:mean_solar_zenith": round(zenith, 4),
            "s2:mean_solar_azimuth": round(azimuth, 4),
            "s2:nodata_pixel_percentage": round(100.0 * float((classes == 0).mean()), 6),
            **percentages,
        },
        "assets": {name: _asset(scene, product_name, name) for name in ITEM_ASSETS},
    }


def data_ring_lonlat_deg(scene: Scene) -> NDArray[np.float64]:
    """Closed ring around the part of the tile inside the swath; longitudes may continue past 180.

    The edge of the swath is all but straight within one tile, so the tile's square is cut along a line.
    """
    tile = scene.tile
    ring = tile.boundary_lonlat_deg
    lon, lat = np.radians(ring).T
    xyz = np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)])
    cross = scene.swath_normal @ xyz
    if np.abs(cross).max() <= HALF_SWATH:
        return ring
    cut = ring
    for sign in (1.0, -1.0):
        cut, cross = _keep_below(cut, cross, sign, HALF_SWATH)
    return cut if len(cut) > 3 else ring


def _keep_below(
    ring: NDArray[np.float64], value: NDArray[np.float64], sign: float, limit: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Cuts a closed ring where sign times the value at its vertices exceeds the limit (Sutherland and Hodgman)."""
    points: list[NDArray[np.float64]] = []
    values: list[float] = []
    for (start, stop), (first, last) in zip(pairwise(ring), pairwise(value), strict=True):
        inside = sign * first <= limit
        if inside:
            points.append(start)
            values.append(first)
        if inside != (sign * last <= limit):
            share = (sign * limit - first) / (last - first)
            points.append(start + share * (stop - start))
            values.append(sign * limit)
    if not points:
        return ring[:0], value[:0]
    return np.array([*points, points[0]]), np.array([*values, values[0]])


def tiles_of_places(lonlat_deg: NDArray[np.float64]) -> list[Tile]:
    """The tiles that contain any of the places (n, 2), by name."""
    found = {tile.tile_id: tile for point in lonlat_deg for tile in tiles_covering(point)}
    return [found[name] for name in sorted(found)]


def land_tiles(renderer: Renderer) -> Iterator[Tile]:
    """Every tile with land at one of 23 x 23 points between 56 S and 84 N."""
    inner = np.linspace(0.0, TILE_SIZE_M, 23)
    for tile in all_tiles():
        x, y = np.meshgrid(tile.x_ul_m + inner, tile.signed_y_ul_m - inner)
        lonlat = from_utm(x, y, tile.zone).reshape(-1, 2)
        if lonlat[:, 1].max() >= -56.0 and renderer.planet.is_land(lonlat).any():
            yield tile


def write_items(path: Path, scenes_of_tiles: Iterable[Iterable[Scene]], renderer: Renderer) -> int:
    """Writes the items of scenes, tile by tile, as one FeatureCollection and returns their number."""
    start = last = time.monotonic()
    count = 0
    with path.open("w") as handle:
        handle.write('{"type":"FeatureCollection","features":[')
        for scenes in scenes_of_tiles:
            for scene in scenes:
                handle.write("," if count else "")
                handle.write(json.dumps(item(scene, renderer), separators=(",", ":")))
                count += 1
            if time.monotonic() - last > 10:
                last = time.monotonic()
                logger.info("sandbox catalog: %d items, %.0f items/s", count, count / (last - start))
        handle.write("]}\n")
    logger.info("sandbox catalog: %d items in %.1f s", count, time.monotonic() - start)
    return count


def write_land_cover(folder: Path, tiles: Iterable[Tile]) -> int:
    """Writes the land-cover collection and the items of the tiles into a folder; returns the number of items."""
    (folder / "land_cover_collection.json").write_text(json.dumps(land_cover_collection(STORAGE_ACCOUNT)))
    items = [land_cover_item(LandCoverMap(tile, year), ORIGIN) for tile in tiles for year in MAP_YEARS]
    (folder / "land_cover_items.json").write_text(
        json.dumps({"type": "FeatureCollection", "features": items}, separators=(",", ":"))
    )
    return len(items)
