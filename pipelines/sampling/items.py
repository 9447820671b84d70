"""From a STAC item of any catalog to a scene in the columns of the plan, or to the reason why it cannot serve."""

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import takewhile
from typing import Any, Final

from pipelines.sampling.addresses import is_local, resolved_href
from pipelines.sampling.catalog import Catalog
from pipelines.sampling.catalog_profile import CatalogProfile
from pipelines.sampling.item_grid import grid_of_item, tile_grid
from pipelines.sentinel2 import ALL_ASSETS, BANDS, boa_add_offset, processing_baseline

NAMINGS: Final = (
    dict(zip(ALL_ASSETS, ALL_ASSETS, strict=True)),
    {"B01": "coastal", "B02": "blue", "B03": "green", "B04": "red", "B05": "rededge1", "B06": "rededge2",
     "B07": "rededge3", "B08": "nir", "B8A": "nir08", "B09": "nir09", "B11": "swir16", "B12": "swir22", "SCL": "scl"},
    {"B01": "B01_60m", "B02": "B02_10m", "B03": "B03_10m", "B04": "B04_10m", "B05": "B05_20m", "B06": "B06_20m",
     "B07": "B07_20m", "B08": "B08_10m", "B8A": "B8A_20m", "B09": "B09_60m", "B11": "B11_20m", "B12": "B12_20m",
     "SCL": "SCL_20m"},
)  # fmt: skip
"""Names of item assets in use: the Planetary Computer's, Earth Search's, and ESA's file names."""

TEN_METRE_BANDS: Final = ("B02", "B03", "B04", "B08")
MAX_ID_LENGTH: Final = 256
_LEVEL_1C_ASSETS: Final = ("B10", "cirrus", "B10_60m")
_TILE_IN_ID: Final = re.compile(r"(?:^|_)T?(\d{1,2}[C-HJ-NP-X][A-HJ-NP-Z][A-HJ-NP-V])(?:_|$)")
_CANONICAL_TIME: Final = re.compile(r"\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}(\.\d+)?Z")
_PRODUCT: Final = re.compile(r"S2[A-Z]_MSIL\d")
_SAYS_1C: Final = re.compile(r"MSI_?L?1[ABC]|_L1C|^L1")
_SAYS_2A: Final = re.compile(r"MSI_?L?2A|_L2A|^L2")
_ORBIT_IN_ID: Final = re.compile(r"_R(\d{3})_")


@dataclass(frozen=True)
class Scene:
    """One item of a collection, as far as the plan needs it.

    Attributes:
        item_id: Id within the collection.
        datetime: Acquisition, UTC, ISO 8601; the start where the item gives an interval.
        mgrs_tile: Tile like ``31TCJ``, empty where the item names none.
        x_ul_m: Easting of the upper-left corner of the 10 m grid.
        y_ul_m: Northing of the upper-left corner.
        scene_cloud_cover_percent: NaN where the item does not say.
        processing_baseline: ``NN.NN``, empty where unknown.
        boa_add_offset: What to add to the digital numbers (0 or -1000).
        offset_source: Where that is known from; see `boa_add_offset` of pipelines.sentinel2.
        relative_orbit: -1 where unknown.
        href_base: Common beginning of all addresses, relative to the catalog.
        hrefs: JSON object from band to address, relative to ``href_base``.
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


def scene_of_item(item: object, catalog: Catalog) -> Scene | str:
    """The plan's description of a STAC item, or the reason why it cannot serve; never an exception.

    Args:
        item: A GeoJSON feature, as delivered: nothing in it is believed.
        catalog: Whose item it is: its profile says what things are called and which files it may name.

    Returns:
        The scene, or one of ``not_an_item``, ``no_datetime``, ``not_level_2a``, ``missing_band:BAND``, ``no_grid``,
        ``grid_not_north_up``, ``grid_not_metric``, ``bad_address:BAND`` and ``foreign_host:HOST``.
    """
    if not isinstance(item, dict) or not is_item_id(item.get("id")):
        return "not_an_item"
    properties, assets = item.get("properties"), item.get("assets")
    if not isinstance(properties, dict) or not isinstance(assets, dict):
        return "not_an_item"
    when = _datetime(properties)
    if not when:
        return "no_datetime"
    product = _product_id(item["id"], properties, catalog.profile)
    if _is_level_1c(item, properties, assets, product):
        return "not_level_2a"
    chosen = choose_item_assets(assets, catalog.profile)
    if isinstance(chosen, str):
        return chosen
    tile = _mgrs_tile(item["id"], properties, product, catalog.profile)
    grid = grid_of_item(properties, [chosen[band] for band in TEN_METRE_BANDS], tile)
    if isinstance(grid, str):
        return grid
    hrefs = _hrefs(item, chosen, catalog)
    if isinstance(hrefs, str):
        return hrefs
    base = _common_folder(list(hrefs.values()))
    names = catalog.profile.item_properties
    offset, offset_source = boa_add_offset(properties, chosen["B02"], product, catalog.profile.offset_sources)
    data_percent = _number(properties, names.data_percent)
    return Scene(
        item_id=item["id"],
        datetime=when,
        platform=_text(properties, ("platform", "eo:platform")) or product[:3],
        mgrs_tile=tile,
        epsg=grid.epsg,
        x_ul_m=grid.x_ul_m,
        y_ul_m=grid.y_ul_m,
        width_px=grid.width_px,
        height_px=grid.height_px,
        resolution_m=grid.resolution_m,
        scene_cloud_cover_percent=_number(properties, names.cloud_cover),
        scene_nodata_percent=_first_finite(_number(properties, names.nodata_percent), 100.0 - data_percent),
        processing_baseline=processing_baseline(properties, product),
        boa_add_offset=offset,
        offset_source=offset_source,
        generation_time=_text(properties, names.generation_time),
        relative_orbit=_relative_orbit(properties, product, catalog.profile),
        sun_zenith_deg=_first_finite(
            _number(properties, names.sun_zenith_deg), 90.0 - _number(properties, names.sun_elevation_deg)
        ),
        sun_azimuth_deg=_number(properties, names.sun_azimuth_deg),
        href_base=base,
        hrefs=json.dumps({name: href.removeprefix(base) for name, href in hrefs.items()}, sort_keys=True),
    )


def scene_hrefs(row: Any) -> dict[str, str]:  # noqa: ANN401
    """Addresses by band of a row of the plan, relative to the catalog."""
    return {name: row.href_base + tail for name, tail in json.loads(row.hrefs).items()}


def is_item_id(value: object) -> bool:
    """Whether an id may enter tables and logs: text of printable characters, not too long."""
    return isinstance(value, str) and 0 < len(value) <= MAX_ID_LENGTH and value.isprintable()


def choose_item_assets(assets: Mapping[str, Any], profile: CatalogProfile) -> dict[str, Mapping[str, Any]] | str:
    """The item's entry of every band, and of SCL where there is one, or ``missing_band:BAND``.

    Without names in the profile, the naming of which the item has the most bands is taken; a band that it lacks is
    looked for by the band names within the entries.
    """
    naming = profile.item_assets or max(NAMINGS, key=lambda names: sum(names[band] in assets for band in BANDS))
    chosen = {band: assets[name] for band, name in naming.items() if isinstance(assets.get(name), dict)}
    if not profile.item_assets and any(band not in chosen for band in BANDS):
        chosen = _by_band_names(assets) | chosen
    missing = next((band for band in BANDS if band not in chosen), None)
    return f"missing_band:{missing}" if missing else {band: chosen[band] for band in ALL_ASSETS if band in chosen}


def _by_band_names(assets: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    found: dict[str, Mapping[str, Any]] = {}
    for asset in assets.values():
        entries = (asset.get("bands") or asset.get("eo:bands")) if isinstance(asset, dict) else None
        if isinstance(entries, list) and len(entries) == 1 and isinstance(entries[0], dict):
            match = re.fullmatch(r"B?0?(\d{1,2}A?)", str(entries[0].get("name", "")).upper())
            band = f"B{match[1].rjust(2, '0')}" if match else ""
            if band in BANDS:
                found.setdefault(band, asset)
    return found


def _hrefs(item: Mapping[str, Any], chosen: Mapping[str, Mapping[str, Any]], catalog: Catalog) -> dict[str, str] | str:
    base = catalog.item_address(item)
    hrefs = {}
    for band, asset in chosen.items():
        href, problem = _readable_href(asset, base, catalog)
        if problem:
            return f"{problem}:{band}" if ":" not in problem else problem
        hrefs[band] = catalog.relative_href(href)
    return hrefs


def _readable_href(asset: Mapping[str, Any], base: str, catalog: Catalog) -> tuple[str, str]:
    """The preferred of an asset's addresses that the catalog may name; without one, what is wrong with the first."""
    addresses = list(_addresses(asset))
    order: dict[str, int] = {scheme: rank for rank, scheme in enumerate(catalog.profile.href_schemes)}
    ranked, problem = [], ""
    for position, href in enumerate(addresses):
        absolute = catalog.expanded_href(resolved_href(href.partition("?")[0].partition("#")[0], base))
        wrong = catalog.files.problem(absolute)
        problem = problem or wrong
        if not wrong and len(addresses) == 1:
            return absolute, ""
        if not wrong:
            scheme = "file" if is_local(absolute) else absolute.partition(":")[0].lower()
            ranked.append((order.get(scheme, len(order)), position, absolute))
    return (min(ranked)[2], "") if ranked else ("", problem or "bad_address")


def _addresses(asset: Mapping[str, Any]) -> Iterator[str]:
    alternates = asset.get("alternate")
    entries = (asset, *(alternates.values() if isinstance(alternates, dict) else ()))
    for entry in entries:
        href = entry.get("href") if isinstance(entry, dict) else None
        if isinstance(href, str) and href:
            yield href


def _datetime(properties: Mapping[str, Any]) -> str:
    """Acquisition in UTC; empty where the item gives none."""
    for name in ("datetime", "start_datetime"):
        text = properties.get(name)
        if isinstance(text, str):
            try:
                moment = datetime.fromisoformat(text)
                if _CANONICAL_TIME.fullmatch(text):
                    return text
                moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
            except (ValueError, OverflowError):
                continue
            return moment.isoformat().replace("+00:00", "Z")
    return ""


def _product_id(item_id: str, properties: Mapping[str, Any], profile: CatalogProfile) -> str:
    named = (_text(properties, (name,)) for name in profile.item_properties.product_id)
    return next((name for name in named if _PRODUCT.match(name)), item_id)


def _is_level_1c(
    item: Mapping[str, Any], properties: Mapping[str, Any], assets: Mapping[str, Any], product: str
) -> bool:
    stated = [_text(properties, (name,)) for name in ("s2:product_type", "sentinel2:product_type", "product:type")]
    stated += [_text(properties, ("processing:level",)), product, str(item["id"])]
    if any(_SAYS_1C.search(text) for text in stated):
        return True
    says_2a = any(_SAYS_2A.search(text) for text in stated)
    return not says_2a and any(name in assets for name in _LEVEL_1C_ASSETS)


def _mgrs_tile(item_id: str, properties: Mapping[str, Any], product: str, profile: CatalogProfile) -> str:
    candidates = [_text(properties, (name,)) for name in profile.item_properties.mgrs_tile]
    for prefix in ("mgrs", "sentinel"):
        parts = [_text(properties, (f"{prefix}:{name}",)) for name in ("utm_zone", "latitude_band", "grid_square")]
        candidates.append("".join(parts).replace(".0", ""))
    candidates += [match[1] for match in map(_TILE_IN_ID.search, (product, item_id)) if match]
    for candidate in candidates:
        tile = candidate.upper().removeprefix("MGRS-")
        tile = tile.removeprefix("T").rjust(5, "0")
        if tile_grid(tile):
            return tile
    return ""


def _relative_orbit(properties: Mapping[str, Any], product: str, profile: CatalogProfile) -> int:
    number = _number(properties, profile.item_properties.relative_orbit)
    if math.isfinite(number):
        return int(number) if 1 <= number <= 143 else -1
    match = _ORBIT_IN_ID.search(product)
    return int(match[1]) if match else -1


def _value(properties: Mapping[str, Any], name: str) -> object:
    if name in properties:
        return properties[name]
    outer, _, inner = name.partition(".")
    within = properties.get(outer) if inner else None
    return within.get(inner) if isinstance(within, dict) else None


def _number(properties: Mapping[str, Any], names: tuple[str, ...]) -> float:
    """The first finite number under one of the names, NaN without."""
    for name in names:
        value = _value(properties, name)
        if isinstance(value, bool) or not isinstance(value, int | float | str):
            continue
        try:
            number = float(value)
        except (ValueError, OverflowError):
            continue
        if math.isfinite(number):
            return number
    return float("nan")


def _text(properties: Mapping[str, Any], names: tuple[str, ...]) -> str:
    """The first short, printable text or number under one of the names, empty without."""
    for name in names:
        value = _value(properties, name)
        if isinstance(value, str | int | float) and not isinstance(value, bool):
            text = str(value)
            if text and len(text) <= MAX_ID_LENGTH and text.isprintable():
                return text
    return ""


def _first_finite(*values: float) -> float:
    return next((value for value in values if math.isfinite(value)), float("nan"))


def _common_folder(hrefs: list[str]) -> str:
    """The longest common beginning that ends with a slash, or nothing."""
    folders = [href.split("/")[:-1] for href in hrefs]
    shared = takewhile(lambda parts: len(set(parts)) == 1, zip(*folders, strict=False))
    return "".join(f"{parts[0]}/" for parts in shared)
