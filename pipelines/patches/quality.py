"""Whether a window is clear, by the scene classification."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipelines.errors import SceneContentError
from pipelines.patches.config import PatchConfig
from pipelines.sentinel2 import NODATA_DN, SCL_NODATA, SCL_SNOW, SCL_UNCLEAR


@dataclass(frozen=True)
class WindowQuality:
    """Shares of a window's pixels, 0 to 1; NaN where there is no scene classification."""

    unclear_fraction: float
    snow_fraction: float
    nodata_fraction: float


UNKNOWN_QUALITY = WindowQuality(float("nan"), float("nan"), float("nan"))


def window_quality(scl: NDArray[np.uint8]) -> WindowQuality:
    """Counts the classes of a window of the scene classification, shape (rows, columns) on the patch's grid."""
    counts = np.bincount(scl.ravel(), minlength=12)
    return WindowQuality(
        unclear_fraction=float(counts[list(SCL_UNCLEAR)].sum() / scl.size),
        snow_fraction=float(counts[SCL_SNOW] / scl.size),
        nodata_fraction=float(counts[SCL_NODATA] / scl.size),
    )


def validate_quality(quality: WindowQuality, config: PatchConfig, item_id: str) -> None:
    """Rejects a window that is not clear enough.

    Raises:
        SceneContentError: reason ``nodata`` or ``unclear``.
    """
    if quality.nodata_fraction >= config.max_nodata_fraction:
        raise SceneContentError(
            "nodata", f"{item_id}: {quality.nodata_fraction:.1%} nodata, expected < {config.max_nodata_fraction:.1%}"
        )
    if quality.unclear_fraction > config.max_unclear_fraction:
        raise SceneContentError(
            "unclear",
            f"{item_id}: {quality.unclear_fraction:.1%} unclear, expected <= {config.max_unclear_fraction:.1%}",
        )


def validate_pixels(dn: NDArray[np.uint16], config: PatchConfig, item_id: str) -> float:
    """The share of pixels that are nodata in any band, shape of ``dn`` (bands, rows, columns).

    Raises:
        SceneContentError: reason ``nodata``, where the pixels lack more than the scene classification said.
    """
    fraction = float((dn == NODATA_DN).any(axis=0).mean())
    if fraction >= config.max_nodata_fraction:
        raise SceneContentError(
            "nodata", f"{item_id}: {fraction:.1%} of pixels are nodata, expected < {config.max_nodata_fraction:.1%}"
        )
    return fraction
