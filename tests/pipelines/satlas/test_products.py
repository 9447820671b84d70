"""Products of a small world: dated, revised, versioned, the same bytes twice, and nothing where nobody looked."""

import contextlib
import io
import json
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import geopandas
import numpy as np
import pytest
import shapely

from pipelines.errors import ArtefactError
from pipelines.satlas import month_objects
from pipelines.satlas.pending import clear_pending, mark_pending
from pipelines.satlas.predictions import (
    TileGrid,
    TilePredictions,
    prediction_folder,
    remove_predictions,
    write_predictions,
)
from pipelines.satlas.product_config import ProductConfig
from pipelines.satlas.products import ProductRun, build_products
from pipelines.satlas.vector_files import publishable, validate_product
from pipelines.satlas.versions import products_folder, read_version, version_folders

MONTHS = [f"2022-{month:02d}" for month in range(1, 9)]
CONFIG = ProductConfig()
WEST, NORTH, SIDE = 500_000.0, 5_000_000.0, 100
GRID = TileGrid(32631, WEST, NORTH, 10.0, SIDE, SIDE)


def write_turbines(
    root: Path,
    month: str,
    places_px: Sequence[tuple[float, float]],
    *,
    clouded: bool = False,
    tile: str = "a",
    parents: Mapping[str, object] | None = None,
) -> None:
    """A tile of one square kilometer whose right half is clouded over."""
    observed = np.full((2, 2), 3, dtype=np.uint8)
    observed[:, 1] = 0 if clouded else 3
    geometry = [shapely.Point(WEST + 10 * column, NORTH - 10 * row) for row, column in places_px]
    values = {"category": ["wind_turbine"] * len(geometry), "score": [0.75] * len(geometry)}
    objects = geopandas.GeoDataFrame(values, geometry=geometry, crs="EPSG:32631")
    write_predictions(
        root, TilePredictions("wind_turbine", month, tile, GRID, observed, objects, parents=parents or {})
    )


def write_farm(root: Path, month: str, sides_px: Mapping[float, float]) -> None:
    boxes = [shapely.box(WEST + x, NORTH - 500, WEST + x + side, NORTH - 500 + side) for x, side in sides_px.items()]
    values = {"category": ["solar_farm"] * len(boxes), "score": [0.9] * len(boxes)}
    objects = geopandas.GeoDataFrame(values, geometry=boxes, crs="EPSG:32631")
    observed = np.ones((1, 1), dtype=np.uint8)
    write_predictions(root, TilePredictions("solar_farm", month, "a", GRID, observed, objects))


def build(root: Path, months: Sequence[str], task: str = "wind_turbine") -> ProductRun:
    for month in months:
        run = build_products(root, task, month, CONFIG)
    return run


def features(root: Path, name: str, task: str = "wind_turbine") -> list[dict[str, object]]:
    document = json.loads((products_folder(root, task) / name / f"{task}.geojson").read_text())
    return [{**each["properties"], "geometry": each["geometry"]} for each in document["features"]]


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


STAYING, BUILT, GONE, FALSE, CLOUDED = (20.0, 20.0), (60.0, 20.0), (20.0, 45.0), (80.0, 45.0), (50.0, 80.0)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight months: one turbine stays, one is built in May, one goes after March, one is false, one is clouded over."""
    root = tmp_path_factory.mktemp("world")
    for number, month in enumerate(MONTHS, 1):
        places = [STAYING, CLOUDED]
        places += [BUILT] if number >= 5 else []
        places += [GONE] if number <= 3 else []
        places += [FALSE] if number == 4 else []
        write_turbines(root, month, places, clouded=number == 6)
    build(root, [MONTHS[-1]])
    return root


def test_construction_and_removal_are_dated_and_a_single_false_detection_goes(world: Path) -> None:
    stays = {tuple(each["geometry"]["coordinates"]): each for each in features(world, "history")}  # type: ignore[index]
    assert len(stays) == 4
    by_dates = {(each["first_month"], each["last_month"]): each for each in stays.values()}
    assert ("2022-05", "2022-08") in by_dates
    assert by_dates["2022-05", "2022-08"]["start_known"]
    assert not by_dates["2022-05", "2022-08"]["end_known"]
    assert by_dates["2022-01", "2022-03"]["end_known"]
    assert not by_dates["2022-01", "2022-03"]["start_known"]


def test_nothing_is_reported_where_there_was_no_image_though_the_model_says_so(world: Path) -> None:
    counts = {month: len(features(world, month)) for month in MONTHS}
    assert counts == {**dict.fromkeys(MONTHS[:3], 3), "2022-04": 2, **dict.fromkeys(MONTHS[4:], 3), "2022-06": 2}
    record = read_version(version_folders(world, "wind_turbine", "2022-06")[-1])
    assert record["rejected"] == {"no image there": 1}
    # It is found again under the same name when the cloud has gone.
    ids = [{each["object_id"] for each in features(world, month)} for month in ("2022-05", "2022-06", "2022-07")]
    assert ids[0] == ids[2] > ids[1]


def test_every_format_holds_the_same_objects(world: Path) -> None:
    folder = products_folder(world, "wind_turbine") / "2022-07"
    expected = sorted(each["object_id"] for each in features(world, "2022-07"))  # type: ignore[type-var]
    parquet = geopandas.read_parquet(folder / "wind_turbine.parquet")
    assert sorted(parquet["object_id"]) == expected
    assert parquet.crs.to_epsg() == 4326
    assert sorted(geopandas.read_file(folder / "wind_turbine.kml")["Name"]) == expected
    with zipfile.ZipFile(folder / "wind_turbine.shp.zip") as archive:
        assert {Path(name).suffix for name in archive.namelist()} >= {".shp", ".shx", ".dbf", ".prj"}
    shapefile = geopandas.read_file(f"zip://{folder / 'wind_turbine.shp.zip'}")
    assert sorted(shapefile["object_id"]) == expected
    assert shapefile["first_mon"].tolist() == parquet["first_month"].tolist()
    assert shapefile.geometry.geom_equals_exact(parquet.geometry, 1e-7).all()
    assert set(parquet.columns) >= {"category", "score", "first_month", "last_month", "detected"}


def test_a_second_run_and_any_order_of_months_give_the_same_bytes(world: Path, tmp_path: Path) -> None:
    folder = products_folder(world, "wind_turbine")
    before = files_of(folder)
    run = build(world, ["2022-03", "2022-08"])
    assert files_of(folder) == before
    assert run.revised == []
    assert not any(each.is_new for each in run.published)
    other = tmp_path / "other"
    for some in (("2022-07", "2022-02"), MONTHS):
        for month in some:
            target = prediction_folder(other, "wind_turbine", month, "a")
            target.parent.mkdir(parents=True, exist_ok=True)
            if not target.exists():
                target.symlink_to(prediction_folder(world, "wind_turbine", month, "a"))
        build(other, ["2022-07"])
    for name in (*MONTHS, "history", "latest"):
        for path in sorted((folder / name).glob("*.*")):
            assert (products_folder(other, "wind_turbine") / name / path.name).read_bytes() == path.read_bytes(), path


def test_a_revised_month_gets_a_version_and_keeps_the_one_before(tmp_path: Path) -> None:
    for month in MONTHS[:3]:
        write_turbines(tmp_path, month, [STAYING])
    write_turbines(tmp_path, MONTHS[3], [STAYING, FALSE])
    run = build(tmp_path, [MONTHS[3]])
    assert [len(features(tmp_path, each)) for each in MONTHS[:4]] == [1, 1, 1, 2]
    first = read_version(version_folders(tmp_path, "wind_turbine", MONTHS[3])[0])
    assert run.revised == []
    for month in MONTHS[4:6]:
        write_turbines(tmp_path, month, [STAYING])
    run = build(tmp_path, [MONTHS[5]])
    assert run.revised == [MONTHS[3], "history"]
    versions = version_folders(tmp_path, "wind_turbine", MONTHS[3])
    assert [path.name for path in versions] == ["0001", "0002"]
    assert read_version(versions[1])["supersedes"] == first["content_sha256"]
    assert read_version(versions[0]) == first
    assert len(json.loads((versions[0] / "wind_turbine.geojson").read_text())["features"]) == 2
    assert len(features(tmp_path, MONTHS[3])) == 1
    assert run.latest == MONTHS[5]
    latest = products_folder(tmp_path, "wind_turbine") / "latest" / "wind_turbine.parquet"
    assert latest.samefile(products_folder(tmp_path, "wind_turbine") / MONTHS[5] / "wind_turbine.parquet")


def test_a_month_under_way_takes_no_part_and_stays_as_it_was_published(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for root in (tmp_path / "under_way", tmp_path / "without"):
        for month in MONTHS[:4]:
            write_turbines(root, month, [STAYING])
        build(root, [MONTHS[0]])
    folder = products_folder(tmp_path / "under_way", "wind_turbine")
    published = files_of(folder / MONTHS[1])
    mark_pending(tmp_path / "under_way", "wind_turbine", MONTHS[1], ["a"])
    remove_predictions(tmp_path / "without", "wind_turbine", MONTHS[1], "a")
    for root in (tmp_path / "under_way", tmp_path / "without"):
        write_turbines(root, MONTHS[3], [STAYING, BUILT])
        assert build(root, [MONTHS[3]]).revised == [MONTHS[3], "history"]
    assert "wind_turbine 2022-02 takes no part" in caplog.text
    assert files_of(folder / MONTHS[1]) == published
    assert features(tmp_path / "under_way", "history") == features(tmp_path / "without", "history")
    clear_pending(tmp_path / "under_way", "wind_turbine", MONTHS[1], "a")
    build(tmp_path / "under_way", [MONTHS[1]])
    assert files_of(folder / MONTHS[1]) == published


def test_a_publication_that_was_interrupted_is_completed(tmp_path: Path) -> None:
    write_turbines(tmp_path, MONTHS[0], [STAYING])
    build(tmp_path, MONTHS[:1])
    folder = products_folder(tmp_path, "wind_turbine")
    whole = files_of(folder)
    (folder / MONTHS[0] / "wind_turbine.kml").unlink()
    (folder / "latest" / "wind_turbine.geojson").write_text("{}")
    (folder / MONTHS[0] / "versions" / ".left").mkdir()
    (folder / MONTHS[0] / "versions" / "0002").mkdir()
    build(tmp_path, MONTHS[:1])
    assert files_of(folder) == whole


def test_killed_anywhere_the_next_run_gives_what_an_undisturbed_one_gives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for root in (tmp_path / "calm", tmp_path / "killed"):
        write_turbines(root, MONTHS[0], [STAYING])
        write_turbines(root, MONTHS[1], [STAYING, BUILT])
    build(tmp_path / "calm", MONTHS[1:2])
    expected = files_of(products_folder(tmp_path / "calm", "wind_turbine"))
    real = {name: getattr(Path, name) for name in ("replace", "rename", "unlink")}
    steps = 0

    def dying(name: str, at: int) -> Callable[..., object]:
        def step(*arguments: object, **options: object) -> object:
            nonlocal steps
            steps += 1
            if steps == at:
                raise KeyboardInterrupt
            return real[name](*arguments, **options)

        return step

    # One after another in the same workspace: each finds what the one before left.
    for at in (1, 3, 4, 9, 14, 22, 31):
        steps = 0
        with monkeypatch.context() as patch, contextlib.suppress(KeyboardInterrupt):
            for name in real:
                patch.setattr(Path, name, dying(name, at))
            build(tmp_path / "killed", MONTHS[1:2])
    build(tmp_path / "killed", MONTHS[1:2])
    assert files_of(products_folder(tmp_path / "killed", "wind_turbine")) == expected


def test_a_broken_tile_is_named_and_the_others_go_on(tmp_path: Path) -> None:
    write_turbines(tmp_path, MONTHS[0], [STAYING], tile="a")
    write_turbines(tmp_path, MONTHS[0], [BUILT], tile="b")
    (prediction_folder(tmp_path, "wind_turbine", MONTHS[0], "b") / "observed.tif").write_bytes(b"")
    run = build(tmp_path, MONTHS[:1])
    assert "changed since it was recorded" in run.failures["b"]
    assert len(features(tmp_path, MONTHS[0])) == 1
    (prediction_folder(tmp_path, "wind_turbine", MONTHS[0], "a") / "observed.tif").unlink()
    with pytest.raises(ArtefactError, match="no predictions of wind_turbine in 2022-01"):
        build(tmp_path, MONTHS[:1])
    assert len(features(tmp_path, MONTHS[0])) == 1


@pytest.mark.parametrize(
    ("of_training", "of_settings", "published"),
    [({}, None, 1), ({"wind_turbine": 0.8}, None, 0), ({"wind_turbine": 0.7}, None, 1), ({"other": 0.8}, None, 1),
     ({"wind_turbine": 0.8}, 0.5, 1), ({"wind_turbine": 0.6}, 0.8, 0)],
)  # fmt: skip
def test_points_are_published_from_the_score_of_their_training(
    of_training: dict[str, float], of_settings: float | None, published: int, tmp_path: Path
) -> None:
    """Those written here have 0.75."""
    write_turbines(tmp_path, MONTHS[0], [STAYING], parents={"score_thresholds": of_training})
    config = ProductConfig(min_score=of_settings)
    assert len(month_objects.read_month(tmp_path, "wind_turbine", MONTHS[0], config).objects) == published


def test_a_month_is_merged_again_only_where_its_tiles_or_settings_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    real = month_objects.read_predictions
    monkeypatch.setattr(
        month_objects, "read_predictions", lambda folder: (read.append(folder.parent.name), real(folder))[1]
    )
    for month in MONTHS[:3]:
        write_turbines(tmp_path, month, [STAYING])
    build(tmp_path, MONTHS[2:3])
    assert read == MONTHS[:3]
    write_turbines(tmp_path, MONTHS[1], [STAYING, BUILT])
    first = month_objects.read_month(tmp_path, "wind_turbine", MONTHS[1], CONFIG)
    kept = month_objects.read_month(tmp_path, "wind_turbine", MONTHS[1], CONFIG)
    assert read == [*MONTHS[:3], MONTHS[1]]
    assert kept.objects.equals(first.objects)
    assert (kept.tiles, kept.rejected, kept.radiometry) == (first.tiles, first.rejected, first.radiometry)
    month_objects.read_month(tmp_path, "wind_turbine", MONTHS[1], CONFIG.model_copy(update={"min_score": 0.9}))
    month_objects.read_month(tmp_path, "wind_turbine", MONTHS[0], CONFIG.model_copy(update={"track_distance_m": 90}))
    assert read == [*MONTHS[:3], MONTHS[1], MONTHS[1]]


def test_farms_that_grow_together_are_one_object_and_small_ones_are_left_out(tmp_path: Path) -> None:
    write_farm(tmp_path, MONTHS[0], {100: 100, 220: 100, 600: 20})
    write_farm(tmp_path, MONTHS[1], {100: 230, 600: 20})
    build(tmp_path, MONTHS[1:2], "solar_farm")
    first, second = features(tmp_path, MONTHS[0], "solar_farm"), features(tmp_path, MONTHS[1], "solar_farm")
    assert len(first) == len(second) == 1
    assert first[0]["object_id"] == second[0]["object_id"]
    assert first[0]["geometry"]["type"] == "MultiPolygon"  # type: ignore[index]
    assert second[0]["geometry"]["type"] == "Polygon"  # type: ignore[index]
    archive = (products_folder(tmp_path, "solar_farm") / MONTHS[0] / "solar_farm.shp.zip").read_bytes()
    assert {Path(name).stem for name in zipfile.ZipFile(io.BytesIO(archive)).namelist()} == {"solar_farm"}
    assert len(geopandas.read_file(products_folder(tmp_path, "solar_farm") / MONTHS[0] / "solar_farm.kml")) == 1


def test_a_month_without_objects_is_published_empty(tmp_path: Path) -> None:
    write_turbines(tmp_path, MONTHS[0], [])
    run = build(tmp_path, MONTHS[:1])
    assert run.num_objects == {MONTHS[0]: 0, "history": 0}
    assert features(tmp_path, MONTHS[0]) == []
    assert len(geopandas.read_parquet(products_folder(tmp_path, "wind_turbine") / "latest/wind_turbine.parquet")) == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"category": None}, "category not one of wind_turbine"),
        ({"score": np.nan}, "score missing"),
        ({"geometry": shapely.Point()}, "empty"),
        ({"geometry": shapely.Polygon([(0, 0), (1, 1), (1, 0), (0, 1)])}, "geometry invalid"),
        ({"geometry": shapely.Point(181, 0)}, "beyond 180"),
        ({"last_month": "2021-01"}, "before the first"),
    ],
)
def test_the_schema_is_checked(change: dict[str, object], message: str) -> None:
    row = {"object_id": "x1", "category": "wind_turbine", "score": 0.5, "geometry": shapely.Point(1, 2)}
    row |= {"first_month": "2022-01", "last_month": "2022-01"}
    good = geopandas.GeoDataFrame([row], crs="EPSG:4326")
    validate_product(publishable(good), ["wind_turbine"], "good")
    with pytest.raises(ArtefactError, match=message):
        validate_product(geopandas.GeoDataFrame([row | change], crs="EPSG:4326"), ["wind_turbine"], "bad")
    with pytest.raises(ArtefactError, match="columns score missing"):
        validate_product(good.drop(columns="score"), ["wind_turbine"], "bad")
    with pytest.raises(ArtefactError, match="twice"):
        validate_product(geopandas.GeoDataFrame([row, row], crs="EPSG:4326"), ["wind_turbine"], "bad")
