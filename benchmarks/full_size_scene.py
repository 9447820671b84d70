"""A scene of full size (10980 pixels at 10 m) as DEFLATE COGs with 512-pixel tiles, made once and kept.

Pixels are a mosaic of real patches, turned and mirrored at random, so that files compress as real ones do; without
``SATCLIP_SHARED_DATA`` they are the synthetic planet's with noise of 1 %.
"""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.transform import from_origin

from pipelines.patches.windows import Grid
from pipelines.sentinel2 import ALL_ASSETS, BANDS, NATIVE_GSD_M

SIZE_PX = 10_980
GRID = Grid(32_632, 399_960.0, 5_300_040.0, SIZE_PX, SIZE_PX, 10.0)
REAL = "mosaic of real S2-100K patches"
SYNTHETIC = "synthetic planet with 1 % noise"


def scene_folder(cache: Path) -> tuple[Path, str]:
    """The folder of the 13 files, and what their pixels are; written on the first call (some minutes, 1.4 GB)."""
    shared = os.environ.get("SATCLIP_SHARED_DATA")
    real = shared is not None and (Path(shared) / "s2_100k_sample").is_dir()
    folder = cache / ("real" if real else "synthetic")
    folder.mkdir(parents=True, exist_ok=True)
    pieces: Callable[[str], list[NDArray[np.uint16]]] = (
        _real_pieces(Path(shared or "")) if real else _synthetic_pieces()
    )
    for index, band in enumerate(ALL_ASSETS):
        path = folder / f"{band}.tif"
        if not path.exists():
            gsd_m = NATIVE_GSD_M[band]
            values = _mosaic(pieces(band), SIZE_PX * 10 // gsd_m, np.random.default_rng(index))
            _write(path, values, gsd_m)
    return folder, REAL if real else SYNTHETIC


def _real_pieces(shared: Path) -> Callable[[str], list[NDArray[np.uint16]]]:
    patches = []
    for path in sorted((shared / "s2_100k_sample" / "images").glob("*.tif")):
        with rasterio.open(path) as source:
            patches.append(source.read())

    def pieces(band: str) -> list[NDArray[np.uint16]]:
        if band == "SCL":
            # Classes with the outlines of real ground: near infrared in five steps.
            return [np.digitize(patch[7, ::2, ::2], (1200, 2000, 3000, 5000)).astype(np.uint8) + 4 for patch in patches]
        step = NATIVE_GSD_M[band] // 10
        return [patch[BANDS.index(band), ::step, ::step] for patch in patches]

    return pieces


def _synthetic_pieces() -> Callable[[str], list[NDArray[np.uint16]]]:
    from pipelines.sandbox.fields import Planet
    from pipelines.sandbox.rendering import Renderer
    from pipelines.sandbox.scenes import tile_scenes
    from pipelines.sandbox.tiling import tile_from_id

    renderer = Renderer(Planet(0))
    scene = min(tile_scenes(tile_from_id("32UNA"), 0), key=lambda each: each.product_name)
    noise = np.random.default_rng(0)

    def pieces(band: str) -> list[NDArray[np.uint16]]:
        found = [renderer.render(scene, band, row, col) for row in range(4) for col in range(4)]
        if band == "SCL":
            return found
        return [(each * noise.normal(1, 0.01, each.shape)).astype(np.uint16) for each in found]

    return pieces


def _mosaic(pieces: list[NDArray[np.uint16]], size: int, rng: np.random.Generator) -> NDArray[np.uint16]:
    step = len(pieces[0])
    values = np.zeros((size, size), pieces[0].dtype)
    for row in range(0, size, step):
        for col in range(0, size, step):
            piece = np.rot90(pieces[rng.integers(len(pieces))][:step, :step], rng.integers(4))
            piece = piece[:: rng.choice((-1, 1))]
            values[row : row + step, col : col + step] = piece[: size - row, : size - col]
    return values


def _write(path: Path, values: NDArray[np.uint16], gsd_m: int) -> None:
    partial = path.with_suffix(".partial")
    with rasterio.open(
        partial, "w", driver="COG", count=1, dtype=values.dtype.name, nodata=0, crs=f"EPSG:{GRID.epsg}",
        height=len(values), width=len(values), transform=from_origin(GRID.x_ul_m, GRID.y_ul_m, gsd_m, gsd_m),
        blocksize=512, compress="DEFLATE", overview_resampling="NEAREST", num_threads="ALL_CPUS",
    ) as target:  # fmt: skip
        target.write(values, 1)
    partial.rename(path)
