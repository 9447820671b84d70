import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
import warnings

import numpy as np
import pystac_client
import pytest
import rasterio
import shapely
from planetary_computer.settings import Settings
from rasterio.windows import Window

from pipelines.errors import ConfigurationError
from pipelines.sampling.catalog import open_catalog
from pipelines.sandbox.catalog import data_ring_lonlat_deg, item
from pipelines.sandbox.config import SandboxConfig
from pipelines.sandbox.fields import Planet
from pipelines.sandbox.lifecycle import SandboxError, down, read_state, run_in_sandbox, start_sandbox, up
from pipelines.sandbox.rendering import Renderer
from pipelines.sandbox.scenes import tile_scenes
from pipelines.sandbox.tiling import tile_from_id, tiles_covering

pytestmark = pytest.mark.network
SMALL = SandboxConfig(num_places=12)


@pytest.fixture(scope="module")
def sandbox():
    with start_sandbox(SMALL) as handle:
        yield handle


@pytest.fixture(scope="module")
def client(sandbox):
    return pystac_client.Client.open(sandbox.stac_url)


def _search(client, **arguments):
    return list(client.search(collections=["sentinel-2-l2a"], **arguments).items_as_dicts())


def _hrefs(value):
    if isinstance(value, dict):
        for key, inner in value.items():
            if key == "href":
                yield inner
            else:
                yield from _hrefs(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _hrefs(inner)


def test_every_link_has_the_one_origin(sandbox):
    for path in ("/stac", "/stac/collections", "/stac/collections/sentinel-2-l2a", "/stac/search?limit=2"):
        with urllib.request.urlopen(sandbox.origin + path) as response:
            hrefs = list(_hrefs(json.load(response)))
        assert hrefs
        assert all(href.startswith((f"{sandbox.origin}/stac", f"{sandbox.origin}/cog/")) for href in hrefs)


def test_pages_join_to_the_whole(client):
    whole = _search(client, limit=1_000)
    paged = _search(client, limit=7)
    assert len(whole) > 60
    assert [i["id"] for i in whole] == [i["id"] for i in paged]
    assert len({i["id"] for i in whole}) == len(whole)


def test_bbox_dates_and_points_select_like_brute_force(client):
    whole = _search(client, limit=1_000)
    middle = shapely.geometry.shape(whole[0]["geometry"]).representative_point()
    box = (middle.x - 0.01, middle.y - 0.01, middle.x + 0.01, middle.y + 0.01)
    expected = {i["id"] for i in whole if shapely.geometry.shape(i["geometry"]).intersects(shapely.box(*box))}
    assert expected
    assert {i["id"] for i in _search(client, bbox=box)} == expected
    assert {i["id"] for i in _search(client, intersects=shapely.geometry.mapping(middle))} <= expected
    in_2022 = {i["id"] for i in whole if i["properties"]["datetime"].startswith("2022")}
    assert {i["id"] for i in _search(client, datetime="2022-01-01/2022-12-31", limit=500)} == in_2022


def test_a_query_on_properties_silently_finds_nothing(client):
    """The trap: the server does not conform to the query extension, accepts it and answers 200 with no items."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert not client.conforms_to("QUERY")
        assert _search(client, query={"eo:cloud_cover": {"lt": 101}}) == []


def test_collection_names_its_storage(client):
    fields = client.get_collection("sentinel-2-l2a").extra_fields
    assert (fields["msft:storage_account"], fields["msft:container"]) == ("sandbox", "sentinel2-l2")


def test_items_look_like_those_of_the_planetary_computer(client, shared_data):
    ours = _search(client, max_items=1)[0]
    lines = (shared_data / "stac_items_dev" / "pc_items.ndjson").read_text().splitlines()
    real = json.loads(lines[0])
    assert set(ours["properties"]) <= set(real["properties"])
    assert set(ours["assets"]) <= set(real["assets"])
    for name in ("B02", "B05", "B09", "SCL", "visual"):
        for key in ("proj:shape", "gsd", "type", "roles"):
            assert ours["assets"][name][key] == real["assets"][name][key]
    assert len(ours["id"]) == len(real["id"])
    assert len(json.dumps(ours)) < 7_000


def test_cloud_cover_and_nodata_agree_with_the_pixels():
    renderer = Renderer(Planet(0))
    scenes = [s for t in ("32UNA", "20MRC", "35LNE") for s in tile_scenes(tile_from_id(t), 0)][:12]
    for scene in scenes:
        properties = item(scene, renderer)["properties"]
        classes = np.block([[renderer.classify(scene, r, c, 320.0) for c in (0, 1)] for r in (0, 1)])[:343, :343]
        cloudy = 100 * np.isin(classes, (8, 9, 10)).sum() / max(1, (classes != 0).sum())
        assert properties["eo:cloud_cover"] == pytest.approx(cloudy, abs=4)
        assert properties["s2:nodata_pixel_percentage"] == pytest.approx(100 * (classes == 0).mean(), abs=3)


@pytest.mark.parametrize("tile_id", ["01WCN", "60WXT", "27XVN", "32UNA"])
def test_geometry_is_the_covered_part_of_the_tile(tile_id):
    renderer = Renderer(Planet(0))
    tile = tile_from_id(tile_id)
    for scene in tile_scenes(tile, 0):
        entry = item(scene, renderer)
        shape = shapely.geometry.shape(entry["geometry"])
        assert shape.is_valid
        whole = shapely.Polygon(tile.boundary_lonlat_deg).area
        nodata = entry["properties"]["s2:nodata_pixel_percentage"]
        assert 100 * (1 - shape.area / whole) == pytest.approx(nodata, abs=5)
        assert shape.area == pytest.approx(shapely.Polygon(data_ring_lonlat_deg(scene)).area, rel=1e-3)


@pytest.mark.parametrize(
    ("tile_id", "band", "window"),
    [
        ("32UNA", "B02", Window(5000, 5001, 256, 250)),
        ("35LNE", "B11", Window(10, 700, 128, 130)),
        ("01WCN", "B04", Window(10_800, 10_850, 180, 130)),
        ("27XVN", "B09", Window(1_700, 1_650, 130, 180)),
        ("19HCC", "SCL", Window(2_500, 2_550, 128, 128)),
    ],
)
def test_windows_read_over_http_equal_direct_rendering(sandbox, tile_id, band, window):
    renderer = Renderer(Planet(0))
    scene = tile_scenes(tile_from_id(tile_id), 0)[1]
    with urllib.request.urlopen(f"{sandbox.sas_url}/sandbox/sentinel2-l2") as response:
        query = json.load(response)["token"]
    url = f"{sandbox.origin}/cog/{scene.product_name}/{band}.tif?{query}"
    options = {"GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR", "VSI_CACHE": False}
    with rasterio.Env(**options), rasterio.open(url) as source:
        pixels = source.read(1, window=window)
        assert source.crs.to_epsg() == scene.tile.epsg
    top, left = int(window.row_off), int(window.col_off)
    rows, cols = (
        range(top // 256, (top + pixels.shape[0] - 1) // 256 + 1),
        range(left // 256, (left + pixels.shape[1] - 1) // 256 + 1),
    )
    direct = np.block([[renderer.render(scene, band, r, c) for c in cols] for r in rows])
    y, x = top - 256 * rows[0], left - 256 * cols[0]
    np.testing.assert_array_equal(pixels, direct[y : y + pixels.shape[0], x : x + pixels.shape[1]])


def test_a_command_sees_the_addresses_and_its_code_is_returned(tmp_path):
    script = (
        "import os, sys, json, urllib.request as r;"
        "u = os.environ['SATCLIP_STAC_URL']; assert r.urlopen(u + '/collections').status == 200;"
        "assert os.environ['PC_SDK_SAS_URL'].endswith('/sas/token');"
        "assert r.urlopen(os.environ['SATCLIP_TABLES_ROOT'] + '/biome.csv').status == 200;"
        f"open({str(tmp_path / 'url')!r}, 'w').write(u); sys.exit(7)"
    )
    assert run_in_sandbox([sys.executable, "-c", script], SMALL) == 7
    with pytest.raises(OSError, match="refused"):
        urllib.request.urlopen((tmp_path / "url").read_text())


def test_an_interrupt_stops_command_and_servers(tmp_path):
    ready = tmp_path / "ready"
    inner = f"import os, time; open({str(ready)!r}, 'w').write(os.environ['SATCLIP_STAC_URL']); time.sleep(60)"
    outer = (
        "import sys; from pipelines.sandbox.lifecycle import run_in_sandbox;"
        "from pipelines.sandbox.config import SandboxConfig;"
        f"sys.exit(run_in_sandbox([sys.executable, '-c', {inner!r}], SandboxConfig(num_places=2)))"
    )
    process = subprocess.Popen([sys.executable, "-c", outer])
    start = time.monotonic()
    while not (ready.is_file() and ready.read_text()) and time.monotonic() - start < 60:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    assert process.wait(15) == 128 + signal.SIGTERM
    with pytest.raises(OSError, match="refused"):
        urllib.request.urlopen(ready.read_text())


def test_up_and_down(tmp_path):
    handle = up(SandboxConfig(num_places=2), tmp_path)
    assert read_state(tmp_path) == handle
    with pytest.raises(SandboxError, match="already"):
        up(SMALL, tmp_path)
    assert down(tmp_path) == handle
    start = time.monotonic()
    while time.monotonic() - start < 5:
        try:
            os.kill(handle.pid, 0)
            os.waitpid(handle.pid, os.WNOHANG)
        except (ProcessLookupError, ChildProcessError):
            break
        time.sleep(0.05)
    with pytest.raises(ProcessLookupError):
        os.kill(handle.pid, 0)
    with pytest.raises(SandboxError, match="no sandbox runs"):
        down(tmp_path)


def test_errors_name_what_is_wrong(tmp_path, sandbox):
    port = int(sandbox.origin.rsplit(":", 1)[1])
    with pytest.raises(SandboxError, match="Address already in use"), start_sandbox(SandboxConfig(port=port)):
        pass
    with pytest.raises(ConfigurationError, match="no command"):
        run_in_sandbox([], SMALL)
    (tmp_path / "sandbox.json").write_text("{")
    with pytest.raises(SandboxError, match="damaged"):
        read_state(tmp_path)


def test_places_have_candidates():
    """Most places have a scene under 20 % clouds that holds data at the place; some of those are cloudy there."""
    renderer = Renderer(Planet(0))
    rng = np.random.default_rng(3)
    found = cloudy = total = 0
    lonlat = np.stack([rng.uniform(-180, 180, 400), np.degrees(np.arcsin(rng.uniform(-0.8, 0.99, 400)))], axis=1)
    lonlat = lonlat[renderer.planet.is_land(lonlat)][:25]
    for point in lonlat:
        clear = [
            scene
            for tile in tiles_covering(point)
            for scene in tile_scenes(tile, 0)
            if item(scene, renderer)["properties"]["eo:cloud_cover"] < 20
        ]
        classes = [_class_at(renderer, scene, point) for scene in clear]
        cloudy += sum(k in (3, 8, 9, 10) for k in classes)
        total += sum(k != 0 for k in classes)
        found += any(k not in (0, 3, 8, 9, 10) for k in classes)
    assert found >= 0.85 * len(lonlat)
    assert 0 < cloudy < 0.3 * total


def _class_at(renderer, scene, point):
    from pipelines.sandbox.utm import to_utm

    x, y = (float(v) for v in to_utm(point, scene.tile.zone))
    row, col = int((scene.tile.signed_y_ul_m - y) // 320), int((x - scene.tile.x_ul_m) // 320)
    return int(renderer.classify(scene, row // 256, col // 256, 320.0)[row % 256, col % 256])


def test_the_land_cover_map_is_served_beside_the_scenes_with_a_token_of_its_own(sandbox, monkeypatch):
    monkeypatch.setenv("PC_SDK_SAS_URL", sandbox.sas_url)
    Settings.get.cache_clear()
    maps = open_catalog(sandbox.stac_url, "land-cover")
    found = list(maps.search(None, "2021-01-01", "2021-12-31", 100.0))
    assert {each["collection"] for each in found} == {"land-cover"}
    tiles = {each["id"].rpartition("-")[2] for each in found}
    assert len(tiles) == len(found)
    tile = tile_from_id(sorted(tiles)[0])
    href = next(each for each in found if each["id"].endswith(tile.tile_id))["assets"]["map"]["href"]
    with pytest.raises(rasterio.errors.RasterioIOError):
        rasterio.open(open_catalog(sandbox.stac_url, "sentinel-2-l2a").signer.sign(href))
    with rasterio.open(maps.signer.sign(href)) as source:
        assert source.crs.to_epsg() == tile.epsg
        block = source.read(1, window=Window(256, 512, 256, 256))
    np.testing.assert_array_equal(block, Renderer(Planet(SMALL.seed)).land_cover(tile, 2, 1, 10.0))
    Settings.get.cache_clear()
