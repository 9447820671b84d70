"""A run of windows to products that is killed at random, again and again, leaves the products of one left alone."""

import multiprocessing
import random
import signal
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import pytest
import torch

from pipelines.errors import ArtefactError
from pipelines.provenance import file_sha256
from pipelines.satlas.images import TileImage
from pipelines.satlas.index import build_index
from pipelines.satlas.inference_config import InferenceConfig
from pipelines.satlas.mosaics import periods_of_month
from pipelines.satlas.prediction_stage import predict_windows
from pipelines.satlas.predictions import TileGrid, list_predictions, read_predictions, write_predictions
from pipelines.satlas.product_config import ProductConfig
from pipelines.satlas.products import build_products
from pipelines.satlas.versions import HISTORY
from pipelines.satlas.windows import PeriodImages, write_windows
from satclip_model.satlas import SatlasConfig, build_satlas
from satclip_model.satlas.config import SegmentationConfig

MONTHS = ("2022-05", "2022-06")
TASK = "solar_farm"
SIZE_PX = 64
MODEL = SatlasConfig(
    backbone="resnet18", num_images=2, pyramid_dim=8, heads=(SegmentationConfig(categories=("solar_farm",)),)
)
INFERENCE = InferenceConfig(window_px=64, overlap_px=16, batch_size=2, threshold=0.4, min_area_px=1)
MOST_KILLS = 12
NUM_TILES = 4


def _write_windows(root: Path) -> None:
    rng = np.random.default_rng(0)
    everywhere = np.ones((SIZE_PX, SIZE_PX), dtype=np.bool_)
    for month in MONTHS:
        for number in range(NUM_TILES):
            grid = TileGrid(32632, 500_000.0 + 640 * number, 5_300_000.0, 10.0, SIZE_PX, SIZE_PX)
            newest, older = periods_of_month(month, 2, 30)
            images = [TileImage(rng.integers(1, 256, (9, SIZE_PX, SIZE_PX), dtype=np.uint8), everywhere) for _ in "ab"]
            entries = [PeriodImages(newest, images[0], []), PeriodImages(older, images[1], [])]
            if number == NUM_TILES - 1:
                entries = [PeriodImages(each, None, [], "nothing there") for each in (newest, older)]
            write_windows(root, month, f"tile_{number}", grid, entries, {}, margin_px=0)


def _work(root: Path) -> None:
    """What a month's run does after its windows, for both months."""
    torch.set_num_threads(1)
    model = build_satlas(MODEL, seed=3).eval()
    for month in MONTHS:
        run = predict_windows(root, model, TASK, month, weights_sha256="0" * 64, config=INFERENCE)
        assert not run.failures
        build_products(root, TASK, month, ProductConfig(min_score=0.0, min_area_m2=0.0))
    build_index(root)


def _content(root: Path) -> dict[str, object]:
    """Hashes of every file of products, but for records and the index, which hold times; predictions by what they say.

    How a UTM zone is described in a prediction's file depends on which library's database a process opened first.
    """
    found: dict[str, object] = {
        path.relative_to(root).as_posix(): file_sha256(path)
        for path in sorted((root / "satlas" / "products").rglob("*"))
        if path.is_file() and path.suffix not in (".json", ".txt", ".lock", ".zip")
    }
    for month in MONTHS:
        for folder in list_predictions(root, TASK, month):
            said = read_predictions(folder)
            assert said.objects is not None
            outlines = said.objects.geometry.to_wkb(hex=True).tolist()
            found[f"{month}/{folder.name}"] = (outlines, said.objects["score"].tolist(), said.observed.tolist())
    return found


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, object], str]:
    root = tmp_path_factory.mktemp("undisturbed")
    _write_windows(root)
    _work(root)
    return root, _content(root), build_index(root).content_sha256


def test_a_run_killed_at_random_leaves_the_same_products(
    undisturbed: tuple[Path, dict[str, object], str], tmp_path: Path
) -> None:
    root, expected, index = undisturbed
    assert len(expected) > 20
    _write_windows(tmp_path)
    rng = random.Random(5)
    kills = 0
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", "geopandas", "pipelines.satlas.prediction_stage", __name__])
    for attempt in range(MOST_KILLS):
        process = context.Process(target=_work, args=(tmp_path,))
        process.start()
        process.join(0.3 + 0.6 * attempt * rng.random())
        if process.is_alive():
            process.kill()
            process.join()
            kills += 1
        elif process.exitcode == 0:
            break
    assert process.exitcode in (0, -signal.SIGKILL)
    _work(tmp_path)
    assert kills >= 2
    assert _content(tmp_path) == expected
    assert build_index(tmp_path).content_sha256 == index
    assert _versions(tmp_path) == _versions(root)


@pytest.mark.parametrize("num_made", [0, 1, NUM_TILES - 1])
def test_a_month_that_is_not_whole_is_not_published(
    undisturbed: tuple[Path, dict[str, object], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, num_made: int
) -> None:
    """Whoever publishes another month, or this one, meanwhile."""

    def interrupted(*args: object) -> Path:
        if len(list_predictions(tmp_path, TASK, MONTHS[1])) == num_made:
            raise KeyboardInterrupt
        return write_predictions(*args)

    _write_windows(tmp_path)
    model = build_satlas(MODEL, seed=3).eval()
    config = ProductConfig(min_score=0.0, min_area_m2=0.0)
    predict_windows(tmp_path, model, TASK, MONTHS[0], weights_sha256="0" * 64, config=INFERENCE)
    with monkeypatch.context() as patch:
        patch.setattr("pipelines.satlas.prediction_stage.write_predictions", interrupted)
        with pytest.raises(KeyboardInterrupt):
            predict_windows(tmp_path, model, TASK, MONTHS[1], weights_sha256="0" * 64, config=INFERENCE)
    assert len(list_predictions(tmp_path, TASK, MONTHS[1])) == num_made
    with pytest.raises(ArtefactError, match=f"{MONTHS[1]} are unfinished, {NUM_TILES - num_made} tiles are pending"):
        build_products(tmp_path, TASK, MONTHS[1], config)
    run = build_products(tmp_path, TASK, MONTHS[0], config)
    assert [(each.name, each.version) for each in run.published] == [(MONTHS[0], 1), (HISTORY, 1)]
    _work(tmp_path)
    root, expected, index = undisturbed
    assert _content(tmp_path) == expected
    assert build_index(tmp_path).content_sha256 == index
    assert _versions(tmp_path) == _versions(root)


def _versions(root: Path) -> list[str]:
    products = root / "satlas" / "products"
    return sorted(path.parent.relative_to(products).as_posix() for path in products.rglob("record.json"))


def test_a_second_run_changes_nothing(undisturbed: tuple[Path, dict[str, object], str]) -> None:
    root, expected, index = undisturbed
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*") if path.is_file() and path.suffix == ".parquet"}
    _work(root)
    assert _content(root) == expected
    assert build_index(root).content_sha256 == index
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_a_tile_without_images_is_observed_nowhere_and_has_no_object(
    undisturbed: tuple[Path, dict[str, object], str],
) -> None:
    root, _, _ = undisturbed
    folders = {folder.name: folder for folder in list_predictions(root, TASK, MONTHS[0])}
    blind, seeing = read_predictions(folders[f"tile_{NUM_TILES - 1}"]), read_predictions(folders["tile_0"])
    assert blind.observed.max() == 0
    assert blind.objects is not None
    assert len(blind.objects) == 0
    assert blind.missing_periods == blind.periods
    assert seeing.observed.min() == 2
    first = date(2022, 5, 31) - timedelta(days=29)
    assert seeing.periods == (first.isoformat(), (first - timedelta(days=30)).isoformat())
    assert seeing.missing_periods == ()
