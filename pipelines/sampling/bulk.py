"""Scenes from a collection's table of all items (stac-geoparquet), where it is fresh and complete."""

import logging
import re
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, time, timedelta
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import requests
import shapely
from numpy.typing import NDArray
from obstore.exceptions import BaseError
from pystac_client.exceptions import APIError

from pipelines.errors import CatalogError
from pipelines.progress import Progress
from pipelines.sampling.areas import area_of_places
from pipelines.sampling.bulk_store import BLOB_SCHEMES, Part, list_parts
from pipelines.sampling.catalog import Catalog
from pipelines.sampling.config import SearchConfig
from pipelines.sampling.footprints import normalized_footprints
from pipelines.sampling.items import scene_of_item
from pipelines.sampling.scene_table import SceneTable
from pipelines.sampling.search import Searcher

logger = logging.getLogger(__name__)

BULK_ASSET = "geoparquet-items"
MAX_GAP = timedelta(days=15)
MAX_LAG = timedelta(days=15)
"""The Planetary Computer writes weekly parts; twice that, and a day, is late."""
NUM_PROBES = 3
MAX_MISSING_FRACTION = 0.02
CONCURRENT_PARTS = 4
ALL_COVERS_PERCENT = 100.0
"""From this limit on, items that do not say how cloudy they are come too, as in a search."""
CHOSEN_BY = ("id", "datetime", "eo:cloud_cover", "geometry")
NO_PROPERTIES = frozenset({"type", "stac_version", "stac_extensions", "id", "collection", "links", "assets", "bbox",
                           "geometry"})  # fmt: skip
ASSET_FIELDS = ("href", "gsd", "eo:bands", "proj:", "raster:", "bands", "alternate", "storage:", "file:")
FAILURES = (BaseError, pa.ArrowException, OSError, requests.RequestException, APIError, CatalogError)

Footprints = NDArray[np.object_]


class BulkUnfitError(CatalogError):
    """A table of items that cannot stand for the catalog now; the message says why."""


def find_in_bulk(
    lonlat_deg: NDArray[np.float64], catalog: Catalog, config: SearchConfig, searcher: Searcher
) -> tuple[SceneTable | None, str]:
    """The items around places from the collection's table.

    The table must cover the dates without a gap, up to their end or to now, and hold what a few searches find.

    Args:
        lonlat_deg: Places, shape (n, 2).
        catalog: Whose collection.
        config: Dates, cloud cover; ``source`` and ``bulk_href`` say whether and where.
        searcher: Asks the catalog for the comparison.

    Returns:
        The items, or None and the reason where searches have to serve.
    """
    wanted = config.source == "bulk" or bool(config.bulk_href) or len(lonlat_deg) >= config.bulk_min_places
    if config.source == "search" or not wanted:
        return None, ""
    try:
        offered = (config.bulk_href, {}) if config.bulk_href else _offered(catalog)
        if offered is None:
            reason = f"the collection has no asset {BULK_ASSET}"
            logger.info("no table of items of %s: %s; searching", catalog.collection, reason)
            return None, reason
        href, options = offered
        start, end = _period(config)
        parts = [part for part in list_parts(href, options) if part.overlaps(start, end)]
        table = SceneTable()
        periods, footprints = _read_parts(parts, lonlat_deg, config, catalog, table)
        _validate_periods(periods, start, end)
        _validate_complete(footprints, lonlat_deg, searcher)
    except FAILURES as error:
        reason = brief(error)
        logger.warning("table of items of %s not used: %s; searching instead", catalog.collection, reason)
        return None, reason
    logger.info("table of items of %s: %d items around places", catalog.collection, table.num_items)
    return table, ""


def brief(error: Exception) -> str:
    """An error in one line, without what signs an address."""
    text = re.sub(r"\?[^\s\"'),]*", "", " ".join(str(error).split()))
    return text[:300] or type(error).__name__


def _offered(catalog: Catalog) -> tuple[str, dict[str, Any]] | None:
    client = getattr(catalog, "client", None)
    collection = None if client is None else client.get_collection(catalog.collection)
    asset = None if collection is None else collection.to_dict().get("assets", {}).get(BULK_ASSET)
    if asset is None:
        return None
    href = urlsplit(str(asset["href"]))
    if href.scheme not in BLOB_SCHEMES and (href.scheme, href.netloc) != urlsplit(catalog.url)[:2]:
        raise BulkUnfitError(
            f"the collection's table lies at {href.scheme or 'a path'} {href.netloc}, expected Azure storage or the "
            "catalog's own host; set bulk_href if it is meant"
        )
    return href.geturl(), dict(asset.get("table:storage_options") or {})


def _period(config: SearchConfig) -> tuple[datetime, datetime]:
    first, last = date.fromisoformat(config.start_date), date.fromisoformat(config.end_date)
    return datetime.combine(first, time.min, UTC), datetime.combine(last, time(23, 59, 59), UTC)


Period = tuple[datetime, datetime]


def _read_parts(
    parts: Sequence[Part],
    lonlat_deg: NDArray[np.float64],
    config: SearchConfig,
    catalog: Catalog,
    table: SceneTable,
) -> tuple[list[Period], dict[str, Any]]:
    """Fills the table; the periods of all row groups, and the footprint of each item that holds a place."""
    tree = shapely.STRtree(shapely.points(lonlat_deg))
    periods: list[Period] = []
    footprints: dict[str, Any] = {}
    progress = Progress(logger, "reading the table of items", total=len(parts), unit="parts")
    pool = ThreadPoolExecutor(CONCURRENT_PARTS)
    try:
        for found, items, outlines in pool.map(lambda part: _read_part(part, tree, config), parts):
            periods += found
            for item, outline in zip(items, outlines, strict=True):
                table.add(item["id"], scene_of_item(item, catalog), outline)
                footprints[item["id"]] = outline
            progress.advance()
    finally:
        pool.shutdown(cancel_futures=True)
    return periods, footprints


def _read_part(
    part: Part, tree: shapely.STRtree, config: SearchConfig
) -> tuple[list[Period], list[dict[str, Any]], list[Any]]:
    start, end = _period(config)
    periods: list[Period] = []
    items: list[dict[str, Any]] = []
    outlines: list[Any] = []
    with part.open() as file:
        missing = [name for name in CHOSEN_BY if name not in file.schema_arrow.names]
        if missing:
            raise BulkUnfitError(f"{part.path}: no column {missing[0]}, expected {', '.join(CHOSEN_BY)}")
        described = _described_columns(file.schema)
        for group in range(file.num_row_groups):
            chosen = file.read_row_group(group, columns=list(CHOSEN_BY))
            moments = _moments(chosen["datetime"])
            if not len(chosen):
                continue
            periods.append((pc.min(moments).as_py(), pc.max(moments).as_py()))
            fits = pc.and_kleene(pc.greater_equal(moments, start), pc.less_equal(moments, end))
            if config.max_cloud_cover_percent < ALL_COVERS_PERCENT:
                fits = pc.and_kleene(fits, pc.less(chosen["eo:cloud_cover"], config.max_cloud_cover_percent))
            rows = np.flatnonzero(pc.fill_null(fits, False).to_numpy(zero_copy_only=False))
            drawn = normalized_footprints(shapely.from_wkb(_wkb(chosen["geometry"].take(pa.array(rows)))))
            holding = np.unique(tree.query(drawn, predicate="intersects")[0])
            if len(holding):
                found = file.read_row_group(group, columns=described).take(pa.array(rows[holding]))
                items += [_item_of_row(row) for row in found.to_pylist()]
                outlines += list(drawn[holding])
    return periods, items, outlines


def _described_columns(schema: pq.ParquetSchema) -> list[str]:
    """The columns that an item is made from: its properties, and of its assets only what a scene needs."""
    columns = ["id"]
    for index in range(len(schema)):
        path = schema.column(index).path
        top, _, rest = path.partition(".")
        if top == "assets":
            if rest.partition(".")[2].startswith(ASSET_FIELDS):
                columns.append(path)
        elif top not in NO_PROPERTIES:
            columns.append(path)
    return columns


def _moments(column: pa.ChunkedArray) -> pa.ChunkedArray:
    if pa.types.is_timestamp(column.type):
        return column.cast(pa.timestamp("us", tz="UTC"))
    return pc.strptime(pc.utf8_slice_codeunits(column, 0, 19), "%Y-%m-%dT%H:%M:%S", "us").cast(
        pa.timestamp("us", tz="UTC")
    )


def _wkb(column: pa.ChunkedArray) -> NDArray[np.object_]:
    if isinstance(column.type, pa.ExtensionType):
        column = pa.chunked_array([chunk.storage for chunk in column.chunks], type=column.type.storage_type)
    wkb: NDArray[np.object_] = column.to_numpy(zero_copy_only=False)
    return wkb


def _item_of_row(row: dict[str, Any]) -> dict[str, Any]:
    """The STAC item of a row of stac-geoparquet (specification 1.1: properties are columns), as far as it was read."""
    plain = _without_nulls(row)
    properties = {name: value for name, value in plain.items() if name not in NO_PROPERTIES}
    assets = {name: asset for name, asset in plain.get("assets", {}).items() if "href" in asset}
    return {"type": "Feature", "id": plain["id"], "properties": properties, "assets": assets}


def _without_nulls(value: Any) -> Any:  # noqa: ANN401
    if isinstance(value, dict):
        return {name: _without_nulls(inner) for name, inner in value.items() if inner is not None}
    if isinstance(value, list):
        return [_without_nulls(inner) for inner in value]
    if isinstance(value, datetime):
        return f"{value.astimezone(UTC):%Y-%m-%dT%H:%M:%S.%f}Z"
    return value


def _validate_periods(periods: Iterable[Period], start: datetime, end: datetime, now: datetime | None = None) -> None:
    """Refuses a table that lacks a part of the dates.

    Raises:
        BulkUnfitError: it begins late, ends early, or has a gap.
    """
    covered = start
    expected_end = min(end, (now or datetime.now(UTC)) - MAX_LAG)
    for first, last in sorted(periods):
        if first > covered + MAX_GAP:
            raise BulkUnfitError(f"the table of items has none from {covered:%Y-%m-%d} to {first:%Y-%m-%d}")
        covered = max(covered, last)
    if covered + MAX_GAP < expected_end:
        raise BulkUnfitError(f"the table of items ends on {covered:%Y-%m-%d}, expected {expected_end:%Y-%m-%d}")


def _validate_complete(footprints: dict[str, Any], lonlat_deg: NDArray[np.float64], searcher: Searcher) -> None:
    """Refuses a table that lacks items which a search at a few places finds.

    Raises:
        BulkUnfitError: it lacks more than 2 % of them.
    """
    missing = total = 0
    for row in np.unique(np.linspace(0, len(lonlat_deg) - 1, NUM_PROBES).astype(int)):
        place = lonlat_deg[row : row + 1]
        found = searcher.search(area_of_places(place))
        expected = [item_id for item_id, _, outline in found if shapely.intersects(outline, shapely.Point(place[0]))]
        missing += sum(item_id not in footprints for item_id in expected)
        total += len(expected)
    if missing > MAX_MISSING_FRACTION * total:
        raise BulkUnfitError(f"the table of items lacks {missing} of {total} items that searches at places find")
