"""Images that come with their labels, from the files of published data sets."""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from pipelines.errors import TableError
from pipelines.ground_cover.classes import MAX_CODE, LandCoverClasses
from pipelines.ground_cover.reading import ClassMap
from pipelines.sentinel2 import BANDS

BAND_ORDERS: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "l2a": BANDS,
        "l1c": (*BANDS[:10], "B10", *BANDS[10:]),
        "eurosat": (*(each for each in BANDS[:10] if each != "B8A"), "B10", "B11", "B12", "B8A"),
    }
)
"""Bands of a file, first to last: of level 2A, which has no B10; of level 1C in the order of wavelengths, as TerraMesh
and GEO-Bench have it; and of EuroSAT (Helber et al. 2019, IEEE JSTARS), which puts B8A behind all others."""


def read_image_dn(path: Path, band_order: str) -> NDArray[np.uint16]:
    """Digital numbers of an image in the order of the patch store, without B10, shape (12, height, width).

    Args:
        path: A raster file with a band per Sentinel-2 band.
        band_order: One of ``BAND_ORDERS``.

    Raises:
        TableError: No raster, another number of bands, another band order, or numbers outside 0 to 65,535.
    """
    if band_order not in BAND_ORDERS:
        raise TableError(f"band order {band_order!r}: expected one of {', '.join(BAND_ORDERS)}")
    expected = BAND_ORDERS[band_order]
    values = _read(path)
    if len(values) != len(expected):
        raise TableError(
            f"{path}: {len(values)} bands; band order {band_order} has {len(expected)}: {', '.join(expected)}"
        )
    chosen = values[[expected.index(band) for band in BANDS]]
    if chosen.dtype.kind not in "iu" or chosen.min() < 0 or chosen.max() > np.iinfo(np.uint16).max:
        raise TableError(
            f"{path}: {chosen.dtype} from {chosen.min()} to {chosen.max()}; expected digital numbers, whole and from 0 "
            "to 65535"
        )
    return chosen.astype(np.uint16)


def read_class_raster(path: Path, classes: LandCoverClasses) -> ClassMap:
    """The classes of each pixel of a raster that has one band of codes.

    Raises:
        TableError: No raster, several bands, or values that are no codes.
    """
    values = _read(path)
    if len(values) != 1 or values.dtype.kind not in "iu" or values.min() < 0 or values.max() > MAX_CODE:
        raise TableError(
            f"{path}: {len(values)} bands of {values.dtype} from {values.min()} to {values.max()}; expected one band "
            f"of codes of {classes.name}, whole and from 0 to {MAX_CODE}"
        )
    codes = values[0].astype(np.uint16)
    return ClassMap(codes=codes, positions=classes.positions()[codes], item_ids=(path.name,))


def _read(path: Path) -> NDArray[Any]:
    import rasterio
    from rasterio.errors import RasterioError

    try:
        with rasterio.open(path) as source:
            values: NDArray[Any] = source.read()
    except RasterioError as error:
        raise TableError(f"{path}: no raster that can be read ({error}); expected a GeoTIFF") from error
    return values
