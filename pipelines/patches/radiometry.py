"""From digital numbers as delivered to values that can be compared across processing baselines."""

from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pipelines.sentinel2 import NODATA_DN, QUANTIFICATION

Radiometry = Literal["raw", "harmonized", "reflectance"]
RADIOMETRIES: tuple[Radiometry, ...] = get_args(Radiometry)

MAX_DN = np.iinfo(np.uint16).max


def apply_radiometry(dn: NDArray[np.uint16], boa_add_offset: ArrayLike, mode: Radiometry) -> NDArray[Any]:
    """Patches in one of three radiometries.

    Args:
        dn: Digital numbers as delivered, shape (..., bands, rows, columns).
        boa_add_offset: Offset per patch (0 or -1000), broadcast over bands and pixels, shape (...).
        mode: ``raw``: ``dn`` itself. ``harmonized``: see `harmonized_dn`. ``reflectance``: see `reflectance`.

    Raises:
        ValueError: an unknown mode.
    """
    if mode == "raw":
        return dn
    if mode == "harmonized":
        return harmonized_dn(dn, boa_add_offset)
    if mode == "reflectance":
        return reflectance(dn, boa_add_offset)
    raise ValueError(f"radiometry {mode!r}: expected one of {RADIOMETRIES}")


def harmonized_dn(dn: NDArray[np.uint16], boa_add_offset: ArrayLike) -> NDArray[np.uint16]:
    """Digital numbers with the offset removed, as if every scene were of one convention.

    Args:
        dn: Digital numbers as delivered, shape (..., bands, rows, columns).
        boa_add_offset: Offset per patch (0 or -1000), broadcast over bands and pixels, shape (...).

    Returns:
        uint16, shape of ``dn``, a copy. Nodata stays 0; a valid pixel is at least 1, so that one of negative
        reflectance does not become nodata.
    """
    offset = np.asarray(boa_add_offset, dtype=np.int32)[..., None, None, None]
    values: NDArray[np.uint16] = np.clip(dn.astype(np.int32) + offset, 1, MAX_DN).astype(np.uint16)
    values[dn == NODATA_DN] = NODATA_DN
    return values


def reflectance(dn: NDArray[np.uint16], boa_add_offset: ArrayLike) -> NDArray[np.float32]:
    """Bottom-of-atmosphere reflectance, comparable across processing baselines.

    Args:
        dn: Digital numbers as delivered, shape (..., bands, rows, columns).
        boa_add_offset: Offset per patch (0 or -1000), broadcast over bands and pixels, shape (...).

    Returns:
        (dn + offset) / 10,000, float32, shape of ``dn``; negative values and nodata (DN 0) become 0.
    """
    offset = np.asarray(boa_add_offset, dtype=np.float32)[..., None, None, None]
    values: NDArray[np.float32] = np.maximum(dn.astype(np.float32) + offset, 0.0, dtype=np.float32)
    values /= np.float32(QUANTIFICATION)
    values[dn == NODATA_DN] = 0.0
    return values
