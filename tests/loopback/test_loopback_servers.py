import json
import time
import warnings
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import numpy as np
import planetary_computer.sas
import pystac_client
import pytest
import rasterio
import requests
from pystac_client.exceptions import APIError
from pystac_client.stac_api_io import StacApiIO
from rasterio.windows import Window
from shapely.geometry import mapping, shape
from urllib3.util.retry import Retry

from tests.loopback.awkward_scenes import ACROSS_THE_ANTIMERIDIAN, MISSING_BAND, REPROCESSED, with_relative_hrefs
from tests.loopback.cog import CogServer
from tests.loopback.coordinate_scene import BANDS, CoordinateScene, SclBlock, collection, expected_dn
from tests.loopback.faults import (
    cut,
    dribble,
    drop,
    other_range,
    refuse,
    reset,
    revoke,
    short,
    slow,
    status,
    truncate,
    whole,
)
from tests.loopback.stac import PgstacServer, rustac_server
from tests.loopback.stub_stac import StubStac, item_matches

pytestmark = pytest.mark.network

NORTH = CoordinateScene(32632, 399960, 5300040, "32TMT")
SOUTH = CoordinateScene(32735, 499980, 9200020, "35MNM", coarsening=10, scene_number=1)
SCENE_CLEAR_PERCENT = {"eo:cloud_cover": {"lt": 20}}
RETRY_POSTS = Retry(total=5, backoff_factor=0, status_forcelist=[429, 503, 504], allowed_methods=None)


@pytest.fixture(scope="module")
def pc_items(shared_data: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (shared_data / "stac_items_dev/pc_items.ndjson").read_text().splitlines()]


@pytest.fixture(scope="module")
def pc_collection(shared_data: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((shared_data / "stac_items_dev/pc_sentinel-2-l2a.collection.json").read_text())
    return loaded


@pytest.fixture(scope="module")
def rustac(pc_collection: dict[str, Any], pc_items: list[dict[str, Any]]) -> Iterator[str]:
    with rustac_server(pc_collection, pc_items) as url:
        yield url


def searches(pc_items: list[dict[str, Any]]) -> list[dict[str, Any]]:
    whole = {"collections": ["sentinel-2-l2a"]}
    place = mapping(shape(pc_items[40]["geometry"]).representative_point())
    return [
        whole,
        whole | {"bbox": [26.0, -12.5, 29.0, -9.5]},
        whole | {"bbox": [0.0, 40.0, 40.0, 75.0]},
        whole | {"datetime": "2020-06-15T00:00:00Z/2020-07-15T00:00:00Z"},
        whole | {"intersects": place, "datetime": "2020-06-01T00:00:00Z/.."},
        whole | {"ids": [pc_items[3]["id"], pc_items[50]["id"]]},
    ]


def check_against_brute_force(url: str, items: list[dict[str, Any]], search: dict[str, Any]) -> None:
    found = [item["id"] for item in pystac_client.Client.open(url).search(**search, limit=25).items_as_dicts()]
    expected = [item["id"] for item in items if item_matches(item, search)]
    assert expected
    assert sorted(found) == sorted(expected)


@pytest.mark.real_data
@pytest.mark.parametrize("number", range(6))
def test_rustac_agrees_with_brute_force(rustac: str, pc_items: list[dict[str, Any]], number: int) -> None:
    check_against_brute_force(rustac, pc_items, searches(pc_items)[number])


@pytest.mark.real_data
def test_rustac_answers_query_with_no_items_and_http_200(rustac: str, pc_items: list[dict[str, Any]]) -> None:
    body = {"collections": ["sentinel-2-l2a"], "query": SCENE_CLEAR_PERCENT, "limit": 100}
    response = requests.post(f"{rustac}/search", json=body, timeout=10)
    assert (response.status_code, response.json()["features"]) == (200, [])
    assert sum(item_matches(item, body) for item in pc_items) == 28
    assert not pystac_client.Client.open(rustac).conforms_to("QUERY")


@pytest.mark.postgres
@pytest.mark.real_data
def test_pgstac_agrees_with_brute_force_and_honours_query(
    pgstac: PgstacServer, pc_collection: dict[str, Any], pc_items: list[dict[str, Any]]
) -> None:
    pgstac.load(pc_collection, pc_items)
    for search in searches(pc_items):
        check_against_brute_force(pgstac.url, pc_items, search)
        if "ids" not in search:
            check_against_brute_force(pgstac.url, pc_items, search | {"query": SCENE_CLEAR_PERCENT})
    assert pystac_client.Client.open(pgstac.url).conforms_to("QUERY")


@pytest.mark.postgres
def test_pgstac_behind_the_origin_of_the_pixels(pgstac: PgstacServer, cog_server: CogServer) -> None:
    cog_server.hand_on_to(pgstac.url)
    scenes = [CoordinateScene(32632, 399960, 5300040, "32TMT", relative_orbit=orbit) for orbit in (8, 65, 108)]
    pgstac.load(collection("one-origin"), [scene.item(cog_server.cog_url, "one-origin") for scene in scenes])
    client = pystac_client.Client.open(cog_server.stac_url)
    found = list(client.search(collections=["one-origin"], query=SCENE_CLEAR_PERCENT, limit=2).items_as_dicts())
    assert {item["id"] for item in found} == {scene.item_id for scene in scenes}
    assert found[0]["assets"]["B8A"]["href"].startswith(cog_server.url)
    assert cog_server.count("/stac/search", 200) == 2
    pgstac.load(collection("one-origin"), [])
    assert list(client.search(collections=["one-origin"]).items_as_dicts()) == []
    pgstac.drop("one-origin")


def test_stub_pages_and_scripts_faults() -> None:
    items = [CoordinateScene(32632, 399960, 5300040, "32TMT", relative_orbit=n).item("") for n in range(1, 8)]
    with StubStac(collection(), items, max_limit=3) as stub:
        stub.script("/search", status(429, retry_after_s=0), status(504), reset())
        client = pystac_client.Client.open(stub.url, stac_io=StacApiIO(max_retries=RETRY_POSTS))
        found = [item["id"] for item in client.search(collections=["sentinel-2-l2a"], limit=100).items_as_dicts()]
        assert found == [item["id"] for item in items]
        assert [request.status for request in stub.answered() if request.path == "/search"] == [
            429,
            504,
            0,
            200,
            200,
            200,
        ]
        stub.script("/search", slow(30.0))
        impatient = pystac_client.Client.open(stub.url, timeout=0.2, stac_io=StacApiIO(max_retries=0))
        with pytest.raises(APIError, match="timed out"):
            list(impatient.search(collections=["sentinel-2-l2a"]).items_as_dicts())


@pytest.mark.parametrize(("query", "num_items"), [("honour", 1), ("ignore", 2), ("empty", 0)])
def test_stub_treats_query_in_three_ways(query: Any, num_items: int) -> None:
    items = [CoordinateScene(32632, 399960, 5300040, "32TMT", cloud_cover_percent=c).item("") for c in (10.0, 30.0)]
    with StubStac(collection(), items, query=query) as stub, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pystac-client warns of a server that does not claim QUERY
        client = pystac_client.Client.open(stub.url)
        search = client.search(collections=["sentinel-2-l2a"], query=SCENE_CLEAR_PERCENT)
        assert len(list(search.items_as_dicts())) == num_items
        assert client.conforms_to("QUERY") == (query == "honour")


@pytest.mark.parametrize("scene", [NORTH, SOUTH], ids=["north", "south"])
def test_coordinate_scene_reads_back_through_http(scene: CoordinateScene, cog_server: CogServer) -> None:
    scene.write(cog_server.folder)
    assets = scene.item(cog_server.cog_url)["assets"]
    assert tuple(assets) == (*BANDS, "SCL")
    for band in ("B02", "B8A", "B01"):
        with rasterio.open(assets[band]["href"]) as source:
            assert source.crs.to_epsg() == scene.epsg
            assert list(source.transform)[:6] == assets[band]["proj:transform"]
            assert [source.height, source.width] == assets[band]["proj:shape"]
            dn = source.read(1, window=Window(97, 31, 60, 40))
        rows, cols = np.arange(31, 71)[:, None], np.arange(97, 157)
        np.testing.assert_array_equal(dn, expected_dn(band, rows, cols, scene.scene_number))
        assert scene.pixel_at(*scene.lonlat_at(31.5, 97.5, band), band) == (31, 97)
        place = shape({"type": "Point", "coordinates": scene.lonlat_at(31.5, 97.5, band)})
        assert scene.geometry().contains(place)


def test_no_shift_flip_or_swap_leaves_a_coordinate_patch_as_it_was() -> None:
    patch = NORTH.expected_patch(300, 402)
    turned = [patch[:, ::-1], patch[:, :, ::-1], patch.swapaxes(1, 2), patch[::-1]]
    shifted = [NORTH.expected_patch(300 + down, 402 + right) for down, right in ((0, 1), (1, 0), (-6, 6), (2, 0))]
    another_scene = CoordinateScene(32632, 399960, 5300040, "32TMT", scene_number=1).expected_patch(300, 402)
    for other in (*turned, another_scene):
        assert (other == patch).mean(axis=(1, 2)).max() < 0.05
    for other in shifted:
        assert (other == patch)[BANDS.index("B02")].mean() < 0.01


def test_scl_blocks_are_painted_and_nodata_empties_every_band() -> None:
    scene = CoordinateScene(
        32632, 399960, 5300040, "32TMT", scl_blocks=[SclBlock(0, 0, 30, 60, 9), SclBlock(0, 0, 549, 6, 0)]
    )
    assert np.unique(scene.scl(), return_counts=True)[1].tolist() == [549 * 6, 549 * 543 - 30 * 54, 30 * 54]
    assert {band: int((scene.dn(band) == 0).sum()) for band in ("B02", "B05", "B09")} == {
        "B02": 1098 * 12,
        "B05": 549 * 6,
        "B09": 183 * 2,
    }


def test_bounding_box_and_geometry_across_the_antimeridian() -> None:
    scene = ACROSS_THE_ANTIMERIDIAN
    west, south, east, north = scene.bbox()
    assert 170 < west < 180
    assert -180 < east < -170
    assert (scene.geometry().geom_type, south < north) == ("MultiPolygon", True)
    assert [round(part.bounds[2 - 2 * n]) for n, part in enumerate(scene.geometry().geoms)] == [180, -180]


def test_awkward_items_pass_through_rustac(cog_server: CogServer) -> None:
    scenes = [MISSING_BAND, ACROSS_THE_ANTIMERIDIAN, *REPROCESSED]
    items = [scene.item(cog_server.cog_url) for scene in scenes[:-1]] + [with_relative_hrefs(scenes[-1])]
    with rustac_server(collection(), items) as url:
        cog_server.hand_on_to(url)
        client = pystac_client.Client.open(cog_server.stac_url)
        found = {item["id"]: item for item in client.search(collections=["sentinel-2-l2a"]).items_as_dicts()}
        assert set(found) == {scene.item_id for scene in scenes}
        assert len(found[MISSING_BAND.item_id]["assets"]) == 12
        for lon_deg in (179.9, -179.9):
            place = {"type": "Point", "coordinates": [lon_deg, 64.4]}
            search = client.search(collections=["sentinel-2-l2a"], intersects=place)
            assert [item["id"] for item in search.items_as_dicts()] == [ACROSS_THE_ANTIMERIDIAN.item_id]
        REPROCESSED[1].write(cog_server.folder)
        address = f"{cog_server.stac_url}/collections/sentinel-2-l2a/items/{REPROCESSED[1].item_id}"
        relative = found[REPROCESSED[1].item_id]["assets"]["B09"]["href"]
        assert requests.head(urljoin(address, relative), timeout=5).status_code == 200


def test_scripted_faults_reach_the_client(cog_server: CogServer) -> None:
    (cog_server.folder / "band.tif").write_bytes(bytes(range(200)))
    url = f"{cog_server.cog_url}/band.tif"
    cog_server.script(
        "/cog/*.tif", status(503, times=2), status(429, retry_after_s=7), reset(), slow(0.2), truncate(50)
    )
    codes = [requests.get(url, timeout=5).status_code for _ in range(3)]
    assert codes == [503, 503, 429]
    with pytest.raises(requests.ConnectionError):
        requests.get(url, timeout=5)
    start = time.monotonic()
    part = requests.get(url, headers={"Range": "bytes=10-19"}, timeout=5)
    assert time.monotonic() - start >= 0.2
    assert (part.status_code, part.content, part.headers["Content-Range"]) == (
        206,
        bytes(range(10, 20)),
        "bytes 10-19/200",
    )
    assert requests.head(url, timeout=5).headers["Content-Length"] == "50"
    assert requests.get(url, headers={"Range": "bytes=60-69"}, timeout=5).status_code == 416
    cog_server.heal()
    assert requests.get(url, headers={"Range": "bytes=-3"}, timeout=5).content == bytes(range(197, 200))
    assert requests.get(f"{cog_server.cog_url}/../secret", timeout=5).status_code == 404
    assert cog_server.count("/cog/band.tif", 503) == 2


def test_tokens_of_the_planetary_computer_are_signed_renewed_and_revoked(token_endpoint: CogServer) -> None:
    NORTH.write(token_endpoint.folder)
    href = NORTH.item(token_endpoint.cog_url)["assets"]["B09"]["href"]
    assert requests.get(href, timeout=5).status_code == 403
    first = planetary_computer.sas.get_token("sentinel2l2a01", "sentinel2-l2")
    assert 2600 < (first.expiry - datetime.now(UTC)).total_seconds() < 2701
    with rasterio.open(first.sign(href).href) as source:
        assert source.read(1)[5, 7] == expected_dn("B09", 5, 7)
    token_endpoint.revoke_tokens()
    assert requests.get(first.sign(href).href, timeout=5).status_code == 403
    assert planetary_computer.sas.get_token("sentinel2l2a01", "sentinel2-l2") is first
    planetary_computer.sas.TOKEN_CACHE.clear()
    token_endpoint.live_for(30.0)
    second = planetary_computer.sas.get_token("sentinel2l2a01", "sentinel2-l2")
    assert requests.get(second.sign(href).href, timeout=5).status_code == 200
    third = planetary_computer.sas.get_token("sentinel2l2a01", "sentinel2-l2")
    assert third.token != second.token  # the client renews a token with less than a minute left
    tokens = [request.token for request in token_endpoint.requests if request.path.startswith("/cog/")]
    assert (tokens[0], tokens[1], tokens[-1]) == (None, 1, 2)
    assert len(token_endpoint.signatures) == token_endpoint.count("/sas/token/*") == 3


def test_bodies_are_cut_off_shortened_exchanged_and_slowed(cog_server: CogServer) -> None:
    (cog_server.folder / "band.tif").write_bytes(bytes(range(200)))
    url, asked = f"{cog_server.cog_url}/band.tif", {"Range": "bytes=10-29"}
    cog_server.script("/cog/*", cut(), drop(), short(), other_range(), whole(), dribble(0.3))
    for _ in range(2):
        with pytest.raises(requests.RequestException):
            requests.get(url, headers=asked, timeout=5)
    answers = []
    for _ in range(4):
        start = time.monotonic()
        answers.append(requests.get(url, headers=asked, timeout=5))
    assert time.monotonic() - start >= 0.2
    assert [(each.status_code, each.headers.get("Content-Range")) for each in answers] == [
        (206, "bytes 10-19/200"),
        (206, "bytes 30-49/200"),
        (200, None),
        (206, "bytes 10-29/200"),
    ]
    expected = [range(10, 20), range(30, 50), range(200), range(10, 30)]
    assert [each.content for each in answers] == [bytes(each) for each in expected]


def test_a_fault_may_wait_for_its_request_and_a_port_may_close_for_a_moment(token_endpoint: CogServer) -> None:
    server = token_endpoint
    (server.folder / "band.tif").write_bytes(b"abc")
    token = requests.get(f"{server.sas_url}/account/container", timeout=5).json()["token"]
    url = f"{server.cog_url}/band.tif?{token}"
    late = refuse(0.5)
    late.skip = 1
    server.script("/cog/*", late)
    assert requests.get(url, timeout=5).content == b"abc"
    with pytest.raises(requests.ConnectionError, match="reset"):
        requests.get(url, timeout=5)
    deadline = time.monotonic() + 5
    refusals = 0
    while refusals == 0 or time.monotonic() < deadline:
        try:
            assert requests.get(url, timeout=5).content == b"abc"
            break
        except requests.ConnectionError as error:
            refusals += "refused" in str(error)
            time.sleep(0.02)
    assert 0 < refusals < 40
    server.script("/cog/*", revoke())
    assert [requests.get(url, timeout=5).status_code for _ in range(2)] == [403, 403]
