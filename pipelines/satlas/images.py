"""Sentinel-2 images as Satlas models take them: nine channels of eight bits."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from pipelines.errors import ConfigurationError
from pipelines.ground_cover.scene_raster import is_valid, open_scene
from pipelines.satlas.predictions import TileGrid
from pipelines.sentinel2 import BANDS

TCI_BANDS: Final = ("B04", "B03", "B02")
OTHER_BANDS: Final = ("B05", "B06", "B07", "B08", "B11", "B12")
MODEL_BANDS: Final = (*TCI_BANDS, *OTHER_BANDS)
"""Bands of the channels, in their order."""
TCI_SATURATION_DN: Final = 3558.0
"""Digital number that the true-color image of level 1C shows as 255.

Source: Sentinel-2 Products Specification Document, true-color image.
"""
DN_PER_COUNT: Final = 32.0
RADIOMETRY: Final = (
    "L2A digital numbers without offset, scaled as the L1C images that published weights were trained on"
)


@dataclass(frozen=True)
class TileImage:
    """One image of a tile.

    Attributes:
        channels: Shape (9, rows, columns), uint8: red, green and blue of the true-color image, then B05, B06, B07, B08,
            B11 and B12; 0 where there is no value.
        present: Where every band has a value, shape (rows, columns).
    """

    channels: NDArray[np.uint8]
    present: NDArray[np.bool_]


def satlas_channels(dn: NDArray[np.uint16], boa_add_offset: int) -> NDArray[np.uint8]:
    """Channels of digital numbers as delivered, shape (12, rows, columns), in the order of the patch store.

    The true-color image is linear up to 3,558, the other bands are divided by 32; both end at 255.

    Args:
        dn: Digital numbers; 0 has no value.
        boa_add_offset: Added to them, 0 or -1000.
    """
    channels, _ = band_channels(dict(zip(BANDS, dn, strict=True)), boa_add_offset)
    return np.asarray(np.where(is_valid(dn), channels, np.uint8(0)))


def band_channels(
    bands: Mapping[str, NDArray[np.uint16]], boa_add_offset: int
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """The same of the nine bands alone, by name, each of shape (rows, columns), and where all of them have a value.

    Args:
        bands: Digital numbers as delivered, of `MODEL_BANDS` at least; 0 has no value.
        boa_add_offset: Added to them, 0 or -1000.
    """
    stacked = np.stack([bands[band] for band in MODEL_BANDS])
    values = np.maximum(stacked.astype(np.float32) + boa_add_offset, 0.0)
    num_colors = len(TCI_BANDS)
    scaled = np.concatenate([values[:num_colors] * 255.0 / TCI_SATURATION_DN, values[num_colors:] / DN_PER_COUNT])
    valid = is_valid(stacked)
    return np.where(valid, np.minimum(scaled, 255.0), 0.0).astype(np.uint8), valid


def read_tile_image(path: Path, boa_add_offset: int) -> tuple[TileGrid, TileImage]:
    """An image on its own grid: a GeoTIFF of 12 bands, or a folder with a file per band.

    Args:
        path: The image.
        boa_add_offset: Added to its digital numbers, 0 or -1000.

    Raises:
        ConfigurationError: Bands are missing, or the grid is not north up in meters.
        SceneContentError: A file is damaged.
    """
    with open_scene(path) as scene:
        epsg, transform = scene.crs.to_epsg() if scene.crs else None, scene.transform
        is_north_up = transform.a > 0 and transform.a == -transform.e and not transform.b and not transform.d
        if epsg is None or not scene.crs.is_projected or not is_north_up:
            raise ConfigurationError(
                f"{path}: reference system {scene.crs} and transform {tuple(transform)[:6]}; expected square pixels, "
                "north up, in a projected system with an EPSG code such as a UTM zone: warp the image"
            )
        grid = TileGrid(int(epsg), transform.c, transform.f, transform.a, scene.height, scene.width)
        dn = scene.read_rows(np.arange(scene.height))
    return grid, TileImage(satlas_channels(dn, boa_add_offset), is_valid(dn))


def read_tile_images(paths: list[Path], boa_add_offset: int) -> tuple[TileGrid, list[TileImage]]:
    """Images of several dates on one grid.

    Raises:
        ConfigurationError: There are none, or they lie on different grids; and as for `read_tile_image`.
        SceneContentError: A file is damaged.
    """
    if not paths:
        raise ConfigurationError("no image is named; expected one path per date")
    found = [read_tile_image(path, boa_add_offset) for path in paths]
    grid = found[0][0]
    for path, (other, _) in zip(paths, found, strict=True):
        if other != grid:
            raise ConfigurationError(
                f"{path}: lies on {other}, but {paths[0]} on {grid}; expected one grid for all dates"
            )
    return grid, [image for _, image in found]
