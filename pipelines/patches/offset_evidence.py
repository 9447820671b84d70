"""What a patch's own pixels say of the offset of 1,000 that processing baselines from 04.00 on add.

With the offset, a digital number of 1,000 is a reflectance of zero, and almost no pixel lies far below it. Without it,
water, shadow and vegetation lie far below 1,000 in some band. So

- dark pixels contradict the offset: at least 1 % of the data pixels of one band under 700, a reflectance below -0.03;
- a floor contradicts its absence: the darkest band's 0.1 % quantile lies between 900 and 1,250, and the median of the
  bands' quantiles is at most 1,800. The second condition keeps bright desert out, whose blue bands end there too while
  its infrared bands end above 2,500;
- all else (cloud, snow, desert, haze) is silent.

The rule was made on the real patches named in the tests. It can be wrong on dark scenes under uniform haze or
sun glint, so only a profile with ``verify_offset`` lets it overrule an item.
"""

from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from pipelines.sampling.catalog_profile import CatalogProfile
from pipelines.sentinel2 import BOA_ADD_OFFSET, NODATA_DN

Evidence = Literal["consistent", "contradicts", "silent"]

DARK_DN: Final = 700
DARK_FRACTION: Final = 0.01
FLOOR_QUANTILE: Final = 0.001
FLOOR_DN: Final = (900.0, 1_250.0)
MAX_MEDIAN_FLOOR_DN: Final = 1_800.0
MIN_DATA_FRACTION: Final = 0.2


def offset_evidence(dn: NDArray[np.unsignedinteger | np.signedinteger], offset: int) -> Evidence:
    """Whether a patch's pixels agree with a claimed offset.

    Args:
        dn: Digital numbers as delivered of all 12 bands, shape (bands, rows, columns); 0 is nodata.
        offset: The claim, 0 or -1000.

    Returns:
        ``consistent``, ``contradicts`` or ``silent``, by the rule of this module.

    Raises:
        ValueError: another offset, or another shape.
    """
    if offset not in (0, BOA_ADD_OFFSET):
        raise ValueError(f"offset {offset}: expected 0 or {BOA_ADD_OFFSET}")
    has_offset = _has_offset(dn)
    if has_offset is None:
        return "silent"
    return "consistent" if has_offset == (offset == BOA_ADD_OFFSET) else "contradicts"


def decide_offset(
    dn: NDArray[np.unsignedinteger | np.signedinteger],
    claimed_offset: int,
    claimed_source: str,
    profile: CatalogProfile,
) -> tuple[int, str]:
    """The offset of a patch that was read, and its source.

    The claim stands, unless the profile says ``verify_offset`` and the pixels contradict it: then the other offset
    holds, with the source ``pixels``.

    Args:
        dn: Digital numbers as delivered, shape (bands, rows, columns).
        claimed_offset: ``boa_add_offset`` of the scene.
        claimed_source: ``offset_source`` of the scene.
        profile: Of the catalog that the scene is from.
    """
    if profile.verify_offset and offset_evidence(dn, claimed_offset) == "contradicts":
        return BOA_ADD_OFFSET - claimed_offset, "pixels"
    return claimed_offset, claimed_source


def infer_offset(dn: NDArray[np.unsignedinteger | np.signedinteger]) -> tuple[int, str]:
    """The offset of a patch without metadata: by its pixels (``inferred``), else 0 (``assumed``)."""
    has_offset = _has_offset(dn)
    if has_offset is None:
        return 0, "assumed"
    return (BOA_ADD_OFFSET if has_offset else 0), "inferred"


def _has_offset(dn: NDArray[np.unsignedinteger | np.signedinteger]) -> bool | None:
    if dn.ndim != 3:
        raise ValueError(f"digital numbers of shape {dn.shape}: expected (bands, rows, columns)")
    data = dn.reshape(len(dn), -1)[:, (dn > NODATA_DN).all(axis=0).ravel()]
    if data.shape[1] < MIN_DATA_FRACTION * dn[0].size:
        return None
    if ((data < DARK_DN).mean(axis=1) >= DARK_FRACTION).any():
        return False
    rank = int(FLOOR_QUANTILE * data.shape[1])
    floors = np.partition(data, rank, axis=1)[:, rank]
    is_floor = FLOOR_DN[0] <= floors.min() <= FLOOR_DN[1] and np.median(floors) <= MAX_MEDIAN_FLOOR_DN
    return True if is_floor else None
