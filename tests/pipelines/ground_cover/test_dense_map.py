import json

import numpy as np
import pytest
import rasterio
import torch
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.cli import main
from pipelines.errors import ConfigurationError
from pipelines.ground_cover.classification import ClassifyConfig, choose_classes, classify_scene, embed_chosen
from pipelines.ground_cover.dense_map import WindowGrid, score_windows
from pipelines.ground_cover.map_files import nodata_code, read_probabilities
from pipelines.ground_cover.scene_raster import open_scene
from pipelines.sentinel2 import BANDS, NATIVE_GSD_M
from satclip_model.ground_cover.checkpoint import read_ground_cover
from satclip_model.ground_cover.config import GroundCoverClass
from tests.pipelines.ground_cover.labelled_patches import (
    CLASSES,
    EDGE,
    SHAPE,
    SIZE,
    TRANSFORM,
    write_model,
    write_raster,
    write_scene,
)


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    return write_scene(tmp_path_factory.mktemp("scene") / "scene.tif")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("model") / "ground_cover.ckpt")


@settings(max_examples=40, deadline=None)
@given(length=st.integers(1, 60), steps=st.integers(2, 6), stride=st.integers(1, 7), shift=st.integers(0, 6))
def test_every_pixel_lies_in_all_windows_of_the_endless_grid(length, steps, stride, shift):
    grid = WindowGrid(steps * stride, stride, shift % stride)
    weights = grid.weights(length, np.arange(length))
    assert ((weights > 0).sum(axis=1) == steps).all()
    assert (grid.starts(length) % stride == shift % stride).all()
    np.testing.assert_allclose(weights.sum(axis=1), steps / 2, rtol=1e-4)  # a raised cosine is a partition of unity


@pytest.mark.parametrize(
    ("size", "stride", "shift"), [(64, 48, 0), (64, 24, 0), (64, 0, 0), (64, 16, 16), (64, 16, -1)]
)
def test_windows_that_do_not_fit_are_refused(size, stride, shift):
    with pytest.raises(ConfigurationError, match="expected"):
        WindowGrid(size, stride, shift)


def test_probabilities_of_a_scene_are_those_of_where_it_is_looked_at(scene):
    """A model that tells the mean of B01 and one minus it: the map is the blurred band, and each pixel sums to one."""

    def classify(reflectance):
        mean = reflectance[:, 0].mean(dim=(1, 2))
        return torch.stack([mean, 1 - mean], dim=1)

    with open_scene(scene) as raster:
        found = score_windows(raster, classify, 2, 16, 4, num_workers=2)
        moved = score_windows(raster, classify, 2, 16, 4, shift_px=(3, 1))
        blended, other = found.blend(np.arange(SHAPE[0])), moved.blend(np.arange(SHAPE[0]))
        alone = found.blend(np.array([40, 7]))
    np.testing.assert_allclose(blended.sum(axis=0), 1, rtol=1e-4)
    np.testing.assert_allclose(alone, blended[:, [40, 7]], rtol=1e-5)
    np.testing.assert_allclose(blended[0, 20:, :30], 0.05, atol=0.005)
    np.testing.assert_allclose(blended[0, :, 90:], 0.35, atol=0.01)
    across = blended[0, 50, EDGE - 16 : EDGE + 16]
    assert (np.diff(across) > -0.004).all()
    assert np.abs(blended - other).max() < 0.03


def test_a_map_has_the_grid_of_the_scene_and_the_classes_of_its_halves(scene, checkpoint, tmp_path):
    out = tmp_path / "map.tif"
    config = ClassifyConfig(window_px=SIZE, stride_px=6)
    done = classify_scene(scene, checkpoint, out, config=config, num_threads=2)
    moved = classify_scene(
        scene, checkpoint, tmp_path / "moved.tif", config=config.model_copy(update={"shift_px": (3, 2)})
    )
    with rasterio.open(out) as maps, rasterio.open(moved.path) as other:
        codes = maps.read(1)
        assert (maps.transform, maps.crs, maps.shape) == (TRANSFORM, rasterio.CRS.from_epsg(32629), SHAPE)
        assert maps.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
        assert maps.colormap(1)[10][:3] == CLASSES[0].color
        assert json.loads(maps.tags()["config"])["stride_px"] == 6
        changed = codes != other.read(1)
    is_boundary = np.diff(codes.astype(int), axis=1, prepend=codes[:, :1]) != 0
    near = np.stack([np.roll(is_boundary, step, axis=1) for step in range(-6, 7)]).any(axis=0)
    assert not (changed & ~near).any()
    assert (codes[:6, :9] == 0).all()
    assert (codes[8:, : EDGE - 24] == 10).all()
    assert (codes[:, EDGE + 24 :] == 21).all()
    assert sum(done.shares.values()) == pytest.approx(1)
    probabilities = read_probabilities(done.probabilities_path)
    assert np.isnan(probabilities[:, :6, :9]).all()
    np.testing.assert_allclose(probabilities[:, 10:].sum(axis=0), 1, atol=0.009)
    assert (np.array([10, 11, 20, 21])[probabilities[:, 10:].argmax(axis=0)] == codes[10:]).mean() > 0.99
    with rasterio.open(done.probabilities_path) as dataset:
        assert dataset.descriptions == tuple(each.name for each in CLASSES)
        assert dataset.transform == TRANSFORM
    written = sorted(each.name for each in tmp_path.glob("*map*"))
    assert written == ["map.tif", "map_probabilities.tif"]


def test_bands_of_a_folder_are_repeated_onto_the_finest_grid(tmp_path):
    fine = np.arange(1, 12 * 18 + 1, dtype=np.uint16).reshape(12, 18)
    for band in BANDS:
        factor = NATIVE_GSD_M[band] // 10
        coarse = fine[None, factor // 2 :: factor, factor // 2 :: factor]
        write_raster(tmp_path / f"T29RKH_{band}.tif", coarse, TRANSFORM @ Affine.scale(factor))
    with open_scene(tmp_path) as raster:
        rows = np.array([7, 2, 2])
        found = raster.read_rows(rows)
        assert (raster.height, raster.width, raster.transform) == (12, 18, TRANSFORM)
    np.testing.assert_array_equal(found[BANDS.index("B02")], fine[rows])
    for row, got in zip(rows, found[BANDS.index("B01")], strict=True):
        np.testing.assert_array_equal(got, np.repeat(fine[row // 6 * 6 + 3, 3::6], 6))
    (tmp_path / "T29RKH_B09.tif").unlink()
    with pytest.raises(ConfigurationError, match="no file for bands B09"), open_scene(tmp_path):
        pass


def test_bands_are_taken_by_their_descriptions(tmp_path):
    order = [*BANDS[::-1], "SCL"]
    dn = np.arange(1, 14, dtype=np.uint16)[:, None, None] * np.ones((13, 4, 5), dtype=np.uint16)
    write_raster(tmp_path / "named.tif", dn, descriptions=order)
    with open_scene(tmp_path / "named.tif") as raster:
        assert raster.read_rows(np.array([0]))[:, 0, 0].tolist() == list(range(12, 0, -1))
    write_raster(tmp_path / "unnamed.tif", dn)
    with (
        pytest.raises(ConfigurationError, match="13 bands; expected 12 in the order B01"),
        open_scene(tmp_path / "unnamed.tif"),
    ):
        pass


def test_files_of_two_scenes_are_refused(tmp_path):
    for band in BANDS:
        shift = Affine.translation(10, 0) if band == "B8A" else Affine.identity()
        write_raster(tmp_path / f"{band}.tif", np.ones((1, 6, 6), dtype=np.uint16), shift @ TRANSFORM)
    with pytest.raises(ConfigurationError, match=r"B8A\.tif covers"), open_scene(tmp_path):
        pass


def test_classes_are_chosen_by_name_description_or_mapping(checkpoint):
    model, _ = read_ground_cover(checkpoint)
    assert choose_classes(model, ()) == model.config.classes
    chosen = choose_classes(model, ["warm FOREST", "Oasis: Tall trees on sand"])
    assert [each.code for each in chosen] == [11, 1]
    assert len(choose_classes(model, ["terramesh"])) == 8
    torch.testing.assert_close(embed_chosen(model, model.config.classes[:2], "auto"), model.learned_classes()[:2])
    assert embed_chosen(model, chosen, "auto").shape == (2, 16)
    with pytest.raises(ConfigurationError, match="at least two different ones"):
        choose_classes(model, ["Warm forest", "warm forest"])
    with pytest.raises(ConfigurationError, match="Oasis: training did not know them"):
        embed_chosen(model, chosen, "learned")
    with pytest.raises(ConfigurationError, match="Xylophone: no word of their texts"):
        embed_chosen(model, choose_classes(model, ["Warm forest", "Xylophone"]), "auto")


def test_the_nodata_code_is_no_class():
    assert nodata_code([GroundCoverClass(code=3, name="x")]) == 0
    assert nodata_code([GroundCoverClass(code=0, name="x"), GroundCoverClass(code=255, name="y")]) == 1


def test_the_command_maps_a_scene_and_tells_what_is_wrong(scene, checkpoint, tmp_path, capsys):
    command = ["classify", str(scene), "--model", str(checkpoint), "--device", "cpu", "--threads", "1"]
    fast = ["--window", "48", "--stride", "24"]
    assert main([*command, *fast, "--out", str(tmp_path / "map.tif"), "--classes", "Cold forest", "Desert: Sand."]) == 0
    told = capsys.readouterr().out
    assert "Cold forest" in told
    assert "classified" in told
    assert main([*command, "--out", str(tmp_path / "map.png")]) == 1
    assert "expected a name that ends in .tif" in capsys.readouterr().err
    assert main(["classify", str(tmp_path / "none"), *command[2:], "--out", str(tmp_path / "b.tif")]) == 1
    assert "no such scene" in capsys.readouterr().err
    assert main(["classify", str(scene), "--root", str(tmp_path), "--out", str(tmp_path / "b.tif")]) == 1
    assert "materialize ground_cover_checkpoint" in capsys.readouterr().err
