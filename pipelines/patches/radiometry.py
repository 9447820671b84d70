"""From digital numbers to reflectance."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pipelines.sentinel2 import NODATA_DN, QUANTIFICATION


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
