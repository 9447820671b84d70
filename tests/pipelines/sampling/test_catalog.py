import json
import logging
import threading
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml

from pipelines.errors import CatalogError
from pipelines.sampling.catalog import Catalog, NoSigner, PlanetaryComputerSigner, S3Signer, open_catalog
from pipelines.sampling.catalog_profile import CatalogProfile
from pipelines.sampling.items import Scene, scene_hrefs, scene_of_item
from pipelines.sampling.stac_client import RequestPolicy, TokenBucket
from pipelines.sentinel2 import BANDS
from tests.loopback.coordinate_scene import CoordinateScene, collection
from tests.loopback.faults import Exchange, reset, slow, status
from tests.loopback.stac import PgstacServer, rustac_server
from tests.loopback.stub_stac import StubStac

SCENE = CoordinateScene(epsg=32632, x_ul_m=399960, y_ul_m=5300040, mgrs_tile="32TLT")
CLOUDY = CoordinateScene(epsg=32632, x_ul_m=399960, y_ul_m=5300040, mgrs_tile="32TLT", relative_orbit=22,
                         cloud_cover_percent=55.0)  # fmt: skip
POINT = {"type": "Point", "coordinates": list(SCENE.lonlat_at(500, 500))}
ITEMS = [SCENE.item("http://127.0.0.1:1/cog"), CLOUDY.item("http://127.0.0.1:1/cog")]


QUICK = RequestPolicy(backoff_s=0.01, timeout_s=5.0)


def found(url: str, max_cloud_cover_percent: float = 20.0) -> list[str]:
    catalog = open_catalog(url, "sentinel-2-l2a")
    return [item["id"] for item in catalog.search(POINT, "2022-01-01", "2022-12-31", max_cloud_cover_percent)]


@pytest.mark.parametrize(("query", "honours"), [("honour", True), ("ignore", False), ("empty", False)])
def test_whether_query_is_honoured_is_measured(query: str, honours: bool) -> None:
    with StubStac(collection(), ITEMS, query=query) as stub:
        assert open_catalog(stub.url, "sentinel-2-l2a").honours_query is honours
        assert found(stub.url) == [SCENE.item_id]
        assert ("query" in stub.searches[-1]) is honours


def test_a_server_that_answers_query_with_nothing_is_not_an_empty_planet() -> None:
    with rustac_server(collection(), ITEMS) as url:
        assert not open_catalog(url, "sentinel-2-l2a").honours_query
        assert found(url) == [SCENE.item_id]
        assert sorted(found(url, 100.0)) == sorted([SCENE.item_id, CLOUDY.item_id])


@pytest.mark.postgres
def test_the_server_of_the_planetary_computer_honours_query(pgstac: PgstacServer) -> None:
    pgstac.load(collection(), ITEMS)
    assert open_catalog(pgstac.url, "sentinel-2-l2a").honours_query
    assert found(pgstac.url) == [SCENE.item_id]


@pytest.mark.parametrize("code", [408, 429, 500, 502, 503, 504])
def test_a_throttled_search_is_repeated(code: int) -> None:
    with StubStac(collection(), ITEMS) as stub:
        catalog = open_catalog(stub.url, "sentinel-2-l2a", policy=QUICK)
        stub.script("/search", status(code, times=2, method="POST"))
        items = list(catalog.search(POINT, "2022-01-01", "2022-12-31", 20.0))
    assert [item["id"] for item in items] == [SCENE.item_id]


def search(catalog: Catalog, max_cloud_cover_percent: float = 100.0) -> list[str]:
    return [item["id"] for item in catalog.search(POINT, "2022-01-01", "2022-12-31", max_cloud_cover_percent)]


def test_a_dropped_and_a_slow_connection_are_tried_again() -> None:
    with StubStac(collection(), ITEMS) as stub:
        catalog = open_catalog(stub.url, "sentinel-2-l2a", policy=RequestPolicy(backoff_s=0.01, timeout_s=0.4))
        stub.script("/search", reset(), slow(1.0))
        assert len(search(catalog)) == 2
        assert catalog.io is not None
        assert catalog.io.num_retries == 2


def test_retry_after_is_waited_for_and_no_longer_than_allowed() -> None:
    with StubStac(collection(), ITEMS) as stub:
        catalog = open_catalog(stub.url, "sentinel-2-l2a", policy=QUICK)
        stub.script("/search", status(429, retry_after_s=1))
        started = time.monotonic()
        assert len(search(catalog)) == 2
        assert time.monotonic() - started >= 1.0
        stub.script("/search", status(503, retry_after_s=3_600))
        with pytest.raises(CatalogError, match=r"status 503 with Retry-After 3600 s, expected at most 600 s"):
            search(catalog)


def test_a_lasting_fault_is_told_after_the_last_attempt_and_a_refusal_at_once() -> None:
    with StubStac(collection(), ITEMS) as stub:
        catalog = open_catalog(stub.url, "sentinel-2-l2a", policy=RequestPolicy(backoff_s=0.001, max_attempts=4))
        stub.script("/search", status(500, times=None))
        before = catalog.num_requests
        with pytest.raises(CatalogError, match=r"search in sentinel-2-l2a failed .*status 500 in 4 attempts"):
            search(catalog)
        assert catalog.num_requests - before == 4
        stub.heal()
        stub.script("/search", status(400, times=None))
        with pytest.raises(CatalogError, match=r"status 400 \(scripted fault\)"):
            search(catalog)
        assert catalog.num_requests - before == 5


def test_a_truncated_page_is_asked_for_again() -> None:
    class Truncating(StubStac):
        cut = 1

        def answer(self, exchange: Exchange) -> None:
            if exchange.route == "/search" and self.cut:
                self.cut -= 1
                exchange.reply(200, b'{"type": "FeatureCollection", "feat', {"Content-Type": "application/geo+json"})
                return
            super().answer(exchange)

    with Truncating(collection(), ITEMS) as stub:
        assert len(search(open_catalog(stub.url, "sentinel-2-l2a", policy=QUICK))) == 2


def test_requests_are_counted() -> None:
    with StubStac(collection(), ITEMS) as stub:
        catalog = open_catalog(stub.url, "sentinel-2-l2a", policy=QUICK)
        assert stub.searches == []  # a worker that only reads files does not search
        opened = catalog.num_requests
        stub.script("/search", status(429, times=2))
        search(catalog)
        assert catalog.num_requests == opened + 3
        search(catalog, 20.0)
        assert catalog.num_requests == opened + 3 + 3 + 1  # whether query works is measured once
        search(catalog, 20.0)
        assert catalog.num_requests == len(stub.answered()) == opened + 8


def test_requests_are_held_below_the_rate() -> None:
    with StubStac(collection(), ITEMS) as stub:
        catalog = open_catalog(stub.url, "sentinel-2-l2a", policy=RequestPolicy(requests_per_s=20.0))
        time.sleep(0.2)
        started = time.monotonic()
        for _ in range(30):
            search(catalog)
        assert time.monotonic() - started >= 0.45  # 20 at once, then 10 at 20 per second


def test_the_rate_holds_for_all_threads_together() -> None:
    bucket = TokenBucket(50.0)
    for _ in range(50):
        bucket.take()
    started = time.monotonic()
    threads = [threading.Thread(target=lambda: [bucket.take() for _ in range(5)]) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert 0.45 <= time.monotonic() - started < 5.0


class StrangePaging(StubStac):
    """Pages whose ``next`` link is what a test makes of it."""

    def __init__(self, link: dict[str, Any], *, new_items: bool = False) -> None:
        super().__init__(collection(), ITEMS)
        self.link = link
        self.new_items = new_items
        self.pages = 0

    def _page(self, search: dict[str, Any]) -> dict[str, Any]:
        self.pages += 1
        items = [item | {"id": f"{item['id']}-{self.pages}"} for item in ITEMS] if self.new_items else ITEMS
        link = {"rel": "next", "href": f"{self.url}/search", "method": "POST", "body": {"token": str(self.pages)}}
        return {"type": "FeatureCollection", "features": items, "links": [link | self.link]}


@pytest.mark.parametrize(
    ("link", "new_items", "message"),
    [
        ({}, False, r"page 2 holds only items of earlier pages"),
        ({"body": {"token": "same"}}, True, r"the next link of page 2 was followed already"),
        ({}, True, r"more than 7 pages, expected an end"),
        ({"href": "http://169.254.169.254/latest"}, True, r"sends to '169.254.169.254', expected its own host"),
        ({"href": "file:///etc/passwd"}, True, r"sends to '', expected its own host"),
        ({"href": "/etc/passwd"}, True, r"expected its own host"),
    ],
    ids=["the same items", "the same link", "no end", "another host", "a file", "a path"],
)
def test_paging_that_does_not_end_or_leads_away_is_told(link: dict[str, Any], new_items: bool, message: str) -> None:
    with StrangePaging(link, new_items=new_items) as stub:
        catalog = open_catalog(stub.url, "sentinel-2-l2a", policy=RequestPolicy(max_pages=7))
        with pytest.raises(CatalogError, match=message):
            search(catalog)


def test_a_page_limit_is_the_profiles_and_no_page_is_asked_for_after_the_last() -> None:
    items = [json.loads(json.dumps(ITEMS[0]).replace(SCENE.item_id, f"item-{number:03d}")) for number in range(9)]
    with StubStac(collection(), items) as stub:
        catalog = open_catalog(stub.url, "sentinel-2-l2a", profile=CatalogProfile(name="mine", page_limit=3))
        assert len(search(catalog)) == 9
        assert [body["limit"] for body in stub.searches] == [3, 3, 3]


def test_a_redirect_to_another_host_is_not_followed() -> None:
    class Redirecting(StubStac):
        def answer(self, exchange: Exchange) -> None:
            if exchange.route == "/search":
                exchange.reply(307, b"", {"Location": "http://localhost:1/search?token=SECRET"})
                return
            super().answer(exchange)

    with Redirecting(collection(), ITEMS) as stub:
        catalog = open_catalog(stub.url, "sentinel-2-l2a", policy=QUICK)
        with pytest.raises(CatalogError, match=r"127.0.0.1 redirects to 'localhost', expected an answer of its own"):
            search(catalog)


def test_credentials_in_the_address_are_refused() -> None:
    with pytest.raises(ValueError, match="without credentials") as caught:
        open_catalog("https://me:hunter2@stac.example.org/v1", "sentinel-2-l2a")
    assert "hunter2" not in str(caught.value)


def test_items_that_do_not_say_how_cloudy_they_are_come_only_where_all_do() -> None:
    silent = ITEMS[0] | {"properties": {k: v for k, v in ITEMS[0]["properties"].items() if k != "eo:cloud_cover"}}
    with StubStac(collection(), [silent]) as stub:
        catalog = open_catalog(stub.url, "sentinel-2-l2a", policy=QUICK)
        assert search(catalog, 50.0) == []
        assert search(catalog, 100.0) == [SCENE.item_id]


def test_a_malformed_item_does_not_stop_a_search() -> None:
    with StubStac(collection(), ITEMS) as stub:
        catalog = open_catalog(stub.url, "sentinel-2-l2a", policy=QUICK)
        broken = [ITEMS[0] | {"assets": []}, ITEMS[0] | {"id": "", "links": 3}, ITEMS[1]]
        stub._page = lambda search: {"type": "FeatureCollection", "features": [None, 3, *broken], "links": []}
        items = list(catalog.search(POINT, "2022-01-01", "2022-12-31", 100.0))
    described = [scene_of_item(item, catalog) for item in items]
    assert [each if isinstance(each, str) else each.item_id for each in described] == [
        "not_an_item",
        "not_an_item",
        CLOUDY.item_id,
    ]


def test_no_secret_of_an_address_reaches_a_log_or_an_error(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    secrets = "sig=SECRET1&X-Amz-Signature=SECRET2&token=SECRET3"
    link = {"href": "", "method": "GET", "headers": {"Authorization": "Bearer SECRET4"}}
    with StrangePaging(link, new_items=True) as stub:
        stub.link = link | {"href": f"{stub.url}/search?{secrets}"}
        catalog = open_catalog(stub.url, "sentinel-2-l2a", policy=RequestPolicy(backoff_s=0.001, max_attempts=2))
        stub.script("/search", status(503, method="GET"), status(400, method="GET"))
        for asset in ITEMS[0]["assets"].values():
            asset["href"] = asset["href"].partition("?")[0] + "?sig=SECRET5"
        try:
            with pytest.raises(CatalogError) as caught:
                list(catalog.search(POINT, "2022-01-01", "2022-12-31", 100.0))
        finally:
            for asset in ITEMS[0]["assets"].values():
                asset["href"] = asset["href"].partition("?")[0]
    assert caught.value.__cause__ is None
    chain = "".join(map(repr, (caught.value, caught.value.__cause__, caught.value.__context__, catalog)))
    assert "SECRET" not in chain
    assert "status 503" in caplog.text
    assert "SECRET" not in caplog.text


def test_items_come_without_signatures() -> None:
    signed = json.loads(json.dumps(ITEMS[0]).replace(".tif", ".tif?sig=SECRET"))
    signed["assets"]["B02"]["alternate"] = {"https": {"href": "https://a.example/B02.tif?X-Amz-Signature=SECRET"}}
    with StubStac(collection(), [signed]) as stub:
        items = list(open_catalog(stub.url, "sentinel-2-l2a").search(POINT, "2022-01-01", "2022-12-31", 100.0))
    assert "SECRET" not in json.dumps(items)


def test_every_page_is_read() -> None:
    items = [json.loads(json.dumps(ITEMS[0]).replace(SCENE.item_id, f"item-{number:03d}")) for number in range(23)]
    with StubStac(collection(), items, max_limit=5) as stub:
        assert sorted(found(stub.url)) == [f"item-{number:03d}" for number in range(23)]


def test_an_unreachable_catalog_is_told() -> None:
    with pytest.raises(CatalogError, match=r"http://127.0.0.1:9/stac: no STAC API answers there .*check the address"):
        open_catalog("http://127.0.0.1:9/stac", "sentinel-2-l2a")


def test_an_unknown_collection_names_those_that_exist() -> None:
    with (
        StubStac(collection()) as stub,
        pytest.raises(CatalogError, match=r"collection 'landsat' not found .*the API has: sentinel-2-l2a"),
    ):
        open_catalog(stub.url, "landsat")


def test_signing_follows_the_collection_unless_told_otherwise() -> None:
    with StubStac(collection()) as stub:
        assert open_catalog(stub.url, "sentinel-2-l2a").signer == PlanetaryComputerSigner(
            "sentinel2l2a01", "sentinel2-l2"
        )
        assert open_catalog(stub.url, "sentinel-2-l2a", "none").signer == NoSigner()
        del stub.collection["msft:container"]
        assert open_catalog(stub.url, "sentinel-2-l2a").signer == NoSigner()
        with pytest.raises(CatalogError, match="names no msft:storage_account"):
            open_catalog(stub.url, "sentinel-2-l2a", "planetary_computer")


def test_addresses_of_the_catalogs_own_host_are_kept_without_it() -> None:
    with StubStac(collection(), ITEMS) as stub:
        catalog = open_catalog(stub.url, "sentinel-2-l2a")
        own, other = f"{stub.url}/cog/a/B02.tif", "https://elsewhere.example/s2/B02.tif"
        assert catalog.relative_href(own) == "catalog:/cog/a/B02.tif"
        assert catalog.absolute_href(catalog.relative_href(own)) == own
        assert catalog.relative_href(other + "?sig=secret") == other
        with pytest.raises(CatalogError, match=r"elsewhere.example.*allowed_hosts"):
            catalog.absolute_href(other)


def test_the_way_of_signing_is_the_profiles_unless_told_otherwise() -> None:
    s3 = CatalogProfile(name="s3", signing="s3", s3_endpoint="s3.example.org", key_variables=("MY_KEY",))
    with StubStac(collection()) as stub:
        assert open_catalog(stub.url, "sentinel-2-l2a", profile=s3).signer == S3Signer("s3.example.org", ("MY_KEY",))
        assert open_catalog(stub.url, "sentinel-2-l2a", "none", profile=s3).signer == NoSigner()
        assert open_catalog(stub.url, "", profile=s3).collection == "sentinel-2-l2a"


class Replay(StubStac):
    """Answers what was recorded of a real API, page by page, under its own address; the last page has no next one."""

    def __init__(self, cassette: Path) -> None:
        super().__init__(collection())
        recorded = yaml.safe_load(cassette.read_text())["interactions"]
        pages = [each for each in recorded if urlsplit(each["request"]["uri"]).path.endswith("/search")]
        self.origin = pages[0]["request"]["uri"].removesuffix("/search")
        self.recorded = [json.loads(each["response"]["body"]["string"]) for each in pages]
        self.recorded[-1]["links"] = []
        self.served: list[dict[str, Any]] = []

    def _page(self, search: dict[str, Any]) -> dict[str, Any]:
        self.served.append(search)
        page = json.dumps(self.recorded[len(self.served) - 1])
        return dict(json.loads(page.replace(f"{self.origin}/search", f"{self.url}/search")))


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("cassette", "profile", "num_pages"),
    [
        ("TestItemSearch.test_datetime_results.yaml", "planetary_computer", 1),
        ("TestCLISearch.test_filter[inprocess].yaml", "earth_search", 2),
    ],
)
def test_recorded_answers_of_real_services_are_paged_through(
    shared_data: Path, cassette: str, profile: str, num_pages: int
) -> None:
    with Replay(shared_data / "stac_items_dev" / "cassettes" / cassette) as stub:
        catalog = open_catalog(stub.url, "sentinel-2-l2a", "none", profile=profile)
        items = list(catalog.search(POINT, "2015-01-01", "2030-01-01", 100.0))
    pages = stub.recorded[:num_pages]
    assert len(items) == sum(len(page["features"]) for page in pages) > 0
    assert [search.get("next") for search in stub.served] == [
        None,
        *(link["body"]["next"] for page in pages for link in page["links"] if link["rel"] == "next"),
    ]


@pytest.mark.real_data
def test_real_items_of_the_planetary_computer_become_scenes(shared_data: Path) -> None:
    lines = (shared_data / "stac_items_dev" / "pc_items.ndjson").read_text().splitlines()
    with StubStac(collection()) as stub:
        catalog = open_catalog(stub.url, "sentinel-2-l2a")
        described = [(json.loads(line), scene_of_item(json.loads(line), catalog)) for line in lines]
    scenes = [(item, scene) for item, scene in described if isinstance(scene, Scene)]
    assert len(scenes) == len(lines) == 69
    for item, scene in scenes:
        assert {band: scene_hrefs(scene)[band] for band in BANDS} == {b: item["assets"][b]["href"] for b in BANDS}
        assert scene.boa_add_offset == (-1000 if scene.processing_baseline >= "04.00" else 0)
        assert (scene.width_px, scene.resolution_m, scene.mgrs_tile[:2]) == (10980, 10.0, f"{scene.epsg % 100:02d}")
