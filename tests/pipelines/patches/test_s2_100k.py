import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import rasterio
import xarray
import zarr

from pipelines.errors import DatasetError
from pipelines.patches.dataset import open_patch_dataset
from pipelines.patches.s2_100k import import_s2_100k


@pytest.mark.real_data
def test_every_pixel_of_the_published_layout_comes_back(tmp_path: Path, shared_data: Path) -> None:
    source = shared_data / "s2_100k_sample"
    record = import_s2_100k(tmp_path, source)
    assert record.passed
    dataset = open_patch_dataset(tmp_path)
    index = pd.read_csv(source / "index.csv")
    assert len(index) == dataset.num_places == 20
    for number, entry in index.iterrows():
        with rasterio.open(source / "images" / entry["fn"]) as raster:
            np.testing.assert_array_equal(dataset.read_dn(number), raster.read())
            row = dataset.places.loc[number]
            assert (row.epsg, row.resolution_m) == (raster.crs.to_epsg(), 10.0)
            assert (row.x_ul_m, row.y_ul_m) == (raster.transform.c, raster.transform.f)
    np.testing.assert_allclose(dataset.places[["lon_deg", "lat_deg"]], index[["lon", "lat"]])


@pytest.mark.real_data
def test_the_store_is_read_by_xarray_and_zarr_alone(tmp_path: Path, shared_data: Path) -> None:
    import_s2_100k(tmp_path, shared_data / "s2_100k_sample")
    dataset = open_patch_dataset(tmp_path)
    path = dataset.path / "patches.zarr"
    opened = xarray.open_zarr(path)
    assert opened["image"].dims == ("row", "band", "y", "x")
    assert opened["image"].dtype == np.uint16
    np.testing.assert_array_equal(opened["image"][7].to_numpy(), dataset.read_dn(7))
    np.testing.assert_array_equal(opened["lon_deg"].to_numpy(), dataset.places["lon_deg"])
    assert opened["lat_deg"].attrs["units"] == "degrees_north"
    array = zarr.open_group(path, mode="r")["image"]
    assert array.chunks == (1, 12, 256, 256)
    assert array.shards == (256, 12, 256, 256)
    codecs = [type(each).__name__ for each in array.compressors]
    assert codecs == ["BloscCodec", "Crc32cCodec"]


@pytest.mark.real_data
def test_missing_and_damaged_files_become_rows_with_a_reason(tmp_path: Path, shared_data: Path) -> None:
    source = tmp_path / "layout"
    shutil.copytree(shared_data / "s2_100k_sample", source)
    names = pd.read_csv(source / "index.csv")["fn"]
    (source / "images" / names[3]).unlink()
    damaged = source / "images" / names[5]
    damaged.write_bytes(damaged.read_bytes()[:300_000])
    record = import_s2_100k(tmp_path / "ws", source)
    assert record.reasons == {"missing_file": 1, "unreadable": 1}
    dataset = open_patch_dataset(tmp_path / "ws")
    assert dataset.places.loc[~dataset.places["valid"], "place_id"].tolist() == [3, 5]
    assert not dataset.read_dn(5).any()


def test_a_folder_of_another_layout_is_told(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"index.csv: no such file, expected the S2-100K layout"):
        import_s2_100k(tmp_path / "ws", tmp_path)
    (tmp_path / "index.csv").write_text("file,lat,lon\na.tif,1,2\n")
    with pytest.raises(DatasetError, match=r"columns \['fn'\] missing, found \['file', 'lat', 'lon'\]"):
        import_s2_100k(tmp_path / "ws", tmp_path)
    (tmp_path / "index.csv").write_text("fn,lat,lon\na.tif,95,2\n")
    with pytest.raises(DatasetError, match=r"a.tif lies at lon 2, lat 95, expected"):
        import_s2_100k(tmp_path / "ws", tmp_path)
