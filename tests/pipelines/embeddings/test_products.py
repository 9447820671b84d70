import json
import signal
import subprocess
import sys
from itertools import count

import numpy as np
import pytest
import rasterio
import rioxarray  # noqa: F401
import torch
import xarray as xr
import zarr

from pipelines.cli import main
from pipelines.embeddings import products as module
from pipelines.embeddings.coverage import COVERAGE_NAME, read_products, verify_products
from pipelines.embeddings.derived import write_component_picture, write_int8_grid
from pipelines.embeddings.export import read_embeddings
from pipelines.embeddings.grid import GlobalGrid
from pipelines.embeddings.grid_streaming import embed_grid
from pipelines.embeddings.products import GridProducts, PointTable, build_embeddings, grid_path
from pipelines.embeddings.streaming import EmbeddingOptions
from pipelines.errors import ArtefactError, TableError
from pipelines.evaluation.tasks import TaskConfig
from pipelines.sampling.land import is_land
from pipelines.training.checkpoints import TrainedModel
from satclip_model.config import LocationEncoderConfig, SirenConfig, SphericalHarmonicsConfig
from satclip_model.location_encoder import build_location_encoder

DIM = 6
ALL = ("parquet", "zarr", "int8", "cog")


@pytest.fixture(scope="module")
def encoder():
    config = LocationEncoderConfig(
        positional_encoding=SphericalHarmonicsConfig(num_degrees=5),
        network=SirenConfig(hidden_dim=8),
        embedding_dim=DIM,
    )
    return build_location_encoder(config, seed=3).to(torch.float64)


@pytest.fixture(scope="module")
def land(encoder, tmp_path_factory):
    path = tmp_path_factory.mktemp("grid") / "land.zarr"
    provenance = {"checkpoint_sha256": "ab", "dataset_version": "v1"}
    embed_grid(encoder, GlobalGrid(10), path, EmbeddingOptions(normalize=True), provenance, land_only=True)
    return path


@pytest.fixture
def run(monkeypatch, encoder, tmp_path):
    monkeypatch.setattr(module, "open_encoder", lambda run: encoder)
    record = {"checkpoint_sha256": "ab", "dataset_version": "v1", "config_sha256": "cd"}
    return TrainedModel("first", tmp_path / "c", tmp_path / "h", record)


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("lon,lat,y\n-180,10,1\n180,10,2\n0,90,3\n77,90,4\n0,-90,5\n0.1,0.30000000000000004,6\n")
    return PointTable("t", str(path))


def test_xarray_opens_the_grid_with_its_place_on_earth(land):
    with xr.open_zarr(land) as dataset:
        values = dataset["location_embedding"]
        assert values.shape == (18, 36, DIM)
        assert dataset["lon"].attrs["standard_name"] == "longitude"
        assert values.attrs["units"] == "1"
        assert dataset["spatial_ref"].attrs["crs_wkt"].startswith("GEOGCRS")
        assert values.rio.crs.to_epsg() == 4326
        assert dataset.attrs["proj:code"] == "EPSG:4326"
        assert dataset.attrs["spatial:bbox"] == [-180, -90, 180, 90]
        assert dataset.attrs["spatial:transform"] == [10, 0, -180, 0, -10, 90]
        assert dataset.attrs["spatial:shape"] == [18, 36]
        np.testing.assert_array_equal(dataset["present"] == 1, ~np.isnan(values).any("embedding"))
        expected = is_land(GlobalGrid(10).lonlat_deg()).reshape(18, 36)
        np.testing.assert_array_equal(dataset["present"] == 1, expected)
        assert (dataset["present"][-1] == 1).all()
        assert not (dataset["present"][0] == 1).any()


def test_a_shard_holds_whole_rows_in_small_chunks(encoder, tmp_path):
    path = tmp_path / "full.zarr"
    embed_grid(encoder, GlobalGrid(2), path, EmbeddingOptions(batch_size=180 * 19), {})
    array = zarr.open_group(path, mode="r")["location_embedding"]
    assert array.chunks == (8, 32, DIM)
    assert array.shards == (16, 192, DIM)
    expected = encoder.encode_grid(GlobalGrid(2).lon_deg, GlobalGrid(2).lat_deg).astype(np.float32)
    np.testing.assert_array_equal(array[:], expected)


def test_eight_bits_are_within_half_a_scale_and_say_so(land, tmp_path):
    path = tmp_path / "int8.zarr"
    error = write_int8_grid(land, path)
    with xr.open_zarr(path) as dataset, xr.open_zarr(land) as exact:
        restored = (dataset["location_embedding"] * dataset["scale"]).to_numpy().astype(np.float64)
        difference = np.abs(restored - exact["location_embedding"].to_numpy())
        absent = np.isnan(exact["location_embedding"].to_numpy())
        np.testing.assert_array_equal(np.isnan(restored), absent)
        assert (difference[~absent.any(-1)] <= dataset["scale"].to_numpy() / 2 * (1 + 1e-4)).all()
        assert error.max_error == pytest.approx(np.nanmax(difference), rel=1e-4)
        assert error.rms_error == pytest.approx(np.sqrt(np.nanmean(difference**2)), rel=1e-4)
        assert error.max_error_in_scales <= 0.5 + 1e-4
        assert 0 < error.max_cosine_distance < 1e-3
        assert dataset.attrs["satclip_provenance"]["quantization_error"] == vars(error)
        assert dataset.attrs["satclip_provenance"]["checkpoint_sha256"] == "ab"
    raw = zarr.open_group(path, mode="r")["location_embedding"]
    assert raw.dtype == np.int8
    assert raw.fill_value == -128


def test_the_picture_lies_where_the_grid_does(land, tmp_path):
    path = tmp_path / "components.tif"
    write_component_picture(land, path)
    with rasterio.open(path) as picture, xr.open_zarr(land) as grid:
        assert picture.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
        assert picture.crs.to_epsg() == 4326
        assert tuple(picture.bounds) == (-180, -90, 180, 90)
        assert picture.dtypes == ("uint8",) * 4
        np.testing.assert_array_equal(picture.read(4) == 255, grid["present"] == 1)
        components = np.array(json.loads(picture.tags()["components"]))
        np.testing.assert_allclose(components @ components.T, np.eye(3), atol=1e-9)
        low, high = (np.array(json.loads(picture.tags()[f"stretch_{end}"])) for end in ("low", "high"))
        present = grid["present"].to_numpy() == 1
        cells = grid["location_embedding"].to_numpy()[present].astype(np.float64)
        np.testing.assert_allclose(json.loads(picture.tags()["mean"]), cells.mean(axis=0), atol=1e-9)
        scores = (cells - cells.mean(axis=0)) @ components.T
        expected = 255 * np.clip((scores - low) / (high - low), 0, 1)
        np.testing.assert_allclose(picture.read()[:3, present].T, expected, atol=0.51)


def test_a_large_picture_has_overviews(encoder, tmp_path):
    grid = tmp_path / "full.zarr"
    embed_grid(encoder, GlobalGrid(0.5), grid, EmbeddingOptions(normalize=True), {})
    write_component_picture(grid, tmp_path / "c.tif")
    with rasterio.open(tmp_path / "c.tif") as picture:
        assert picture.overviews(1) == [2, 4]


def test_the_antimeridian_and_the_poles_are_one_place_each(run, table, tmp_path):
    build_embeddings(tmp_path, run, GridProducts(30), [table], None)
    found = read_embeddings(tmp_path / "embeddings" / "t.parquet", "ab").embeddings
    np.testing.assert_allclose(found[0], found[1], atol=1e-6)
    np.testing.assert_allclose(found[2], found[3], atol=1e-6)


def test_products_are_recorded_and_verified(run, table, tmp_path, capsys):
    gone = TaskConfig(name="gone", table="gone.csv", target="y", kind="regression")
    built = build_embeddings(tmp_path, run, GridProducts(10, formats=ALL), [table], str(tmp_path), [gone])
    folder = tmp_path / "embeddings"
    assert built.skipped == ["gone"]
    assert {path.name for path in folder.iterdir()} == {COVERAGE_NAME, *(each.path for each in built.products)}
    assert verify_products(folder) == read_products(folder) == built.products
    assert built.products[0].bounds_deg == (-180, -60, 180, 80)
    assert sum(built.products[0].cells_per_row) == built.counts["land_grid"] == built.products[0].num_points
    assert built.products[-1].bounds_deg == (-180, -90, 180, 90)
    assert all(each.provenance["checkpoint_sha256"] == "ab" for each in built.products)
    assert all(each.provenance["dataset_version"] == "v1" for each in built.products)
    assert all("torch" in each.provenance["package_versions"] for each in built.products)
    assert main(["embed", "--verify", str(folder)]) == 0
    (folder / "t.parquet").unlink()
    next(path for path in grid_path(tmp_path, "int8").rglob("c/*/*/*")).write_bytes(b"")
    with pytest.raises(ArtefactError, match=r"land_grid_int8.zarr has SHA-256 .*; t.parquet is missing"):
        verify_products(folder)
    assert main(["embed", "--verify", str(folder)]) != 0
    assert "t.parquet is missing" in capsys.readouterr().err


@pytest.mark.parametrize("failing", range(5))
def test_a_build_that_stops_vouches_for_nothing(run, table, tmp_path, monkeypatch, failing):
    build_embeddings(tmp_path, run, GridProducts(30), [table], None)
    calls = count()

    def stop_or(function):
        def call(*arguments, **named):
            if next(calls) == failing:
                raise KeyboardInterrupt
            return function(*arguments, **named)

        return call

    for name in ("embed_grid", "write_int8_grid", "write_component_picture", "embed_table"):
        monkeypatch.setattr(module, name, stop_or(getattr(module, name)))
    with pytest.raises(KeyboardInterrupt):
        build_embeddings(tmp_path, run, GridProducts(30, formats=ALL), [table], None)
    with pytest.raises(ArtefactError, match="no product is known to be whole"):
        verify_products(tmp_path / "embeddings")


def test_a_killed_grid_leaves_no_product(tmp_path):
    out = tmp_path / "embeddings" / "grid.zarr"
    program = (
        "import os, signal, sys, numpy as np\n"
        "from pathlib import Path\n"
        "from pipelines.embeddings.embedding_grid import EmbeddingGridContent, writing_embedding_grid\n"
        "content = EmbeddingGridContent(np.array([-90.0, 90.0]), np.array([0.0]), 3, np.dtype('float32'), 1)\n"
        "with writing_embedding_grid(Path(sys.argv[1]), content, {}) as write:\n"
        "    write(np.zeros((1, 2, 3)))\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    stopped = subprocess.run([sys.executable, "-c", program, str(out)], check=False)
    assert stopped.returncode == -signal.SIGKILL
    assert not out.exists()
    with pytest.raises(ArtefactError, match="no product is known to be whole"):
        verify_products(out.parent)


def test_a_bad_table_stops_before_anything_is_written(run, tmp_path):
    (tmp_path / "bad.csv").write_text("lon,lat\n1,200\n")
    with pytest.raises(TableError, match="200"):
        build_embeddings(tmp_path, run, GridProducts(30), [PointTable("bad", str(tmp_path / "bad.csv"))], None)
    assert not (tmp_path / "embeddings").exists()


def test_a_named_column_is_not_replaced_by_the_geometry(run, table, tmp_path, capsys):
    build_embeddings(tmp_path, run, GridProducts(30), [table], None)
    points = tmp_path / "embeddings" / "t.parquet"
    arguments = ["embed", str(points), "--model", "m", "--out", str(tmp_path / "o.parquet"), "--lon-column", "X"]
    assert main(arguments) != 0
    assert "no column 'X'" in capsys.readouterr().err
