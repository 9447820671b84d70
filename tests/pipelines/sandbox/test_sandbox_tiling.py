import json
import re
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pyproj
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.sandbox.tiling import (
    TILE_SIZE_M,
    _cell_tile,
    footprint,
    tile_from_id,
    tiles_covering,
    zone_longitudes_deg,
)
from pipelines.sandbox.utm import from_utm, to_utm


@pytest.mark.parametrize(
    ("tile_id", "epsg", "corner"),
    [
        ("12SVD", 32612, (399_960, 3_900_000)),
        ("31TCJ", 32631, (300_000, 4_900_020)),
        ("35LND", 32735, (499_980, 8_400_040)),
    ],
)
def test_corner_follows_from_the_name(tile_id, epsg, corner):
    tile = tile_from_id(tile_id)
    assert (tile.epsg, tile.x_ul_m, tile.y_ul_m) == (epsg, *corner)


@pytest.mark.parametrize("tile_id", ["", "31TCI", "61TCJ", "31ICJ", "31TSJ", "31TCW", "00TCJ"])
def test_impossible_names_are_refused(tile_id):
    with pytest.raises(ValueError, match="not a Sentinel-2 tile"):
        tile_from_id(tile_id)


def _real_corners(folder: Path):
    for name in ("pc_items", "earthsearch_v0_items", "earthsearch_v1_items"):
        for line in (folder / f"{name}.ndjson").read_text().splitlines():
            item = json.loads(line)
            if name == "earthsearch_v0_items":
                zone, band, square = re.match(r"S2[AB]_(\d+)([A-Z])([A-Z]{2})_", item["id"]).groups()
                tile_id = f"{int(zone):02d}{band}{square}"
            else:
                grid = item["properties"].get("grid:code", "MGRS-").removeprefix("MGRS-")
                tile_id = item["properties"].get("s2:mgrs_tile") or f"{int(grid[:-3]):02d}{grid[-3:]}"
            code = item["properties"].get("proj:epsg") or int(item["properties"]["proj:code"].removeprefix("EPSG:"))
            asset = next(a for key in ("B02", "blue") if (a := item["assets"].get(key)) and "proj:transform" in a)
            yield tile_id, code, asset["proj:transform"][2], asset["proj:transform"][5]
    table = pq.read_table(folder / "100-sentinel-2-items.parquet", columns=["s2:mgrs_tile", "proj:epsg", "assets"])
    for row in table.to_pylist():
        west, _, _, north = row["assets"]["B02"]["proj:bbox"]
        yield row["s2:mgrs_tile"], row["proj:epsg"], west, north


@pytest.mark.real_data
def test_every_real_item_has_the_corner_of_the_rule(shared_data):
    corners = list(_real_corners(shared_data / "stac_items_dev"))
    assert len(corners) > 200
    for tile_id, epsg, west, north in corners:
        tile = tile_from_id(tile_id)
        assert (tile.epsg, tile.x_ul_m, tile.y_ul_m) == (epsg, west, north), tile_id
        found = _cell_tile(tile.zone, round(tile.x_ul_m / 1e5), round(tile.signed_y_ul_m / 1e5) - 1)
        assert found == tile


@pytest.mark.parametrize("zone", [1, 31, 60])
def test_projection_agrees_with_proj(zone):
    rng = np.random.default_rng(zone)
    lonlat = np.stack([6.0 * zone - 183 + rng.uniform(-6, 6, 300), rng.uniform(-80, 84, 300)], axis=1)
    proj = pyproj.Transformer.from_crs(4326, 32600 + zone, always_xy=True)
    easting, northing = proj.transform(lonlat[:, 0], lonlat[:, 1])
    x, y = to_utm(lonlat, zone)
    np.testing.assert_allclose(x, easting, rtol=0, atol=1e-3)
    np.testing.assert_allclose(y, northing, rtol=0, atol=1e-3)
    np.testing.assert_allclose(from_utm(x, y, zone), lonlat, rtol=0, atol=1e-7)


@settings(deadline=None, max_examples=60)
@given(lon=st.floats(-180, 180), sine=st.floats(np.sin(np.radians(-56)), np.sin(np.radians(84)) - 1e-6))
def test_every_place_lies_in_a_tile_that_exists(lon, sine):
    lonlat = np.array([lon, np.degrees(np.arcsin(sine))])
    tiles = tiles_covering(lonlat)
    assert tiles
    for tile in tiles:
        assert tile == tile_from_id(tile.tile_id)
        x, y = (float(v) for v in to_utm(lonlat, tile.zone))
        assert 0 <= x - tile.x_ul_m < TILE_SIZE_M
        assert 0 <= tile.signed_y_ul_m - y < TILE_SIZE_M


def test_neighbours_overlap_and_zones_meet():
    assert [t.tile_id for t in tiles_covering(np.array([9.0, 48.6]))] == ["32UMU", "32UNU"]
    across = [t.tile_id for t in tiles_covering(np.array([179.9999, 65.0]))]
    assert {name[:2] for name in across} == {"01", "60"}


def test_norway_and_svalbard_have_their_own_zones():
    assert zone_longitudes_deg(31, "V") == (0.0, 3.0)
    assert zone_longitudes_deg(32, "X") is None
    assert {t.zone for t in tiles_covering(np.array([16.0, 78.2]))} == {33}
    assert 32 in {t.zone for t in tiles_covering(np.array([4.5, 60.5]))}


@pytest.mark.parametrize("tile_id", ["01UBQ", "60WXT", "01KAB"])
def test_footprint_is_cut_at_the_antimeridian(tile_id):
    ring = tile_from_id(tile_id).boundary_lonlat_deg
    geometry, bbox = footprint(ring)
    shape = shapely.geometry.shape(geometry)
    assert geometry["type"] == "MultiPolygon"
    assert shape.is_valid
    assert bbox[0] > 170 > -170 > bbox[2]
    assert abs(shape.bounds[0]) == abs(shape.bounds[2]) == 180
    assert shape.area == pytest.approx(shapely.Polygon(ring).area, rel=1e-4)


def test_far_north_tiles_keep_a_plain_footprint():
    for tile in tiles_covering(np.array([-40.0, 83.0])):
        geometry, bbox = footprint(tile.boundary_lonlat_deg)
        assert geometry["type"] == "Polygon"
        assert shapely.geometry.shape(geometry).contains(shapely.Point(-40.0, 83.0))
        assert bbox[3] < 85


def test_latitudes_outside_the_tiling_are_refused():
    with pytest.raises(ValueError, match="84 N"):
        tiles_covering(np.array([0.0, 85.0]))
