import http.client
import json
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from urllib.parse import urlsplit

import pytest

from pipelines.sandbox.cogs import CogStore
from pipelines.sandbox.fields import Planet
from pipelines.sandbox.rendering import Renderer
from pipelines.sandbox.scenes import tile_scenes
from pipelines.sandbox.server import SandboxServer
from pipelines.sandbox.tables import NUM_POINTS
from pipelines.sandbox.tiling import tile_from_id
from pipelines.sandbox.tokens import TokenIssuer

pytestmark = pytest.mark.network


@pytest.fixture(scope="module")
def renderer():
    return Renderer(Planet(0))


@pytest.fixture(scope="module")
def server(renderer) -> Iterator[SandboxServer]:
    issuer = TokenIssuer(b"key", 900.0)
    with SandboxServer(0, CogStore(renderer), renderer.planet, issuer, require_token=True, stac_port=None) as front:
        thread = threading.Thread(target=front.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield front
        front.shutdown()
        thread.join()


@pytest.fixture
def connection(server):
    link = http.client.HTTPConnection(*server.server_address[:2], timeout=20)
    yield link
    link.close()


@pytest.fixture(scope="module")
def scene():
    return tile_scenes(tile_from_id("35LNE"), 0)[0]


@pytest.fixture
def token(connection):
    connection.request("GET", "/sas/token/sandbox/sentinel2-l2")
    return json.loads(connection.getresponse().read())["token"]


def _get(connection, path, method="GET", **headers):
    connection.request(method, path, headers=headers)
    response = connection.getresponse()
    return response.status, response.read(), dict(response.getheaders())


def test_ranges_are_slices_and_the_connection_stays_open(connection, server, scene, token):
    path = f"/cog/{scene.product_name}/B01.tif?{token}"
    status, body, headers = _get(connection, path, "HEAD")
    size = int(headers["Content-Length"])
    assert (status, body, headers["Accept-Ranges"]) == (200, b"", "bytes")
    status, whole, _ = _get(connection, path)
    assert (status, len(whole)) == (200, size)
    for value, expected in {
        "bytes=0-99": whole[:100],
        "bytes=1000-301000": whole[1000:301001],
        f"bytes={size - 5}-": whole[-5:],
        "bytes=-7": whole[-7:],
        f"bytes={size - 3}-{size + 100}": whole[-3:],
    }.items():
        status, body, headers = _get(connection, path, Range=value)
        assert (status, body) == (206, expected)
        assert headers["Content-Range"].endswith(f"/{size}")
    status, body, headers = _get(connection, path, Range=f"bytes={size}-")
    assert (status, headers["Content-Range"]) == (416, f"bytes */{size}")
    assert _get(connection, "/health")[0] == 200


def test_a_live_token_is_needed(connection, server, scene, token):
    path = f"/cog/{scene.product_name}/B01.tif"
    now = datetime.now(UTC)
    stale = server.issuer.issue("sentinel2-l2", now - timedelta(hours=1))["token"]
    other = TokenIssuer(b"other", 900.0).issue("sentinel2-l2", now)["token"]
    elsewhere = server.issuer.issue("landsat", now)["token"]
    longer = token.replace("se=20", "se=21")
    for query in ("", "?", f"?{stale}", f"?{other}", f"?{elsewhere}", f"?{longer}"):
        assert _get(connection, path + query, Range="bytes=0-9")[0] == 403, query
    assert _get(connection, f"{path}?{token}", Range="bytes=0-9")[0] == 206
    server.require_token = False
    try:
        assert _get(connection, path, Range="bytes=0-9")[0] == 206
    finally:
        server.require_token = True


def test_tokens_are_what_planetary_computer_expects(server, monkeypatch):
    import planetary_computer.sas as sas
    from planetary_computer.settings import Settings

    monkeypatch.setenv("PC_SDK_SAS_URL", f"{server.origin}/sas/token")
    monkeypatch.setenv("PC_SDK_SUBSCRIPTION_KEY", "")
    Settings.get.cache_clear()
    try:
        token = sas.get_token("sandbox", "sentinel2-l2", retry_total=0)
    finally:
        Settings.get.cache_clear()
    assert 890 < token.ttl() <= 901
    assert server.issuer.is_live(token.token, "sentinel2-l2", datetime.now(UTC))


def test_what_does_not_exist_is_404_and_writing_is_405(connection, scene, token):
    for path in ("/", "/cog/x.tif?", "/sas/token/a/b", "/tables/population.csv", f"/cog/{scene.product_name}/B10.tif?"):
        assert _get(connection, path + token if path.endswith("?") else path)[0] == 404, path
    assert _get(connection, "/health", "POST")[0] == 405
    assert _get(connection, "/stac/search", "POST")[0] == 502


def test_tables_are_served(connection):
    status, body, _ = _get(connection, "/tables/biome.csv")
    assert status == 200
    assert body.startswith(b"lon,lat,biome\n")
    assert len(body.splitlines()) == NUM_POINTS + 1
    assert len(_get(connection, "/tables/biome.csv?points=70")[1].splitlines()) == 71
    status, body, _ = _get(connection, "/tables/biome.csv?points=0")
    assert status == 404
    assert b"0 points asked for; expected 1 to" in body


def test_counters_count(connection, scene, token):
    before = json.loads(_get(connection, "/stats")[1])
    _get(connection, f"/cog/{scene.product_name}/B01.tif?{token}", Range="bytes=0-99")
    after = json.loads(_get(connection, "/stats")[1])
    assert after["cog_requests"] - before.get("cog_requests", 0) == 1
    assert after["cog_bytes"] - before.get("cog_bytes", 0) == 100


def test_only_loopback_is_bound(server):
    assert urlsplit(server.origin).hostname == "127.0.0.1"
    with pytest.raises(urllib.error.HTTPError, match="404"):
        urllib.request.urlopen(f"{server.origin}/etc/passwd")
