"""One GeoTIFF of S2-100K from and to memory."""

from dataclasses import dataclass
from typing import Final

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.errors import CRSError, RasterioError
from rasterio.io import DatasetReader, MemoryFile

from pipelines.sentinel2 import BANDS

MIN_FILE_BYTES: Final = 10_000
"""Smaller files are broken (the reference's loader drops them)."""
MAX_FILE_BYTES: Final = 16 << 20
"""A patch of 256 x 256 px and 12 bands holds 1.6 MB of pixels."""
MAX_BLOCK_PX: Final = 1024 * 1024
DRIVER: Final = "GTiff"


class PatchFileError(Exception):
    """A file that is no patch.

    Attributes:
        reason: The short, countable name of the verdict.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True)
class PatchGrid:
    """Where a patch lies; EPSG code 0 and NaN where its file does not say or its grid is not one of square metres."""

    epsg: int = 0
    x_ul_m: float = float("nan")
    y_ul_m: float = float("nan")
    resolution_m: float = float("nan")


def decode_patch(data: bytes, out: NDArray[np.uint16]) -> PatchGrid:
    """Decodes a GeoTIFF into ``out``, shape (12, size, size); zeros on an error.

    Only GDAL's GeoTIFF driver is tried: other formats may name files and hosts of their own.

    Raises:
        PatchFileError: too small, too large, damaged, or of another shape or type.
    """
    if len(data) < MIN_FILE_BYTES:
        raise PatchFileError("too_small", f"{len(data)} bytes, expected {MIN_FILE_BYTES} at least")
    if len(data) > MAX_FILE_BYTES:
        raise PatchFileError("too_large", f"{len(data)} bytes, expected {MAX_FILE_BYTES} at most")
    try:
        with MemoryFile(data) as memory, memory.open(driver=DRIVER) as raster:
            _validate(raster, out)
            raster.read(out=out)
            return _grid(raster)
    except RasterioError as error:
        out[:] = 0
        raise PatchFileError("unreadable", f"cannot be decoded ({error})") from error


def _validate(raster: DatasetReader, out: NDArray[np.uint16]) -> None:
    shape = (raster.count, raster.height, raster.width)
    if shape != out.shape or set(raster.dtypes) != {"uint16"}:
        types = ", ".join(sorted(set(raster.dtypes)))
        raise PatchFileError("wrong_shape", f"{shape} of {types}, expected {out.shape} of uint16")
    if any(height * width > MAX_BLOCK_PX for height, width in raster.block_shapes):
        raise PatchFileError("wrong_shape", f"blocks of {raster.block_shapes[0]}, expected {MAX_BLOCK_PX} px at most")


def _grid(raster: DatasetReader) -> PatchGrid:
    transform = raster.transform
    try:
        epsg = raster.crs.to_epsg() if raster.crs else None
    except CRSError:
        epsg = None
    if epsg is None:
        return PatchGrid()
    if not raster.crs.is_projected or transform.b or transform.d or transform.a != -transform.e:
        return PatchGrid(epsg=int(epsg))
    return PatchGrid(int(epsg), float(transform.c), float(transform.f), float(transform.a))


def encode_patch(dn: NDArray[np.uint16], grid: PatchGrid) -> bytes:
    """A GeoTIFF as the published ones: uint16, pixel interleaved, LZW with predictor 2, one tile, bands named.

    The tile has the patch's own size; the published ones lie in one of 512 px, which costs twice the time to decode.
    """
    count, height, width = dn.shape
    georeference = {}
    if grid.epsg and np.isfinite([grid.x_ul_m, grid.y_ul_m, grid.resolution_m]).all():
        step = grid.resolution_m
        georeference = {
            "crs": f"EPSG:{grid.epsg}",
            "transform": rasterio.Affine(step, 0.0, grid.x_ul_m, 0.0, -step, grid.y_ul_m),
        }
    tile = {"tiled": True, "blockxsize": width, "blockysize": height} if width % 16 == height % 16 == 0 else {}
    with MemoryFile() as memory:
        with memory.open(
            driver=DRIVER,
            width=width,
            height=height,
            count=count,
            dtype="uint16",
            compress="lzw",
            predictor=2,
            interleave="pixel",
            **tile,
            **georeference,
        ) as raster:
            raster.write(dn)
            raster.descriptions = BANDS if count == len(BANDS) else tuple(f"band {i + 1}" for i in range(count))
        return bytes(memory.getbuffer())
