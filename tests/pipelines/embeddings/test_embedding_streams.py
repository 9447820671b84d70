import gzip
import io
import json
import re
import sys

import geopandas
import numpy as np
import onnxruntime
import pandas as pd
import pyarrow.parquet as pq
import pytest
import shapely
import torch
import xarray as xr

from pipelines.cli import main
from pipelines.embeddings.export import embedding_columns, read_embeddings, read_provenance
from pipelines.embeddings.grid import GlobalGrid, land_grid
from pipelines.embeddings.points import read_points
from pipelines.embeddings.table_stream import open_points
from pipelines.errors import TableError
from pipelines.provenance import file_sha256
from pipelines.sampling.land import is_land
from satclip_model.checkpoint.safetensors import write_safetensors
from satclip_model.config import LocationEncoderConfig, SirenConfig, SphericalHarmonicsConfig
from satclip_model.location_encoder import LocationEncoder, build_location_encoder

CSV = "name,lat,lon,count\nTromsø,69.65,18.96,3\nUshuaia,-54.8,-68.3,\nSuva,-18.14,178.44,12\n"
DIM = 6


@pytest.fixture(scope="module")
def encoder() -> LocationEncoder:
    config = LocationEncoderConfig(
        positional_encoding=SphericalHarmonicsConfig(num_degrees=5),
        network=SirenConfig(hidden_dim=8),
        embedding_dim=DIM,
    )
    return build_location_encoder(config, seed=3)


@pytest.fixture(scope="module")
def model(encoder, tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    write_safetensors(path, encoder)
    return path


@pytest.fixture
def places(tmp_path):
    path = tmp_path / "places.csv"
    path.write_text(CSV, encoding="utf-8")
    return path


def embed(model, *arguments):
    return main(["embed", "--model", str(model), *map(str, arguments)])


def write(tmp_path, text, name="table.csv"):
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return path


def random_table(number):
    rng = np.random.default_rng(1)
    lon_deg, lat_deg = rng.uniform(-180, 180, number), rng.uniform(-90, 90, number)
    return pd.DataFrame(
        {"lon": lon_deg, "id": np.arange(number) * 7, "lat": lat_deg, "place": [f"p{n}" for n in range(number)]}
    )


def test_a_table_gains_what_the_encoder_gives(tmp_path, model, encoder, places):
    out = tmp_path / "new" / "out.parquet"
    assert embed(model, places, "--out", out) == 0
    loaded = read_embeddings(out)
    np.testing.assert_array_equal(loaded.embeddings, encoder.encode(loaded.lonlat_deg))
    assert loaded.points["name"].tolist() == ["Tromsø", "Ushuaia", "Suva"]
    assert loaded.points["count"].fillna(-1).tolist() == [3, -1, 12]
    frame = geopandas.read_parquet(out)
    assert list(frame.columns) == ["lon", "lat", "name", "count", *embedding_columns(DIM), "geometry"]
    assert frame.crs.to_epsg() == 4326
    np.testing.assert_array_equal(np.column_stack([frame.geometry.x, frame.geometry.y]), loaded.lonlat_deg)
    assert [path.name for path in out.parent.iterdir()] == ["out.parquet"]


def test_the_file_says_what_made_it(tmp_path, model, encoder, places):
    out = tmp_path / "out.parquet"
    assert embed(model, places, "--out", out, "--dtype", "float64", "--store", "float16", "--normalize") == 0
    provenance = read_provenance(out)
    assert provenance["checkpoint_sha256"] == file_sha256(model)
    assert provenance["location_encoder"] == encoder.config.model_dump(mode="json")
    assert (provenance["computed_in"], provenance["stored_as"], provenance["unit_length"]) == (
        "float64",
        "float16",
        True,
    )
    assert provenance["num_points"] == 3
    assert "torch" in provenance["package_versions"]
    bbox = json.loads(pq.read_schema(out).metadata[b"geo"])["columns"]["geometry"]["bbox"]
    assert bbox == [-68.3, -54.8, 178.44, 69.65]


def test_computation_storage_and_length_are_as_asked(tmp_path, model, encoder, places):
    out = tmp_path / "out.parquet"
    assert embed(model, places, "--out", out, "--dtype", "float64", "--store", "float16", "--normalize") == 0
    assert pq.read_schema(out).field("emb_000").type == "halffloat"
    loaded = read_embeddings(out)
    expected = encoder.encode(loaded.lonlat_deg, dtype=torch.float64, normalize=True)
    np.testing.assert_array_equal(loaded.embeddings, expected.astype(np.float16).astype(np.float32))


@pytest.mark.parametrize("batch_size", [13, 250, 1000])
def test_batches_change_nothing_and_keep_the_order(tmp_path, model, encoder, batch_size):
    table = random_table(600)
    source, out = tmp_path / "points.csv", tmp_path / "out.parquet"
    table.to_csv(source, index=False)
    assert embed(model, source, "--out", out, "--batch-size", batch_size) == 0
    assert pq.ParquetFile(out).num_row_groups == -(-600 // batch_size)
    loaded = read_embeddings(out)
    pd.testing.assert_frame_equal(loaded.points[table.columns], table, check_dtype=False)
    np.testing.assert_allclose(loaded.embeddings, encoder.encode(table[["lon", "lat"]].to_numpy()), atol=1e-5)


def test_small_blocks_and_compressed_files_give_the_same_points(tmp_path, monkeypatch):
    monkeypatch.setattr("pipelines.embeddings.table_files.BLOCK_BYTES", 1000)
    monkeypatch.setattr("pipelines.embeddings.table_files.PARQUET_ROWS", 33)
    table = random_table(500)
    table.to_csv(tmp_path / "plain.csv", index=False)
    table.to_csv(tmp_path / "semicolon.csv", index=False, sep=";")
    (tmp_path / "packed.dat").write_bytes(gzip.compress((tmp_path / "plain.csv").read_bytes()))
    table.to_parquet(tmp_path / "table.parquet")
    for path in sorted(tmp_path.iterdir()):
        if path.is_file():
            with open_points(str(path)) as points:
                read = [(lonlat_deg, others.to_pandas()) for lonlat_deg, others in points.batches(128)]
            assert [len(lonlat_deg) for lonlat_deg, _ in read] == [128, 128, 128, 116]
            np.testing.assert_array_equal(np.concatenate([each for each, _ in read]), table[["lon", "lat"]])
            others = pd.concat([others for _, others in read], ignore_index=True)
            pd.testing.assert_frame_equal(others, table[["id", "place"]], check_dtype=False)


def test_columns_of_text_find_their_type(tmp_path):
    text = "lon,lat,whole,part,code,long,mixed,none\n1,2, 5,0.5,007,9223372036854775807,1,\n3,4,-6,1e3,12,1,x,\n"
    with open_points(str(write(tmp_path, text))) as points:
        types = [str(field.type) for field in points.others]
        ((_, others),) = points.batches(10)
    assert types == ["int64", "double", "string", "string", "string", "int64"]
    assert others.column("whole").to_pylist() == [5, -6]
    assert others.column("code").to_pylist() == ["007", "12"]
    assert others.column("none").to_pylist() == [None, None]


def test_a_type_holds_for_all_blocks_of_a_file(tmp_path, monkeypatch):
    monkeypatch.setattr("pipelines.embeddings.table_files.BLOCK_BYTES", 200)
    rows = "".join(f"{n / 10},1,{n}\n" for n in range(100)) + "1,1,last\n"
    with open_points(str(write(tmp_path, "lon,lat,value\n" + rows))) as points:
        values = [value for _, others in points.batches(7) for value in others.column("value").to_pylist()]
    assert values == [*map(str, range(100)), "last"]


def test_the_geometry_of_geoparquet_is_brought_to_longitude_and_latitude(tmp_path):
    lonlat_deg = np.array([[18.96, 69.65], [9.0, 0.0]])
    geometry = geopandas.GeoSeries(shapely.points(lonlat_deg), crs="EPSG:4326")
    path = tmp_path / "utm.parquet"
    geopandas.GeoDataFrame({"value": [1, 2]}, geometry=geometry).to_crs("EPSG:32632").to_parquet(path)
    with open_points(str(path)) as points:
        ((read, others),) = points.batches(10)
    np.testing.assert_allclose(read, lonlat_deg, atol=1e-7)
    assert others.to_pydict() == {"value": [1, 2]}


def test_standard_input_is_embedded(tmp_path, model, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(CSV.encode())))
    out = tmp_path / "out.parquet"
    assert embed(model, "-", "--out", out) == 0
    assert read_embeddings(out).points["lat"].tolist() == [69.65, -54.8, -18.14]


@pytest.mark.parametrize(
    "text",
    [
        CSV,
        "lon,value\n7,36\n",
        "Lon,Lat,meanT\n7,36,18\n",
        "lon,lat\n1,2\n5,95\n100,-91.5\n",
        "lon,lat\n1,2\n200,5\n",
        "lon,lat\n50,120\n",
        "lon,lat\n50,120\n100,3\n",
        "lon,lat\n1,2\n3,\n,4\n",
        "lon,lat\n1,2\n3,nan\n5,6\n",
        "lon,lat\n1,2\n3,north\n5,6 N\n",
        "lon,lat\n1,inf\n",
        "lon,lat\n",
        "lon,lat\n" + "100,95\n" * 7,
    ],
)
def test_a_stream_follows_the_rules_of_a_table_in_memory(tmp_path, text):
    source = str(write(tmp_path, text))
    outcomes = []
    for read in (read_at_once, read_streamed):
        try:
            outcomes.append(read(source).tolist())
        except TableError as error:
            outcomes.append(str(error))
    assert outcomes[0] == outcomes[1]


def read_at_once(source):
    return read_points(source)[["lon", "lat"]].to_numpy()


def read_streamed(source):
    with open_points(source) as points:
        return np.concatenate([lonlat_deg for lonlat_deg, _ in points.batches(2)])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lon,lat\n1,2\n5,95\n", "column 'lat' is out of range: row 2 has 95.0 .*latitudes run from -90 to 90"),
        ("lon,lat\n50,120\n1,2\n", r"--lon-column lat --lat-column lon"),
        ("lon,lat\n1,2\n3,nan\n", "column 'lat' is empty in row 2 "),
        ("longitude,lat\n1,2\n", "no column 'lon'; found columns 'longitude', 'lat'.*--lon-column longitude"),
        ("lon,lat\n", "but no rows"),
        ("", "cannot be read as a table"),
        ("lon,lat\n1,2,3,4\n", "cannot be read as a table"),
        ("lon,lat,lat\n1,2,3\n", "used twice"),
        ("lon,lat,emb_003\n1,2,3\n", "already have a column emb_003"),
    ],
)
def test_a_bad_table_is_refused_and_leaves_nothing(tmp_path, model, capsys, text, message):
    source, folder = write(tmp_path, text), tmp_path / "out"
    assert embed(model, source, "--out", folder / "out.parquet") == 1
    assert re.search(message, capsys.readouterr().err)
    assert not folder.exists() or not list(folder.iterdir())


def test_a_bad_row_far_into_a_file_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("pipelines.embeddings.table_files.BLOCK_BYTES", 500)
    source = write(tmp_path, "lon,lat\n" + "1,2\n" * 3000 + "1,95\n" + "1,2\n" * 10 + "4,91\n")
    with pytest.raises(TableError, match=r"row 3001 has 95.0, row 3012 has 91.0 \(counted"), open_points(str(source)):
        pass


def test_a_number_too_large_to_store_is_refused_and_leaves_nothing(tmp_path, encoder, places, capsys):
    config = encoder.config
    large = LocationEncoder(config).eval()
    large.load_state_dict(encoder.state_dict())
    with torch.no_grad():
        large.location_network.last_layer.bias.fill_(1e6)
    path = tmp_path / "model" / "model.safetensors"
    write_safetensors(path, large)
    assert embed(path, places, "--out", tmp_path / "out.parquet", "--store", "float16") == 1
    assert "float16 ends at 65504; store float32, or normalize" in capsys.readouterr().err
    assert not list(tmp_path.glob("out.parquet*"))
    assert embed(path, places, "--out", tmp_path / "out.parquet", "--store", "float16", "--normalize") == 0


def test_a_grid_is_written_as_points(tmp_path, model, encoder):
    out = tmp_path / "grid.parquet"
    assert embed(model, "--grid", 15, "--out", out, "--lat-bounds", -60, 80, "--batch-size", 50) == 0
    grid = GlobalGrid(15, (-60.0, 80.0))
    loaded = read_embeddings(out)
    np.testing.assert_array_equal(loaded.lonlat_deg, grid.lonlat_deg())
    np.testing.assert_allclose(loaded.embeddings, encoder.encode(grid.lonlat_deg()), atol=1e-5)
    assert loaded.provenance["resolution_deg"] == 15


def test_land_only_keeps_the_cells_on_land(tmp_path, model, encoder):
    out = tmp_path / "grid.parquet"
    assert embed(model, "--grid", 10, "--out", out, "--land-only") == 0
    loaded = read_embeddings(out)
    np.testing.assert_array_equal(loaded.lonlat_deg, land_grid(10, is_land))
    np.testing.assert_allclose(loaded.embeddings, encoder.encode(loaded.lonlat_deg), atol=1e-5)


def test_a_grid_is_written_as_zarr_and_replaces_the_one_before(tmp_path, model, encoder):
    out = tmp_path / "grid.zarr"
    assert embed(model, "--grid", 30, "--out", out) == 0
    assert embed(model, "--grid", 10, "--out", out, "--land-only", "--store", "float16", "--batch-size", 80) == 0
    assert [path.name for path in tmp_path.iterdir() if "grid" in path.name] == ["grid.zarr"]
    with xr.open_zarr(out) as dataset:
        values = dataset["location_embedding"]
        assert values.dims == ("lat", "lon", "embedding")
        assert values.dtype == np.float16
        assert values.data.chunksize == (2, 32, DIM)
        grid = GlobalGrid(10)
        np.testing.assert_array_equal(dataset["lat"], grid.lat_deg)
        np.testing.assert_array_equal(dataset["lon"], grid.lon_deg)
        assert dataset["lat"].attrs["units"] == "degrees_north"
        assert dataset.attrs["satclip_provenance"]["land_only"] is True
        expected = encoder.encode_grid(grid.lon_deg, grid.lat_deg)
        land = is_land(grid.lonlat_deg()).reshape(grid.shape)
        np.testing.assert_array_equal(np.isnan(values).any("embedding"), ~land)
        np.testing.assert_allclose(values.to_numpy()[land], expected[land], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--out", "x.parquet"], "expected a table of points or --grid, found neither"),
        (["p.csv", "--grid", "1", "--out", "x.parquet"], "found both"),
        (["p.csv", "--out", "x.zarr"], "expected a name that ends in .parquet"),
        (["--grid", "1", "--out", "x.tif"], "or .zarr"),
        (["--grid", "0.7", "--out", "x.zarr"], "does not divide 180"),
        (["p.csv", "--land-only", "--out", "x.parquet"], "belong to --grid"),
        (["--grid", "1", "--lon-column", "x", "--out", "x.parquet"], "belong to a table"),
        (["p.csv", "--out", "x.parquet"], "p.csv: no such file"),
        (["https://example.org/p.csv", "--out", "x.parquet"], "is an address"),
        (["--grid", "1", "--out", "x.parquet", "--threads", "0"], "--threads is 0"),
        (["--grid", "1", "--out", "x.parquet", "--threads", "100000"], "--threads is 100000"),
        (["--grid", "1e-9", "--out", "x.zarr"], "expected a number in [0.001, 180]"),
        (["--grid", "1", "--out", "x.parquet", "--batch-size", "0"], "batch_size is 0"),
        (["--grid", "90", "--land-only", "--lat-bounds", "-60", "-40", "--out", "x.parquet"], "is on land"),
    ],
)
def test_a_request_that_cannot_be_met_says_why(tmp_path, model, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    assert embed(model, *arguments) == 1
    assert message in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("x.")] == []


def test_a_folder_that_is_no_zarr_is_left_alone(tmp_path, model, capsys):
    out = tmp_path / "mine.zarr"
    out.mkdir()
    (out / "notes.txt").write_text("keep")
    assert embed(model, "--grid", 30, "--out", out) == 1
    assert "is no Zarr group" in capsys.readouterr().err
    assert (out / "notes.txt").read_text() == "keep"


def test_a_checkpoint_that_is_not_there_is_one_line(tmp_path, places, capsys):
    assert embed(tmp_path / "absent.ckpt", places, "--out", tmp_path / "out.parquet") == 1
    assert capsys.readouterr().err.splitlines()[-1].startswith("satclip: ")
    assert not list(tmp_path.glob("out.parquet*"))


def test_a_checkpoint_is_exported_as_onnx(tmp_path, model, encoder, capsys):
    out = tmp_path / "model.onnx"
    arguments = ["export-onnx", "--model", str(model), "--dtype", "float64", "--out"]
    assert main([*arguments, str(out)]) == 0
    session = onnxruntime.InferenceSession(str(out), providers=["CPUExecutionProvider"])
    lonlat_deg = random_table(9)[["lon", "lat"]].to_numpy()
    (embeddings,) = session.run(["embedding"], {"lonlat_deg": lonlat_deg})
    np.testing.assert_allclose(embeddings, encoder.encode(lonlat_deg, dtype=torch.float64), rtol=0, atol=1e-12)
    assert main([*arguments, str(tmp_path / "model.pt")]) == 1
    assert "ends in .onnx" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["folder.onnx", "model.onnx/below.onnx"])
def test_a_place_that_takes_no_onnx_file_is_one_line(tmp_path, model, capsys, name):
    (tmp_path / "folder.onnx").mkdir()
    (tmp_path / "model.onnx").write_text("a file")
    assert main(["export-onnx", "--model", str(model), "--out", str(tmp_path / name)]) == 1
    assert f"{name}: cannot be written" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir() if "partial" in path.name) == []


def test_stopping_is_one_line_and_leaves_nothing(tmp_path, model, places, capsys, monkeypatch):
    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("satclip_model.location_encoder.LocationEncoder.encode", stop)
    assert embed(model, places, "--out", tmp_path / "out.parquet") == 130
    assert capsys.readouterr().err.splitlines()[-1] == "satclip: embed was stopped; nothing was written"
    assert not list(tmp_path.glob("out.parquet*"))
