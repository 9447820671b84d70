"""Images and tables of published data sets, with their true order of bands and their class names."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import rasterio

from pipelines.errors import TableError
from pipelines.evaluation.tasks import TaskConfig, find_tasks, load_task
from pipelines.ground_cover.classes import read_classes
from pipelines.ground_cover.labeled_images import BAND_ORDERS, read_class_raster, read_image_dn
from pipelines.ground_cover.labels import UNKNOWN_CODES, VALID
from pipelines.ground_cover.task_labels import labels_of_task
from pipelines.sentinel2 import BANDS


def write_raster(path: Path, values: np.ndarray) -> Path:
    profile = {"driver": "GTiff", "width": values.shape[2], "height": values.shape[1], "count": len(values)}
    transform = rasterio.Affine(10, 0, 500_000, 0, -10, 5_000_000)
    with rasterio.open(path, "w", dtype=values.dtype, crs="EPSG:32633", transform=transform, **profile) as target:
        target.write(values)
    return path


@pytest.mark.parametrize("band_order", BAND_ORDERS)
def test_bands_come_in_the_order_of_the_store(tmp_path, band_order):
    numbers = [1000 + 100 * int(band[1:].replace("8A", "85")) for band in BAND_ORDERS[band_order]]
    values = np.broadcast_to(np.array(numbers, dtype=np.uint16)[:, None, None], (len(numbers), 4, 5))
    found = read_image_dn(write_raster(tmp_path / "image.tif", values), band_order)
    assert found[:, 0, 0].tolist() == [1000 + 100 * int(band[1:].replace("8A", "85")) for band in BANDS]
    assert found.shape == (12, 4, 5)


@pytest.mark.real_data
@pytest.mark.parametrize("name", ["AnnualCrop/AnnualCrop_1", "Pasture/Pasture_300"])
def test_the_narrow_infrared_band_of_eurosat_is_the_last(shared_data, name):
    dn = read_image_dn(shared_data / "eurosat_ms_three" / f"{name}.tif", "eurosat").astype(float)
    of = {band: dn[position].ravel() for position, band in enumerate(BANDS)}
    likeness = {band: np.corrcoef(of["B8A"], of[band])[0, 1] for band in ("B08", "B09", "B12", "B01")}
    assert likeness["B08"] == max(likeness.values())
    assert likeness["B08"] > 0.8


@pytest.mark.real_data
def test_fractions_of_real_label_maps_are_those_of_a_direct_count(shared_data):
    classes, folder = read_classes("terramesh"), shared_data / "terramesh_dev"
    for path in sorted((folder / "LULC").glob("*.tif")):
        with rasterio.open(path) as source:
            codes = source.read(1)
        counts = read_class_raster(path, classes).counts(len(classes))
        assert counts.tolist() == [int((codes == code).sum()) for code in classes.codes]
        assert counts.sum() + np.isin(codes, classes.nodata_codes).sum() == codes.size
        image = read_image_dn(folder / "S2L2A" / path.name, "l2a")
        assert image.shape == (12, *codes.shape)
        assert np.array_equal(read_image_dn(folder / "S2L1C" / path.name, "l1c").shape, image.shape)


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("task", "mapping", "most"),
    [("eurosat_land_cover", "eurosat", 1), ("bigearthnet_land_cover", "bigearthnet_19", 19)],
)
def test_tables_of_labels_name_known_classes_only(shared_data, task, mapping, most):
    (config,) = find_tasks([task])
    data, classes = load_task(config, shared_data), read_classes(mapping)
    labels = labels_of_task(data, classes)
    assert set(data.classes) <= set(classes.names)
    assert labels.valid.all()
    np.testing.assert_allclose(labels.fractions.sum(axis=1), 1.0, rtol=1e-5)
    assert 1 <= labels.num_valid_pixels.max() <= most
    row = int(labels.num_valid_pixels.argmax())
    named = {classes.names[each] for each in np.flatnonzero(labels.fractions[row])}
    given = data.target[row] if data.target.ndim == 2 else np.arange(len(data.classes)) == data.target[row]
    assert named == {data.classes[each] for each in np.flatnonzero(given)}


def test_names_that_are_not_known_are_counted_and_others_stay(tmp_path):
    pd.DataFrame({"lon": np.arange(60.0), "lat": np.arange(60.0), "cover": ["Forest", "Lava", "Pasture"] * 20}).to_csv(
        tmp_path / "places.csv", index=False
    )
    config = TaskConfig(name="cover", table="places.csv", target="cover", kind="classification")
    labels = labels_of_task(load_task(config, tmp_path), read_classes("eurosat"))
    assert labels.counts() == {VALID: 40, UNKNOWN_CODES: 20}
    with pytest.raises(TableError, match="none of its classes Forest, Lava, Pasture is in io_lulc_annual"):
        labels_of_task(load_task(config, tmp_path), read_classes("io_lulc_annual"))


def test_other_files_are_refused(tmp_path):
    image = write_raster(tmp_path / "three.tif", np.zeros((3, 4, 4), dtype=np.uint16))
    with pytest.raises(TableError, match="3 bands; band order eurosat has 13"):
        read_image_dn(image, "eurosat")
    with pytest.raises(TableError, match="expected one of l2a, l1c, eurosat"):
        read_image_dn(image, "landsat")
    with pytest.raises(TableError, match="expected one band of codes"):
        read_class_raster(image, read_classes("eurosat"))
    with pytest.raises(TableError, match="expected digital numbers"):
        read_image_dn(write_raster(tmp_path / "real.tif", np.ones((12, 2, 2), dtype=np.float32)), "l2a")
    (tmp_path / "text.tif").write_text("no raster")
    with pytest.raises(TableError, match="expected a GeoTIFF"):
        read_image_dn(tmp_path / "text.tif", "l2a")


def test_codes_that_are_not_known_are_counted(tmp_path):
    codes = np.array([[[1, 1, 77], [77, 2, 99]]], dtype=np.uint8)
    found = read_class_raster(write_raster(tmp_path / "codes.tif", codes), read_classes("terramesh"))
    assert found.unknown_codes == {77: 2, 99: 1}
