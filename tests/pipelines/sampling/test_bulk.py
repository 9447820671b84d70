import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import shapely
from shapely.geometry import shape

from pipelines.errors import CatalogError
from pipelines.sampling.bulk import BulkUnfitError, _validate_periods, brief
from pipelines.sampling.bulk_store import list_parts
from pipelines.sampling.catalog import open_catalog
from pipelines.sampling.config import SearchConfig
from pipelines.sampling.scenes import find_scenes
from tests.loopback.cog import _reply_file
from tests.loopback.coordinate_scene import CoordinateScene, collection
from tests.loopback.faults import Exchange, LoopbackServer
from tests.loopback.stub_stac import StubStac

FIRST_DAY = datetime(2022, 1, 3, 10, 20, 31, 24000, tzinfo=UTC)
HERE = CoordinateScene(epsg=32632, x_ul_m=399960, y_ul_m=5300040, mgrs_tile="32TLT", coarsening=10)
ACROSS = CoordinateScene(epsg=32660, x_ul_m=600000, y_ul_m=7200000, mgrs_tile="60WWU", coarsening=10)
SCENES = [
    replace(tile, acquired=FIRST_DAY + timedelta(days=5 * number), processed=FIRST_DAY + timedelta(days=5 * number + 1),
            cloud_cover_percent=float(number % 9) * 4, processing_baseline="03.01" if number < 5 else "04.00")
    for number in range(73)
    for tile in (HERE, ACROSS)
]  # fmt: skip
ITEMS = [scene.item("https://sentinel2l2a01.blob.core.windows.net/sentinel2-l2") for scene in SCENES]
PLACES = pd.DataFrame({"place_id": range(3), "lon_deg": [8.5, 8.4, -179.9], "lat_deg": [47.4, 47.6, 64.4]})
SETTINGS = {"start_date": "2022-01-01", "end_date": "2022-12-31", "source": "bulk"}


def table_of(items: list[dict[str, Any]]) -> pa.Table:
    """Items as stac-geoparquet: properties are columns, assets a struct, the geometry WKB."""
    rows = []
    for item in items:
        properties = dict(item["properties"])
        properties["datetime"] = datetime.fromisoformat(properties["datetime"])
        top = {name: item[name] for name in ("type", "stac_version", "stac_extensions", "id", "collection", "assets")}
        box = dict(zip(("xmin", "ymin", "xmax", "ymax"), item["bbox"], strict=True))
        rows.append(properties | top | {"bbox": box, "geometry": shapely.to_wkb(shape(item["geometry"]))})
    return pa.Table.from_pylist(rows)


def write_parts(folder: Path, items: list[dict[str, Any]] = ITEMS, days: int = 7) -> None:
    """Weekly parts, named as the Planetary Computer names them."""
    folder.mkdir(parents=True, exist_ok=True)
    moments = [datetime.fromisoformat(item["properties"]["datetime"]) for item in items]
    for number in range(366 // days + 1):
        start = FIRST_DAY.replace(hour=0, minute=0, second=0, microsecond=0) + timedelta(days=days * number)
        end = start + timedelta(days=days)
        inside = [item for item, moment in zip(items, moments, strict=True) if start <= moment < end]
        if inside:
            name = f"part-{number:04d}_{start.isoformat()}_{end.isoformat()}.parquet"
            pq.write_table(table_of(inside), folder / name, row_group_size=5)


@contextmanager
def opened(items: list[dict[str, Any]] = ITEMS) -> Iterator[tuple[StubStac, Any]]:
    with StubStac(collection(), items) as stub:
        catalog = open_catalog(stub.url, "sentinel-2-l2a")
        assert catalog.honours_query
        yield stub, catalog


def expected(catalog: Any) -> pd.DataFrame:
    return find_scenes(PLACES, catalog, SearchConfig(**(SETTINGS | {"source": "search"})))[0]


def assert_same(found: pd.DataFrame, wanted: pd.DataFrame) -> None:
    pd.testing.assert_frame_equal(found.drop(columns="footprint"), wanted.drop(columns="footprint"))
    assert shapely.equals(found["footprint"].to_numpy(), wanted["footprint"].to_numpy()).all()


@pytest.mark.parametrize("days", [7, 1000])
def test_a_folder_of_parts_gives_the_rows_of_a_search_with_three_searches(tmp_path: Path, days: int) -> None:
    write_parts(tmp_path / "items.parquet", days=days)
    with opened() as (stub, catalog):
        stub.forget_requests()
        config = SearchConfig(**SETTINGS, bulk_href=str(tmp_path / "items.parquet"))
        scenes, report = find_scenes(PLACES, catalog, config)
        assert len(stub.searches) == report.num_requests == 3
        assert (report.source, report.reason, report.places_without_scene) == ("bulk", "", 0)
        assert len(scenes) > 60
        assert_same(scenes, expected(catalog))


def test_one_file_of_a_web_server_is_read_by_ranges(tmp_path: Path) -> None:
    class Files(LoopbackServer):
        def answer(self, exchange: Exchange) -> None:
            _reply_file(exchange, (tmp_path / exchange.route.rpartition("/")[2]).read_bytes())

    padded = [item | {"assets": item["assets"] | {"thumbnail": {"title": "x" * 20_000}}} for item in ITEMS]
    for number, item in enumerate(padded):
        item["assets"]["thumbnail"]["title"] += str(np.random.default_rng(number).bytes(20_000))
    pq.write_table(table_of(padded), tmp_path / "items.parquet", row_group_size=50)
    with opened() as (_, catalog), Files() as files:
        config = SearchConfig(**SETTINGS, bulk_href=f"{files.url}/a/items.parquet")
        scenes, report = find_scenes(PLACES, catalog, config)
        assert report.source == "bulk", report.reason
        assert_same(scenes, expected(catalog))
        ranges = [request.byte_range for request in files.answered() if request.byte_range]
    spans = [value.removeprefix("bytes=").split("-") for value in ranges]
    fetched = sum(int(last) - int(first) + 1 for first, last in spans)
    assert fetched < 0.5 * (tmp_path / "items.parquet").stat().st_size


class Azure(LoopbackServer):
    """As much of Azure Blob Storage as listing and reading a container needs, and the token endpoint in front of it."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder
        self.refused = 0

    def answer(self, exchange: Exchange) -> None:
        if exchange.route.startswith("/sas/token/"):
            expiry = f"{datetime.now(UTC) + timedelta(hours=1):%Y-%m-%dT%H:%M:%SZ}"
            exchange.reply_json({"msft:expiry": expiry, "token": "sv=2021&sig=secret"})
            return
        if exchange.query.get("sig") != "secret":
            self.refused += 1
            exchange.reply(403, b"no token")
            return
        if exchange.query.get("comp") == "list":
            self._list(exchange)
            return
        content = (self.folder / exchange.route.rpartition("/")[2]).read_bytes()
        headers = {"Last-Modified": "Mon, 03 Jan 2022 10:00:00 GMT", "ETag": '"0x1"'}
        byte_range = exchange.headers.get("Range") or exchange.headers.get("x-ms-range")
        if byte_range is None:
            exchange.reply(200, content, headers)
            return
        first, last = (int(each) for each in byte_range.removeprefix("bytes=").split("-"))
        headers["Content-Range"] = f"bytes {first}-{last}/{len(content)}"
        exchange.reply(206, content[first : last + 1], headers)

    def _list(self, exchange: Exchange) -> None:
        blobs = "".join(
            f"<Blob><Name>{escape('sentinel-2-l2a.parquet/' + path.name)}</Name><Properties>"
            "<Last-Modified>Mon, 03 Jan 2022 10:00:00 GMT</Last-Modified><Etag>0x1</Etag>"
            f"<Content-Length>{path.stat().st_size}</Content-Length><Content-Type>x</Content-Type></Properties></Blob>"
            for path in sorted(self.folder.iterdir())
        )
        body = f'<?xml version="1.0"?><EnumerationResults><Blobs>{blobs}</Blobs><NextMarker/></EnumerationResults>'
        exchange.reply(200, body.encode(), {"Content-Type": "application/xml"})


def test_the_table_that_a_collection_offers_is_read_with_a_token(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_parts(tmp_path)
    with opened() as (stub, _), Azure(tmp_path) as azure:
        monkeypatch.setenv("PC_SDK_SAS_URL", f"{azure.url}/sas/token")
        monkeypatch.setenv("AZURE_ENDPOINT", f"{azure.url}/account")
        monkeypatch.setenv("AZURE_ALLOW_HTTP", "true")
        stub.collection["assets"] = {
            "geoparquet-items": {
                "href": "abfs://items/sentinel-2-l2a.parquet",
                "table:storage_options": {"account_name": "account"},
            }
        }
        catalog = open_catalog(stub.url, "sentinel-2-l2a")
        scenes, report = find_scenes(PLACES, catalog, SearchConfig(**SETTINGS))
        assert report.source == "bulk", report.reason
        assert azure.refused == 0
        assert_same(scenes, expected(catalog))


def test_a_table_is_looked_for_only_where_it_pays(tmp_path: Path) -> None:
    write_parts(tmp_path)
    with opened() as (_, catalog):
        for settings, source, reason in (
            ({"source": "auto"}, "search", ""),
            ({"source": "auto", "bulk_min_places": 3}, "search", "has no asset geoparquet-items"),
            ({"source": "auto", "bulk_href": str(tmp_path)}, "bulk", ""),
            ({"source": "search", "bulk_href": str(tmp_path)}, "search", ""),
        ):
            report = find_scenes(PLACES, catalog, SearchConfig(**(SETTINGS | settings)))[1]
            assert (report.source, reason in report.reason) == (source, True)


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        ("stale", "ends on 2022-08-"),
        ("gap", "has none from 2022-03-"),
        ("incomplete", "items that searches at places find"),
        ("damaged", "magic bytes"),
        ("another table", "no column eo:cloud_cover"),
        ("empty folder", "no Parquet file there"),
    ],
)
def test_an_unfit_table_is_told_and_searches_serve(
    tmp_path: Path, spoil: str, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    def kept(item: dict[str, Any]) -> bool:
        day = item["properties"]["datetime"][:10]
        if spoil == "incomplete":
            return bool(item["properties"]["s2:mgrs_tile"] != "32TLT" or day[8:] > "10")
        return {"stale": day < "2022-09-01", "gap": not "2022-03-15" < day < "2022-05-01"}.get(spoil, True)

    folder = tmp_path / "items.parquet"
    write_parts(folder, [item for item in ITEMS if kept(item)])
    if spoil == "empty folder":
        for path in folder.iterdir():
            path.unlink()
    elif spoil == "damaged":
        sorted(folder.iterdir())[7].write_bytes(b"no parquet at all, but long enough to be read as one")
    elif spoil == "another table":
        pq.write_table(pa.table({"id": ["a"], "datetime": ["2022-02-01T00:00:00Z"]}), folder / "extra.parquet")
    with opened() as (_, catalog), caplog.at_level(logging.WARNING):
        scenes, report = find_scenes(PLACES, catalog, SearchConfig(**SETTINGS, bulk_href=str(folder)))
        assert report.source == "search"
        assert reason in report.reason
        assert "searching instead" in caplog.text
        assert_same(scenes, expected(catalog))


@pytest.mark.parametrize("href", ["{folder}", "file://{folder}", "http://127.0.0.1:9/items.parquet"])
def test_a_collection_cannot_name_files_or_hosts_of_ours(tmp_path: Path, href: str) -> None:
    write_parts(tmp_path)
    with opened() as (stub, _):
        stub.collection["assets"] = {"geoparquet-items": {"href": href.format(folder=tmp_path)}}
        catalog = open_catalog(stub.url, "sentinel-2-l2a")
        report = find_scenes(PLACES, catalog, SearchConfig(**SETTINGS))[1]
    assert report.source == "search"
    assert "expected Azure storage or the catalog's own host" in report.reason


def test_a_table_may_lag_behind_today_by_two_weeks() -> None:
    start, end = datetime(2022, 1, 1, tzinfo=UTC), datetime(2030, 1, 1, tzinfo=UTC)
    weeks = [(start + timedelta(days=7 * number), start + timedelta(days=7 * number + 7)) for number in range(20)]
    _validate_periods(weeks, start, end, now=weeks[-1][1] + timedelta(days=10))
    with pytest.raises(BulkUnfitError, match="the table of items ends on 2022-05-21"):
        _validate_periods(weeks, start, end, now=weeks[-1][1] + timedelta(days=40))


def test_what_signs_an_address_is_not_told() -> None:
    told = brief(OSError("Error performing GET https://a.example/b?sv=1&sig=secret in 3 s"))
    assert told == "Error performing GET https://a.example/b in 3 s"


def test_addresses_of_other_kinds_are_refused(tmp_path: Path) -> None:
    for href, message in (
        ("ftp://a.example/items.parquet", "expected an address with abfs, https, http or file"),
        ("abfs://items/sentinel-2-l2a.parquet", "no account_name"),
        (str(tmp_path / "none"), "no such file or folder"),
    ):
        with pytest.raises(CatalogError, match=message):
            list_parts(href, {})


@pytest.mark.real_data
def test_real_rows_become_the_scenes_of_their_items(shared_data: Path) -> None:
    folder = shared_data / "stac_items_dev"
    rows = pq.read_table(folder / "100-sentinel-2-items.parquet", columns=["id", "geometry", "eo:cloud_cover"])
    outlines = shapely.from_wkb(rows["geometry"].to_numpy(zero_copy_only=False))
    centres = shapely.get_coordinates(shapely.centroid(outlines))
    places = pd.DataFrame({"place_id": range(100), "lon_deg": centres[:, 0], "lat_deg": centres[:, 1]})
    moments = pq.read_table(folder / "100-sentinel-2-items.parquet", columns=["datetime"])["datetime"].to_pylist()
    real = [json.loads(line) for line in (folder / "pc_items.ndjson").read_text().splitlines()]
    config = SearchConfig(
        start_date=f"{min(moments):%Y-%m-%d}", end_date=f"{max(moments):%Y-%m-%d}", max_cloud_cover_percent=101.0,
        source="bulk", bulk_href=str(folder / "100-sentinel-2-items.parquet"),
    )  # fmt: skip
    with StubStac(collection(), real) as stub:
        scenes, report = find_scenes(places, open_catalog(stub.url, "sentinel-2-l2a"), config)
    assert report.source == "bulk", report.reason
    assert set(scenes["item_id"]) <= set(rows["id"].to_pylist())
    assert len(scenes) + report.num_duplicates == 100
    assert set(scenes["resolution_m"]) == {10.0}
    assert (scenes["boa_add_offset"] == np.where(scenes["processing_baseline"] >= "04.00", -1000, 0)).all()
    assert scenes["datetime"].str.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z").all()
    assert scenes["href_base"].str.startswith("https://sentinel2l2a01.blob.core.windows.net/").all()
