import json
import logging
import os
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pandas as pd
import pytest
import shapely
from shapely.geometry import mapping, shape

from pipelines.errors import ArtefactError, CatalogError
from pipelines.sampling.catalog import open_catalog
from pipelines.sampling.config import SearchConfig
from pipelines.sampling.scenes import (
    find_scenes,
    read_scene_candidates,
    resolve_duplicates,
    write_scene_candidates,
)
from tests.loopback.coordinate_scene import CoordinateScene, collection
from tests.loopback.faults import status
from tests.loopback.stac import PgstacServer, rustac_server
from tests.loopback.stub_stac import StubStac

FILES = "https://sentinel2l2a01.blob.core.windows.net/sentinel2-l2"
HERE = CoordinateScene(epsg=32632, x_ul_m=399960, y_ul_m=5300040, mgrs_tile="32TLT", coarsening=10)
NEXT = replace(HERE, x_ul_m=499980, mgrs_tile="32TMT", scene_number=1)
FAR = CoordinateScene(epsg=32721, x_ul_m=600000, y_ul_m=6400000, mgrs_tile="21HXC", coarsening=10)
ACROSS = CoordinateScene(epsg=32660, x_ul_m=600000, y_ul_m=7200000, mgrs_tile="60WWU", coarsening=10)
LATER = [
    replace(HERE, acquired=HERE.acquired + timedelta(days=5 * number), cloud_cover_percent=1.0 + number)
    for number in range(1, 12)
]
SEARCH = SearchConfig(start_date="2022-01-01", end_date="2022-12-31")


def match_places(places: pd.DataFrame, scenes: pd.DataFrame) -> pd.DataFrame:
    """Pairs of place and scene whose footprint holds it."""
    at = shapely.points(places["lon_deg"].to_numpy(), places["lat_deg"].to_numpy())
    place_rows, scene_rows = shapely.STRtree(scenes["footprint"].to_numpy()).query(at, predicate="intersects")
    pairs = pd.DataFrame({"place_id": places["place_id"].to_numpy()[place_rows]})
    pairs["item_id"] = scenes["item_id"].to_numpy()[scene_rows]
    return pairs.sort_values(["place_id", "item_id"], ignore_index=True)


def items_of(*scenes: CoordinateScene) -> list[dict[str, Any]]:
    return [scene.item(FILES) for scene in scenes]


ITEMS = items_of(HERE, NEXT, FAR, ACROSS, *LATER)


def places_at(*lonlat_deg: tuple[float, float]) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "place_id": range(len(lonlat_deg)),
            "lon_deg": [p[0] for p in lonlat_deg],
            "lat_deg": [p[1] for p in lonlat_deg],
        }
    )


PLACES = places_at(
    HERE.lonlat_at(200, 200), HERE.lonlat_at(300, 700), NEXT.lonlat_at(400, 400), FAR.lonlat_at(500, 500), (2.0, 10.0),
    (179.95, 64.4), (-179.95, 64.4),
)  # fmt: skip


def without(table: pd.DataFrame) -> pd.DataFrame:
    return table.drop(columns="footprint")


def test_each_scene_is_one_row_however_many_places_it_holds() -> None:
    with StubStac(collection(), ITEMS) as stub:
        catalog = open_catalog(stub.url, "sentinel-2-l2a")
        assert catalog.honours_query
        stub.forget_requests()
        scenes, report = find_scenes(PLACES, catalog, SEARCH)
        assert report.num_requests == len(stub.searches)
    assert scenes["item_id"].tolist() == sorted(item["id"] for item in ITEMS)
    assert report.num_scenes == len(ITEMS) == report.num_items
    assert (report.places_without_scene, report.num_duplicates, report.source) == (1, 0, "search")
    pairs = match_places(PLACES, scenes)
    assert pairs.groupby("place_id").size().to_dict() == {0: 12, 1: 12, 2: 1, 3: 1, 5: 1, 6: 1}


def test_rows_do_not_depend_on_how_the_catalog_is_asked() -> None:
    tables = []
    with StubStac(collection(), ITEMS) as stub:
        for settings in (
            {}, {"search_area": "box"}, {"search_cell_deg": 0.5, "max_places_per_search": 1}, {"page_size": 3},
        ):  # fmt: skip
            config = SearchConfig(**(SEARCH.model_dump() | settings))
            tables.append(find_scenes(PLACES, open_catalog(stub.url, "sentinel-2-l2a"), config)[0])
        stub.items.reverse()
        tables.append(find_scenes(PLACES, open_catalog(stub.url, "sentinel-2-l2a"), SEARCH)[0])
    for table in tables[1:]:
        pd.testing.assert_frame_equal(without(table), without(tables[0]))
        assert shapely.equals_exact(table["footprint"].to_numpy(), tables[0]["footprint"].to_numpy()).all()


@pytest.mark.parametrize("drawing", ["past 180", "around the globe"])
def test_a_scene_drawn_wrongly_across_the_antimeridian_serves_both_sides(drawing: str) -> None:
    item = items_of(ACROSS)[0]
    parts = [shapely.Polygon(np.asarray(part.exterior.coords) % [360, 1000]) for part in ACROSS.geometry().geoms]
    ring = np.asarray(shapely.union_all(parts).exterior.coords)
    if drawing == "around the globe":
        ring = np.column_stack([(ring[:, 0] + 180) % 360 - 180, ring[:, 1]])
    item["geometry"] = mapping(shapely.Polygon(ring))
    places = places_at((179.95, 64.4), (-179.95, 64.4), (20.0, 64.4))
    with StubStac(collection(), [item]) as stub:
        scenes, _ = find_scenes(places, open_catalog(stub.url, "sentinel-2-l2a"), SEARCH)
    assert match_places(places, scenes)["place_id"].tolist() == [0, 1]


def test_one_acquisition_under_two_baselines_is_kept_once() -> None:
    again = replace(HERE, processing_baseline="05.10", processed=datetime(2023, 6, 1, tzinfo=UTC))
    later = replace(HERE, processed=datetime(2022, 6, 20, tzinfo=UTC))
    with StubStac(collection(), items_of(again, HERE, later)) as stub:
        scenes, report = find_scenes(PLACES, open_catalog(stub.url, "sentinel-2-l2a"), SEARCH)
    assert scenes["item_id"].tolist() == [again.item_id]
    assert report.num_duplicates == 2


def test_parts_of_a_split_tile_and_scenes_without_a_tile_name_all_stay() -> None:
    table = pd.DataFrame(
        {
            "item_id": ["a", "b", "c", "d", "e"],
            "platform": "Sentinel-2A",
            "datetime": "2022-06-11T10:20:31.024000Z",
            "mgrs_tile": ["32TLT", "32TLT", "32TLT", "", ""],
            "processing_baseline": ["04.00", "04.00", "05.10", "04.00", "04.00"],
            "generation_time": "2022-06-12T03:04:05.000Z",
        }
    )
    outlines = [shapely.box(0, 0, 1, 0.5), shapely.box(0, 0.45, 1, 1), shapely.box(0, 0, 1, 0.5)]
    table["footprint"] = np.array([*outlines, *[shapely.box(5, 5, 6, 6)] * 2], dtype=object)
    assert resolve_duplicates(table)["item_id"].tolist() == ["b", "c", "d", "e"]


def test_a_catalog_that_knows_no_multipoints_is_asked_for_boxes(caplog: pytest.LogCaptureFixture) -> None:
    class PolygonsOnly(StubStac):
        def _page(self, search: dict[str, Any]) -> dict[str, Any]:
            if search.get("intersects", {}).get("type") == "MultiPoint":
                return {"type": "FeatureCollection", "features": [], "links": []}
            return super()._page(search)

    with PolygonsOnly(collection(), ITEMS) as stub, caplog.at_level(logging.WARNING):
        scenes, report = find_scenes(PLACES, open_catalog(stub.url, "sentinel-2-l2a"), SEARCH)
    assert len(scenes) == len(ITEMS)
    assert report.places_without_scene == 1
    assert "asking for boxes" in caplog.text


def test_a_catalog_that_cannot_cope_is_asked_for_less_at_once() -> None:
    class Slow(StubStac):
        def answer(self, exchange: Any) -> None:
            body = json.loads(exchange.body) if exchange.body else {}
            if body.get("limit", 0) > 100 or len(body.get("intersects", {}).get("coordinates", [])) > 2:
                exchange.reply_json({"code": "TooMuch", "description": "too much at once"}, 400)
            else:
                super().answer(exchange)

    config = SearchConfig(**(SEARCH.model_dump() | {"search_area": "places", "search_cell_deg": 30.0}))
    places = places_at(*[HERE.lonlat_at(row, 300) for row in range(100, 900, 100)])
    with Slow(collection(), ITEMS) as stub:
        scenes, _ = find_scenes(places, open_catalog(stub.url, "sentinel-2-l2a"), config)
    assert len(scenes) == 1 + len(LATER)


def test_a_catalog_that_is_down_is_not_asked_again_and_again() -> None:
    places = places_at(*[HERE.lonlat_at(row, 300) for row in range(100, 900, 50)])
    with StubStac(collection(), ITEMS) as stub:
        catalog = open_catalog(stub.url, "sentinel-2-l2a")
        stub.forget_requests()
        stub.script("/search", status(400, times=None))
        with pytest.raises(CatalogError, match="search in sentinel-2-l2a failed"):
            find_scenes(places, catalog, SEARCH)
        assert len(stub.searches) < 8


def test_the_cache_answers_the_second_time_and_changes_nothing(tmp_path: Path) -> None:
    with StubStac(collection(), ITEMS) as stub:
        catalog = open_catalog(stub.url, "sentinel-2-l2a")
        for name, cache in (("none", None), ("first", tmp_path / "cache"), ("second", tmp_path / "cache")):
            stub.forget_requests()
            scenes, report = find_scenes(PLACES, catalog, SEARCH, cache)
            write_scene_candidates(tmp_path / f"{name}.parquet", scenes, {"search": 1})
        assert stub.searches == []
        assert (report.num_requests, report.num_cached) == (0, report.num_searches)
    assert len({(tmp_path / f"{name}.parquet").read_bytes() for name in ("none", "first", "second")}) == 1


def test_an_interrupted_search_goes_on_where_it_stopped(tmp_path: Path) -> None:
    with StubStac(collection(), ITEMS) as stub:
        catalog = open_catalog(stub.url, "sentinel-2-l2a")
        assert catalog.honours_query
        whole, report = find_scenes(PLACES, catalog, SEARCH)
        healthy = stub.answer
        left = [report.num_requests - 2]

        def failing(exchange: Any) -> None:
            if exchange.route == "/search":
                left[0] -= 1
                if left[0] < 0:
                    exchange.reply_json({"code": "Down"}, 400)
                    return
            healthy(exchange)

        stub.answer = failing  # type: ignore[method-assign]
        with pytest.raises(CatalogError):
            find_scenes(PLACES, catalog, SEARCH, tmp_path)
        stub.answer = healthy  # type: ignore[method-assign]
        resumed, second = find_scenes(PLACES, catalog, SEARCH, tmp_path)
    assert 0 < second.num_requests <= 3
    pd.testing.assert_frame_equal(without(resumed), without(whole))


def test_damaged_and_outdated_entries_are_asked_for_anew(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with StubStac(collection(), ITEMS) as stub:
        catalog = open_catalog(stub.url, "sentinel-2-l2a")
        whole, _ = find_scenes(PLACES, catalog, SEARCH, tmp_path)
        entries = sorted(path for path in tmp_path.rglob("*") if path.is_file())
        entries[0].write_bytes(entries[0].read_bytes()[:-9])
        flipped = bytearray(entries[1].read_bytes())
        flipped[len(flipped) // 2] ^= 1
        entries[1].write_bytes(flipped)
        entries[2].write_bytes(entries[3].read_bytes())
        with caplog.at_level(logging.WARNING):
            again, report = find_scenes(PLACES, catalog, SEARCH, tmp_path)
        assert report.num_requests == 3
        assert caplog.text.count("damaged entry of the item cache") == 3
        pd.testing.assert_frame_equal(without(again), without(whole))
        stub.items.extend(items_of(replace(HERE, acquired=datetime(2022, 9, 9, 10, tzinfo=UTC))))
        outdated = SearchConfig(**(SEARCH.model_dump() | {"cache_max_age_days": 1e-9}))
        assert len(find_scenes(PLACES, catalog, outdated, tmp_path)[0]) == len(whole) + 1
        assert len(find_scenes(PLACES, catalog, SEARCH, tmp_path)[0]) == len(whole) + 1


def test_old_entries_and_leftovers_of_other_searches_go(tmp_path: Path) -> None:
    old, leftover, young = (tmp_path / "ab" / name for name in ("a.ndjson.gz", "b.ndjson.gz.1.partial", "c.ndjson.gz"))
    (tmp_path / "ab").mkdir()
    for path in (old, leftover, young):
        path.write_bytes(b"")
    for path in (old, leftover):
        os.utime(path, (1_000_000_000, 1_000_000_000))
    with StubStac(collection(), ITEMS) as stub:
        find_scenes(PLACES, open_catalog(stub.url, "sentinel-2-l2a"), SEARCH, tmp_path)
    assert [path.exists() for path in (old, leftover, young)] == [False, False, True]


def test_the_cache_holds_no_signature_and_no_address_of_the_catalog(tmp_path: Path) -> None:
    import gzip

    with StubStac(collection()) as stub:
        stub.items = [HERE.item(f"{stub.url}/cog")]
        stub.items[0]["assets"]["B03"]["href"] = f"{FILES}/B03.tif?sig=secret"
        stub.items[0]["links"] = [{"rel": "self", "href": "https://elsewhere.example/?token=secret"}]
        find_scenes(PLACES, open_catalog(stub.url, "sentinel-2-l2a"), SEARCH, tmp_path)
        kept = b"".join(gzip.decompress(path.read_bytes()) for path in tmp_path.rglob("*.gz"))
        assert HERE.item_id.encode() in kept
        assert b"secret" not in kept
        assert stub.url.encode() not in kept


def test_another_catalog_or_other_dates_are_another_entry(tmp_path: Path) -> None:
    with StubStac(collection(), ITEMS) as stub, StubStac(collection(), ITEMS[:1]) as other:
        find_scenes(PLACES, open_catalog(stub.url, "sentinel-2-l2a"), SEARCH, tmp_path)
        assert len(find_scenes(PLACES, open_catalog(other.url, "sentinel-2-l2a"), SEARCH, tmp_path)[0]) == 1
        june = SearchConfig(start_date="2022-06-01", end_date="2022-06-13")
        assert len(find_scenes(PLACES, open_catalog(stub.url, "sentinel-2-l2a"), june, tmp_path)[0]) == 4


def test_the_table_is_geoparquet_with_the_same_bytes_twice(tmp_path: Path) -> None:
    with StubStac(collection(), ITEMS) as stub:
        scenes, _ = find_scenes(PLACES, open_catalog(stub.url, "sentinel-2-l2a"), SEARCH)
    for name in ("a", "b"):
        write_scene_candidates(tmp_path / f"{name}.parquet", scenes, {"made": "by a test"})
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()
    read = read_scene_candidates(tmp_path / "a.parquet")
    pd.testing.assert_frame_equal(without(read), without(scenes))
    assert shapely.equals_exact(read["footprint"].to_numpy(), scenes["footprint"].to_numpy()).all()
    assert read_scene_candidates(tmp_path / "a.parquet", ["item_id"]).columns.tolist() == ["item_id"]
    opened = geopandas.read_parquet(tmp_path / "a.parquet")
    assert opened.geometry.name == "footprint"
    assert opened.crs.equals("OGC:CRS84")
    assert set(opened.geometry.geom_type) == {"Polygon", "MultiPolygon"}
    with pytest.raises(ArtefactError, match="materialize scene_candidates first"):
        read_scene_candidates(tmp_path / "none.parquet")


def test_nothing_found_says_why() -> None:
    with StubStac(collection(), items_of(FAR)) as stub:
        catalog = open_catalog(stub.url, "sentinel-2-l2a")
        with pytest.raises(CatalogError, match=r"no scene .* at any of 1 places; widen the dates"):
            find_scenes(places_at((2.0, 10.0)), catalog, SEARCH)
        stub.items = items_of(replace(HERE, left_out=frozenset({"B05"})))
        with pytest.raises(CatalogError, match=r"1 items found, none can serve .*missing_band:B05"):
            find_scenes(PLACES, catalog, SEARCH)


def brute_force() -> list[str]:
    points = shapely.points(PLACES[["lon_deg", "lat_deg"]].to_numpy())
    return sorted(item["id"] for item in ITEMS if shapely.intersects(shape(item["geometry"]), points).any())


def test_a_real_server_finds_what_brute_force_finds() -> None:
    with rustac_server(collection(), ITEMS) as url:
        scenes, report = find_scenes(PLACES, open_catalog(url, "sentinel-2-l2a"), SEARCH)
    assert scenes["item_id"].tolist() == brute_force()
    assert report.requests_per_1000_places == pytest.approx(1000 * report.num_requests / len(PLACES))


@pytest.mark.postgres
@pytest.mark.parametrize("area", ["places", "box"])
def test_the_server_of_the_planetary_computer_finds_it_too(pgstac: PgstacServer, area: str) -> None:
    pgstac.load(collection(), ITEMS)
    catalog = open_catalog(pgstac.url, "sentinel-2-l2a")
    config = SearchConfig(**(SEARCH.model_dump() | {"search_area": area, "page_size": 5}))
    scenes, _ = find_scenes(PLACES, catalog, config)
    assert scenes["item_id"].tolist() == brute_force()
