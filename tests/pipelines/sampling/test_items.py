import copy
import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyproj import CRS

from pipelines.sampling.catalog import Catalog, unopened_catalog
from pipelines.sampling.catalog_profile import CatalogProfile
from pipelines.sampling.item_grid import tile_grid
from pipelines.sampling.items import NAMINGS, Scene, scene_hrefs, scene_of_item
from pipelines.sentinel2 import ALL_ASSETS, BANDS
from tests.loopback.awkward_scenes import ACROSS_THE_ANTIMERIDIAN, with_relative_hrefs, without_cloud_cover
from tests.loopback.coordinate_scene import CoordinateScene

URL = "https://stac.example.org/v1"
FILES = "https://stac.example.org/files"
GENERIC = unopened_catalog(URL, "sentinel-2-l2a")
PLANETARY_COMPUTER = unopened_catalog("https://planetarycomputer.microsoft.com/api/stac/v1/", "sentinel-2-l2a")
EARTH_SEARCH = unopened_catalog("https://earth-search.aws.element84.com/v1", "sentinel-2-l2a")
EARTH_SEARCH_C1 = unopened_catalog("https://earth-search.aws.element84.com/v1", "sentinel-2-c1-l2a")
CDSE = unopened_catalog("https://stac.dataspace.copernicus.eu/v1", "sentinel-2-l2a")
ANYWHERE = unopened_catalog(
    URL, "any", CatalogProfile(name="any", allowed_hosts=("*.amazonaws.com", "s3://sentinel-s2-l2a"))
)
SCENE = CoordinateScene(epsg=32632, x_ul_m=399960, y_ul_m=5300040, mgrs_tile="32TLT")


def item(**properties: Any) -> dict[str, Any]:
    made = SCENE.item(FILES)
    made["properties"] |= properties
    return made


def scene(given: object, catalog: Catalog = GENERIC) -> Scene:
    found = scene_of_item(given, catalog)
    assert isinstance(found, Scene), found
    return found


def real_items(shared_data: Path, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (shared_data / "stac_items_dev" / name).read_text().splitlines()]


# real items -----------------------------------------------------------------------------------------------------------


@pytest.mark.real_data
def test_every_item_of_the_planetary_computer_is_a_scene(shared_data: Path) -> None:
    items = real_items(shared_data, "pc_items.ndjson")
    scenes = [scene(each, PLANETARY_COMPUTER) for each in items]
    assert len(scenes) == 69
    for each, found in zip(items, scenes, strict=True):
        assert {band: scene_hrefs(found)[band] for band in BANDS} == {b: each["assets"][b]["href"] for b in BANDS}
        assert found.boa_add_offset == (-1000 if found.processing_baseline >= "04.00" else 0)
        assert found.offset_source == "processing_baseline"
        assert (found.width_px, found.resolution_m) == (10980, 10.0)
        assert 0 <= found.sun_zenith_deg < 90
        assert found.relative_orbit == each["properties"]["sat:relative_orbit"]


@pytest.mark.real_data
def test_items_of_earth_search_are_scenes_under_their_own_names(shared_data: Path) -> None:
    for each in real_items(shared_data, "earthsearch_v1_items.ndjson"):
        is_c1 = each["collection"] == "sentinel-2-c1-l2a"
        found = scene_of_item(each, EARTH_SEARCH_C1 if is_c1 else EARTH_SEARCH)
        if each["assets"]["blue"]["href"].startswith("s3://"):
            assert found == "foreign_host:sentinel-s2-l2a"  # a bucket whose readers pay
            found = scene(each, ANYWHERE)
            assert (found.processing_baseline, found.boa_add_offset) == ("04.00", -1000)
            continue
        assert isinstance(found, Scene)
        properties = each["properties"]
        assert found.sun_zenith_deg == pytest.approx(90 - properties["view:sun_elevation"])
        assert found.processing_baseline == properties["s2:processing_baseline"]
        assert scene_hrefs(found)["B8A"] == each["assets"]["nir08"]["href"]
        assert set(scene_hrefs(found)) == set(ALL_ASSETS)
        expected = (-1000, "processing_baseline") if is_c1 else (0, "boa_offset_applied")
        assert (found.boa_add_offset, found.offset_source) == expected
        assert found.relative_orbit == int(properties["s2:product_uri"].split("_R")[1][:3])


@pytest.mark.real_data
def test_old_items_of_earth_search_are_scenes_without_a_profile(shared_data: Path) -> None:
    scenes = {found.item_id: found for each in real_items(shared_data, "earthsearch_v0_items.ndjson")
              if (found := scene(each, ANYWHERE))}  # fmt: skip
    described = {
        name: (found.mgrs_tile, found.processing_baseline, found.boa_add_offset, found.offset_source)
        for name, found in scenes.items()
    }
    assert described == {
        "S2B_33SVB_20210221_0_L2A": ("33SVB", "02.14", 0, "product_id"),
        "S2A_28QCH_20200714_0_L2A": ("28QCH", "02.14", 0, "product_id"),
        "S2A_31NBJ_20190524_0_L2A": ("31NBJ", "02.12", 0, "product_id"),
        "S2B_20EPT_20250731_0_L2A": ("20EPT", "05.11", 0, "boa_offset_applied"),
    }
    assert scenes["S2A_28QCH_20200714_0_L2A"].scene_nodata_percent == pytest.approx(100 - 6.85)


@pytest.mark.real_data
def test_other_real_items_are_scenes_or_say_why_not(shared_data: Path) -> None:
    items = real_items(shared_data, "other_items.ndjson")
    found = [scene_of_item(each, ANYWHERE) for each in items]
    verdicts = [each if isinstance(each, str) else (each.epsg, each.x_ul_m, each.y_ul_m) for each in found]
    assert verdicts == [
        "not_level_2a",
        "not_level_2a",
        "not_level_2a",
        "missing_band:B01",
        "missing_band:B02",
        "no_grid",  # the CRS is that of 35VMK, the id says 26SKD
        (32623, 399960.0, 6600000.0),  # nothing but its tile says where it is
        (32633, 399960.0, 4200000.0),
    ]
    assert isinstance(found[-1], Scene)
    assert scene_hrefs(found[-1])["B02"] == "catalog:/v1/collections/any/items/B02.tif"
    assert math.isnan(found[-1].scene_cloud_cover_percent)


async def _read_rows(path: Path) -> list[dict[str, Any]]:
    import rustac

    return list((await rustac.read(str(path)))["features"])


@pytest.mark.real_data
def test_rows_of_stac_geoparquet_are_scenes(shared_data: Path) -> None:
    import asyncio

    rows = asyncio.run(_read_rows(shared_data / "stac_items_dev" / "100-sentinel-2-items.parquet"))
    scenes = [scene(row, PLANETARY_COMPUTER) for row in rows]
    assert len(scenes) == 100


@pytest.mark.real_data
def test_the_tile_rule_gives_the_grid_of_every_real_item(shared_data: Path) -> None:
    checked = 0
    for name in ("pc_items.ndjson", "earthsearch_v1_items.ndjson", "earthsearch_v0_items.ndjson"):
        for each in real_items(shared_data, name):
            profile = CatalogProfile(
                name="any", allowed_hosts=("*.windows.net", "*.amazonaws.com", "s3://sentinel-s2-l2a")
            )
            found = scene(each, unopened_catalog(URL, "any", profile))
            tile = tile_grid(found.mgrs_tile)
            assert tile is not None
            assert (tile.epsg, tile.x_ul_m, tile.y_ul_m) == (found.epsg, found.x_ul_m, found.y_ul_m), each["id"]
            assert tile.width_px == found.width_px
            checked += 1
    assert checked == 69 + 42 + 4


# grids ----------------------------------------------------------------------------------------------------------------


def without_grid(given: dict[str, Any]) -> dict[str, Any]:
    for asset in given["assets"].values():
        for name in ("proj:transform", "proj:shape", "proj:bbox"):
            asset.pop(name, None)
    return given


TRANSFORM = [10.0, 0.0, 399960.0, 0.0, -10.0, 5300040.0]
BOX = [399960.0, 5289060.0, 410940.0, 5300040.0]
EXPECTED = (32632, 399960.0, 5300040.0, 1098, 1098, 10.0)


@pytest.mark.parametrize(
    "fields",
    [
        {"proj:transform": TRANSFORM, "proj:shape": [1098, 1098]},
        {"proj:transform": [*TRANSFORM, 0, 0, 1], "proj:shape": [1098, 1098]},
        {"proj:transform": [399960, 10, 0, 5300040, 0, -10], "proj:shape": [1098, 1098]},
        {"proj:transform": TRANSFORM, "proj:bbox": BOX},
        {"proj:shape": [1098, 1098], "proj:bbox": BOX},
    ],
    ids=["transform", "nine numbers", "GDAL's order", "transform and box", "box and shape"],
)
@pytest.mark.parametrize("of", ["item asset", "item"])
def test_the_grid_is_read_off_what_the_item_says(fields: dict[str, Any], of: str) -> None:
    given = without_grid(item())
    (given["assets"]["B02"] if of == "item asset" else given["properties"]).update(fields)
    found = scene(given)
    assert (found.epsg, found.x_ul_m, found.y_ul_m, found.width_px, found.height_px, found.resolution_m) == EXPECTED


@pytest.mark.parametrize(
    "crs",
    [
        {"proj:epsg": 32632},
        {"proj:epsg": "32632"},
        {"proj:epsg": 32632.0},
        {"proj:code": "EPSG:32632"},
        {"proj:epsg": None, "proj:wkt2": CRS.from_epsg(32632).to_wkt()},
        {"proj:code": None, "proj:projjson": CRS.from_epsg(32632).to_json_dict()},
        {},
    ],
    ids=["epsg", "text", "float", "code", "wkt2", "projjson", "tile"],
)
def test_the_crs_is_read_off_what_the_item_says(crs: dict[str, Any]) -> None:
    given = item()
    del given["properties"]["proj:epsg"]
    given["properties"] |= crs
    assert scene(given).epsg == 32632


def test_a_tile_says_where_a_scene_is_when_nothing_else_does() -> None:
    found = scene(without_grid(item(**{"s2:mgrs_tile": "12SVD", "proj:epsg": None})))
    assert (found.epsg, found.x_ul_m, found.y_ul_m, found.width_px) == (32612, 399960.0, 3900000.0, 10980)


@pytest.mark.parametrize(
    ("properties", "reason"),
    [
        ({"proj:epsg": 4326}, "grid_not_metric"),
        ({"proj:epsg": 99999}, "grid_not_metric"),
        ({"proj:epsg": None, "s2:mgrs_tile": None}, "no_grid"),
        ({"datetime": None}, "no_datetime"),
        ({"datetime": "yesterday"}, "no_datetime"),
        ({"s2:product_type": "S2MSI1C"}, "not_level_2a"),
    ],
)
def test_an_item_that_cannot_serve_says_why(properties: dict[str, Any], reason: str) -> None:
    given = item(**properties)
    given["id"] = "scene"
    assert scene_of_item(given, GENERIC) == reason


def test_a_grid_that_is_rotated_or_south_up_cannot_serve() -> None:
    for transform in ([10, 1, 399960, 0, -10, 5300040], [10, 0, 399960, 0, 10, 5300040], [-10, 0, 0, 0, 10, 5]):
        given = item()
        for band in ("B02", "B03", "B04", "B08"):
            given["assets"][band]["proj:transform"] = transform
        assert scene_of_item(given, GENERIC) == "grid_not_north_up"


# names, offsets, addresses --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("naming", NAMINGS)
def test_the_naming_of_item_assets_is_recognized(naming: dict[str, str]) -> None:
    given = item()
    given["assets"] = {naming[band]: asset for band, asset in given["assets"].items()} | {"visual": {"href": "x"}}
    found = scene_hrefs(scene(given))
    assert set(found) == set(ALL_ASSETS)
    assert all(f"_{band}" in href for band, href in found.items())


def test_bands_of_unknown_item_assets_are_found_by_their_names() -> None:
    given = item()
    assets = given["assets"]
    given["assets"] = {
        f"file-{index}": asset | {"bands": [{"name": band}]} for index, (band, asset) in enumerate(assets.items())
    }
    assert set(scene_hrefs(scene(given))) == set(BANDS)


def test_names_in_a_profile_are_taken_literally() -> None:
    names = {band: f"S2_{band}" for band in BANDS}
    catalog = unopened_catalog(URL, "any", CatalogProfile(name="mine", item_assets=names))
    given = item()
    assert scene_of_item(given, catalog) == "missing_band:B01"
    given["assets"] |= {f"S2_{band}": given["assets"][band] for band in BANDS}
    assert set(scene_hrefs(scene(given, catalog))) == set(BANDS)


def test_an_item_of_the_copernicus_data_space_is_a_scene() -> None:
    given = item(**{"grid:code": "MGRS-32TLT", "processing:version": "05.11", "statistics": {"nodata": 12.5}})
    for name in ("s2:mgrs_tile", "s2:processing_baseline", "s2:nodata_pixel_percentage"):
        del given["properties"][name]
    naming = NAMINGS[2]
    folder = "Sentinel-2/MSI/L2A/2024/06/15/S2A.SAFE/GRANULE/L2A/IMG_DATA"
    given["assets"] = {
        naming[band]: asset | {
            "href": f"s3://eodata/{folder}/{naming[band]}.jp2",
            "raster:scale": 0.0001,
            "raster:offset": -0.1,
            "alternate": {"https": {"href": f"https://download.dataspace.copernicus.eu/odata/v1/Products({band})/$value"}},
        }
        for band, asset in given["assets"].items()
    }  # fmt: skip
    found = scene(given, CDSE)
    assert scene_hrefs(found)["B02"] == f"s3://eodata/{folder}/B02_10m.jp2"
    assert (found.boa_add_offset, found.offset_source, found.mgrs_tile) == (-1000, "raster:bands", "32TLT")
    assert (found.scene_nodata_percent, found.processing_baseline) == (12.5, "05.11")
    by_https = CDSE.profile.model_copy(update={"href_schemes": ("https", "s3")})
    hrefs = scene_hrefs(scene(given, unopened_catalog(CDSE.url, CDSE.collection, by_https)))
    assert hrefs["B02"] == "https://download.dataspace.copernicus.eu/odata/v1/Products(B02)/$value"


@pytest.mark.parametrize(
    ("href", "reason"),
    [
        ("https://elsewhere.example/B02.tif", "foreign_host:elsewhere.example"),
        ("s3://bucket/B02.tif", "foreign_host:bucket"),
        ("file:///etc/passwd", "foreign_host:file"),
        ("/etc/passwd", None),  # of the catalog's own host
        ("ftp://stac.example.org/B02.tif", "bad_address:B02"),
        ("https://me:secret@stac.example.org/B02.tif", "bad_address:B02"),
        ("https://stac.example.org@elsewhere.example/B02.tif", "bad_address:B02"),
        ("https://stac.example.org\\@elsewhere.example/B02.tif", "bad_address:B02"),
        ("https://stac.example.org/%2e%2e/%2e%2e/B02.tif", "bad_address:B02"),
        ("https://stac.example.org/%252e%252e/B02.tif", "bad_address:B02"),
        ("https://stac\u0435.example.org/B02.tif", "bad_address:B02"),
        ("https://127.0.0.1/latest/meta-data", "foreign_host:127.0.0.1"),
        ("/vsicurl/https://elsewhere.example/B02.tif", None),  # a path of the catalog's own host, no GDAL name
        ("zip+https://stac.example.org/B02.zip", "bad_address:B02"),
        ("", "bad_address:B02"),
        (17, "bad_address:B02"),
    ],
)
def test_an_item_names_no_file_outside_its_catalog(href: object, reason: str | None) -> None:
    given = item()
    given["assets"]["B02"]["href"] = href
    found = scene_of_item(given, GENERIC)
    if reason is None:
        assert isinstance(found, Scene)
        assert scene_hrefs(found)["B02"] == f"catalog:{href}"
    else:
        assert found == reason


def test_a_signature_in_an_address_is_not_kept() -> None:
    given = item()
    for asset in given["assets"].values():
        asset["href"] += "?sig=SECRET&se=2030#SECRET"
    assert "SECRET" not in repr(scene(given))


def test_relative_addresses_are_resolved_against_the_items_own() -> None:
    given = with_relative_hrefs(SCENE)
    expected = f"catalog:/cog/{SCENE.file_name('B02')}"
    assert scene_hrefs(scene(given))["B02"] == expected
    given["links"] = [{"rel": "self", "href": f"{URL}/a/b/c/d/e/item.json"}]
    assert scene_hrefs(scene(given))["B02"] == f"catalog:/v1/a/cog/{SCENE.file_name('B02')}"
    given["links"] = [{"rel": "self", "href": "https://elsewhere.example/a/b/c/d/item.json"}]
    assert scene_of_item(given, GENERIC) == "foreign_host:elsewhere.example"


def test_addresses_as_a_cache_keeps_them_lead_back_to_the_catalog() -> None:
    given = item()
    expected = scene_hrefs(scene(given))
    for asset in given["assets"].values():
        asset["href"] = GENERIC.relative_href(asset["href"])
        assert asset["href"].startswith("catalog:/files/")
        assert GENERIC.relative_href(asset["href"]) == asset["href"]
    assert scene_hrefs(scene(given)) == expected
    for href in ("catalog:@elsewhere.example/B02.tif", "catalog:.elsewhere.example/B02.tif", "catalog:/../B02.tif"):
        given["assets"]["B02"]["href"] = href
        assert isinstance(scene_of_item(given, GENERIC), str)


def test_an_item_without_cloud_cover_is_a_scene_of_unknown_cloud_cover() -> None:
    assert math.isnan(scene(without_cloud_cover(item())).scene_cloud_cover_percent)


def test_an_interval_counts_from_its_start_and_in_utc() -> None:
    assert scene(item(datetime=None, start_datetime="2022-07-01T01:00:00+02:00")).datetime == "2022-06-30T23:00:00Z"
    assert scene(item(datetime="2022-07-01T10:00:31.024Z")).datetime == "2022-07-01T10:00:31.024Z"


def test_an_item_across_the_antimeridian_or_without_geometry_is_a_scene() -> None:
    assert scene(ACROSS_THE_ANTIMERIDIAN.item(FILES)).epsg == 32601
    assert scene(item() | {"geometry": None, "bbox": None}).mgrs_tile == "32TLT"


@pytest.mark.parametrize(("tile", "epsg", "y_ul_m"), [("25XEM", 32625, 9200040), ("01CCV", 32701, 2000020)])
def test_polar_tiles_have_a_grid(tile: str, epsg: int, y_ul_m: int) -> None:
    found = tile_grid(tile)
    assert found is not None
    assert (found.epsg, found.y_ul_m) == (epsg, y_ul_m)


# anything -------------------------------------------------------------------------------------------------------------

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
    | st.sampled_from(["", "EPSG:1", "05.10", "2022-01-01", "../..", "MGRS-", 32632, -1, 1e400]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=6,
)  # fmt: skip


def paths(value: object, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [path] if path else []
    if isinstance(value, dict):
        entries: Any = value.items()
    elif isinstance(value, list):
        entries = enumerate(value)
    else:
        return found
    for key, inner in entries:
        found += paths(inner, (*path, key))
    return found


def damaged(given: dict[str, Any], damages: list[tuple[int, object]]) -> dict[str, Any]:
    given = copy.deepcopy(given)
    for number, value in damages:
        known = paths(given)
        if not known:
            break
        *parents, last = known[number % len(known)]
        owner: Any = given
        for key in parents:
            owner = owner[key]
        if value == "delete":
            del owner[last]
        else:
            owner[last] = value
    return given


def small(given: dict[str, Any]) -> dict[str, Any]:
    """The item with the item assets of bands only, so that damage hits what is read."""
    kept = {name for naming in NAMINGS for name in naming.values()}
    return given | {"assets": {name: asset for name, asset in given["assets"].items() if name in kept}}


@pytest.mark.real_data
@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    number=st.integers(0, 10_000),
    damages=st.lists(st.tuples(st.integers(0, 100_000), st.just("delete") | JSON), min_size=1, max_size=6),
)
def test_a_damaged_item_is_a_scene_or_a_reason(
    shared_data: Path, number: int, damages: list[tuple[int, object]]
) -> None:
    items = _all_items(shared_data)
    given = damaged(items[number % len(items)], damages)
    for catalog in (PLANETARY_COMPUTER, EARTH_SEARCH, ANYWHERE):
        found = scene_of_item(given, catalog)
        if isinstance(found, Scene):
            assert found.item_id.isprintable()
            assert 0 < found.epsg < 1_000_000
            assert found.boa_add_offset in (0, -1000)
            for href in scene_hrefs(found).values():
                assert catalog.absolute_href(href)
        else:
            assert found.isprintable()
            assert len(found) < 200


@pytest.mark.parametrize("given", [None, 3, [], {}, {"id": "a"}, {"id": "a\nb", "properties": {}, "assets": {}}])
def test_what_is_no_item_cannot_serve(given: object) -> None:
    assert scene_of_item(given, GENERIC) == "not_an_item"


_ITEMS: dict[Path, list[dict[str, Any]]] = {}


def _all_items(shared_data: Path) -> list[dict[str, Any]]:
    if shared_data not in _ITEMS:
        names = ("pc_items.ndjson", "earthsearch_v1_items.ndjson", "earthsearch_v0_items.ndjson", "other_items.ndjson")
        _ITEMS[shared_data] = [small(each) for name in names for each in real_items(shared_data, name)]
    return _ITEMS[shared_data]
