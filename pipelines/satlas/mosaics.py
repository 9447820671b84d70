"""One image of several: the clearest first, its holes filled from the next ones."""

from calendar import monthrange
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta

import numpy as np
from numpy.typing import NDArray

from pipelines.satlas.images import TileImage
from pipelines.satlas.months import validate_month
from pipelines.sentinel2 import SCL_NODATA, SCL_UNCLEAR


@dataclass(frozen=True)
class ImagePeriod:
    """Days whose images become one.

    Attributes:
        start: First day.
        end: Last day.
    """

    start: date
    end: date

    def holds(self, day: date) -> bool:
        """Whether a day lies within."""
        return self.start <= day <= self.end


def periods_of_month(month: str, num_periods: int, period_days: int) -> list[ImagePeriod]:
    """Periods that a month looks back on, the newest first; it ends with the month, and they follow without gaps.

    Raises:
        ValueError: The month is not of the form YYYY-MM.
    """
    year, number = (int(part) for part in validate_month(month).split("-"))
    last = date(year, number, monthrange(year, number)[1])
    ends = [last - timedelta(days=period_days * back) for back in range(num_periods)]
    return [ImagePeriod(end - timedelta(days=period_days - 1), end) for end in ends]


def is_clear(scl: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Where a scene classification shows the ground: not nodata, defective, shadow, cloud or cirrus."""
    return ~np.isin(scl, (SCL_NODATA, *SCL_UNCLEAR))


def mosaic(images: Sequence[TileImage]) -> tuple[TileImage, list[float]]:
    """The images laid over one another, the first on top.

    Args:
        images: Of one size, at least one, the best first; where they are not present nothing shows.

    Returns:
        The mosaic, and which share of it each image gave.
    """
    channels = np.zeros_like(images[0].channels)
    present = np.zeros_like(images[0].present)
    shares = []
    for image in images:
        new = image.present & ~present
        channels[:, new] = image.channels[:, new]
        present |= new
        shares.append(float(new.mean()))
    return TileImage(channels, present), shares
