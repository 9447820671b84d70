"""A STAC item as the plan sees it: one scene, its grid, its files, its offset."""

import json
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

import numpy as np

from pipelines.sampling.catalog import Catalog
from pipelines.sentinel2 import ALL_ASSETS, BANDS, boa_add_offset


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
