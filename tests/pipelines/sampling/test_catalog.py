import json
from pathlib import Path

import pytest

from pipelines.errors import CatalogError
from pipelines.sampling.catalog import NoSigner, PlanetaryComputerSigner, open_catalog
from pipelines.sampling.scenes import Scene, scene_hrefs, scene_of_item
from pipelines.sentinel2 import BANDS
from tests.loopback.coordinate_scene import CoordinateScene, collection
from tests.loopback.faults import status
from tests.loopback.stac import PgstacServer, rustac_server
from tests.loopback.stub_stac import StubStac

SCENE = CoordinateScene(epsg=32632, x_ul_m=399960, y_ul_m=5300040, mgrs_tile="32TLT")
CLOUDY = CoordinateScene(epsg=32632, x_ul_m=399960, y_ul_m=5300040, mgrs_tile="32TLT", relative_orbit=22,
                         cloud_cover_percent=55.0)  # fmt: skip
POINT = {"type": "Point", "coordinates": list(SCENE.lonlat_at(500, 500))}
ITEMS = [SCENE.item("http://127.0.0.1:1/cog"), CLOUDY.item("http://127.0.0.1:1/cog")]


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
        catalog = open_catalog(stub.url, "sentinel-2-l2a")
        stub.script("/search", status(code, times=2, method="POST"))
        items = list(catalog.search(POINT, "2022-01-01", "2022-12-31", 20.0))
    assert [item["id"] for item in items] == [SCENE.item_id]


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
