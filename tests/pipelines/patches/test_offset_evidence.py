"""Offsets of real pixels.

Alike, after harmonizing, means: the dark-target floor, which is the 0.1 % quantile of the darkest band over the data
pixels of a scene, lies within 0 to 0.07 reflectance in every scene that has dark targets, and the medians of the scenes
with and without the offset differ by less than 0.02, where the raw ones differ by 0.08 or more.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from numpy.typing import NDArray

from pipelines.patches.offset_evidence import decide_offset, infer_offset, offset_evidence
from pipelines.patches.radiometry import harmonized_dn
from pipelines.sampling.catalog import unopened_catalog
from pipelines.sampling.catalog_profile import load_profile
from pipelines.sampling.items import Scene, scene_of_item
from pipelines.sentinel2 import BANDS, boa_add_offset

WITHOUT_METADATA = {
    "patch_252161": -1000, "patch_57755": -1000, "patch_74721": -1000, "patch_75123": -1000,
    "patch_25630": 0, "patch_275979": 0, "patch_286743": 0, "patch_322265": 0, "patch_502692": 0, "patch_511198": 0,
    "patch_526850": 0, "patch_566084": 0, "patch_58000": 0, "patch_61808": 0, "patch_70975": 0, "patch_752389": 0,
}  # fmt: skip
SILENT = ("patch_70541", "patch_759128", "patch_766272", "patch_770287")  # cloud, snow, bright or hazy desert
VERIFYING, TRUSTING = load_profile("earth_search"), load_profile("planetary_computer")


def read(path: Path) -> NDArray[Any]:
    with rasterio.open(path) as source:
        return np.asarray(source.read())


def read_folder(folder: Path) -> NDArray[Any]:
    """All bands of a folder on the grid of its 10 m bands."""
    bands = [read(folder / f"{band}.tif")[0] for band in BANDS]
    side = max(len(band) for band in bands)
    return np.stack([band.repeat(side // len(band), 0).repeat(side // len(band), 1)[:side, :side] for band in bands])


def windows(dn: NDArray[Any]) -> list[NDArray[Any]]:
    steps = range(0, dn.shape[1] - 255, 256)
    return [dn[:, row : row + 256, col : col + 256] for row in steps for col in steps]


def floor(dn: NDArray[Any]) -> float:
    data = dn.reshape(len(dn), -1)[:, (dn > 0).all(axis=0).ravel()]
    return float(np.quantile(data, 0.001, axis=1).min()) / 10_000


def major_tom(shared_data: Path) -> tuple[NDArray[Any], str]:
    folder = next((shared_data / "majortom_s2l2a_0U_199R_dev" / "0U" / "0U_199R").iterdir())
    return read_folder(folder), folder.name


def scene_29rkh(shared_data: Path) -> tuple[NDArray[Any], Scene]:
    folder = shared_data / "s2_l2a_scene_29RKH" / "S2A_29RKH_20200219_0_L2A"
    item = json.loads((folder / f"{folder.name}.json").read_text())
    scene = scene_of_item(item, unopened_catalog("https://earth-search.aws.element84.com/v1", "sentinel-2-l2a"))
    assert isinstance(scene, Scene), scene
    return read_folder(folder), scene


def real_scenes(shared_data: Path) -> dict[str, tuple[NDArray[Any], int]]:
    """Digital numbers and offset of the real scenes with dark targets: by metadata where there are any."""
    cell, product = major_tom(shared_data)
    desert, item = scene_29rkh(shared_data)
    hydro, terramesh = shared_data / "hydro_256x256x12_dev", shared_data / "terramesh_dev" / "S2L2A"
    scenes = {
        "majortom": (cell, boa_add_offset({}, {}, product)[0]),
        "29RKH": (desert, item.boa_add_offset),
        "hydro_0": (read(hydro / "patch_0.tif"), -1000),
        "hydro_10": (read(hydro / "patch_10.tif"), 0),
        **{path.stem: (read(path), 0) for path in sorted(terramesh.glob("*.tif"))},
    }
    for name, offset in WITHOUT_METADATA.items():
        scenes[name] = (read(shared_data / "s2_100k_sample" / "images" / f"{name}.tif"), offset)
    return scenes


@pytest.mark.real_data
def test_real_scenes_of_both_conventions_come_out_alike(shared_data: Path) -> None:
    scenes = real_scenes(shared_data)
    raw: dict[bool, list[float]] = {True: [], False: []}
    harmonized: dict[bool, list[float]] = {True: [], False: []}
    for name, (dn, offset) in scenes.items():
        raw[offset != 0].append(floor(dn))
        harmonized[offset != 0].append(floor(harmonized_dn(dn.astype(np.uint16), offset)))
        assert 0 < harmonized[offset != 0][-1] <= 0.07, name
    assert (len(raw[True]), len(raw[False])) == (6, 16)
    assert np.median(raw[True]) - np.median(raw[False]) > 0.08
    assert abs(np.median(harmonized[True]) - np.median(harmonized[False])) < 0.02


@pytest.mark.real_data
def test_pixels_never_contradict_what_real_scenes_say(shared_data: Path) -> None:
    cell, product = major_tom(shared_data)
    assert boa_add_offset({}, {}, product) == (-1000, "product_id")
    desert, item = scene_29rkh(shared_data)
    assert (item.boa_add_offset, item.offset_source) == (0, "boa_offset_applied")
    for dn, offset in ((cell, -1000), (desert, 0)):
        for window in windows(dn):
            assert offset_evidence(window, offset) != "contradicts"
            assert decide_offset(window, offset, "stated", VERIFYING) == (offset, "stated")
    for name, (dn, offset) in real_scenes(shared_data).items():
        assert offset_evidence(dn, offset) != "contradicts", name


@pytest.mark.real_data
def test_a_flag_that_lies_is_overruled_by_dark_pixels_in_both_directions(shared_data: Path) -> None:
    overruled = 0
    for name, (dn, offset) in real_scenes(shared_data).items():
        lie = -1000 - offset
        decided = decide_offset(dn, lie, "boa_offset_applied", VERIFYING)
        if offset_evidence(dn, lie) == "contradicts":
            assert decided == (offset, "pixels"), name
            overruled += 1
        else:
            assert decided == (lie, "boa_offset_applied"), name
        assert decide_offset(dn, lie, "stated", TRUSTING) == (lie, "stated")
    assert overruled >= 20  # of 22; haze and bright desert are silent


@pytest.mark.real_data
def test_the_published_patches_tell_their_convention_or_are_silent(shared_data: Path) -> None:
    found = {path.stem: infer_offset(read(path)) for path in (shared_data / "s2_100k_sample" / "images").glob("*.tif")}
    assert found == {name: (offset, "inferred") for name, offset in WITHOUT_METADATA.items()} | dict.fromkeys(
        SILENT, (0, "assumed")
    )


def patch(low: int, high: int, seed: int = 1) -> NDArray[np.uint16]:
    return np.random.default_rng(seed).integers(low, high, (12, 64, 64), dtype=np.uint16)


def test_dark_pixels_contradict_the_offset_and_a_floor_its_absence() -> None:
    assert offset_evidence(patch(200, 3000), -1000) == "contradicts"
    assert offset_evidence(patch(200, 3000), 0) == "consistent"
    assert offset_evidence(patch(1100, 3000), 0) == "contradicts"
    assert offset_evidence(patch(1100, 3000), -1000) == "consistent"


def test_bright_and_empty_patches_are_silent() -> None:
    desert = patch(2500, 4000)
    desert[:2] = patch(1100, 2000)[:2]
    for dn in (patch(4000, 9000), desert, np.zeros((12, 8, 8), dtype=np.uint16)):
        assert offset_evidence(dn, 0) == offset_evidence(dn, -1000) == "silent"
        assert infer_offset(dn) == (0, "assumed")


def test_nodata_is_no_dark_pixel() -> None:
    dn = patch(1100, 3000)
    dn[:, :20] = 0
    assert infer_offset(dn) == (-1000, "inferred")
    dn[:, :60] = 0
    assert infer_offset(dn) == (0, "assumed")


def test_what_cannot_be_judged_is_told() -> None:
    with pytest.raises(ValueError, match="offset 5: expected 0 or -1000"):
        offset_evidence(patch(1, 9), 5)
    with pytest.raises(ValueError, match=r"expected \(bands, rows, columns\)"):
        infer_offset(patch(1, 9)[0])
