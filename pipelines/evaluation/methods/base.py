"""What turns places into features, and how it is called batch by batch."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from pipelines.errors import TableError

BATCH_SIZE: Final = 8192


class LocationFeatures(Protocol):
    """Anything that turns places into features.

    Attributes:
        name: Short name in the rows of scores.
        target: What computes the features: a dotted name, or a checkpoint's SHA-256.
    """

    @property
    def name(self) -> str: ...  # noqa: D102

    @property
    def target(self) -> str: ...  # noqa: D102

    def features(self, lonlat_deg: NDArray[np.float64]) -> NDArray[Any]:
        """Finite features, shape (n, f), of places, shape (n, 2), longitude first in degrees."""
        ...


@dataclass(frozen=True)
class EncoderFeatures:
    """Embeddings of an encoder at hand.

    Attributes:
        name: Short name in the rows of scores.
        encode: Takes places, shape (b, 2), longitude first in degrees; returns embeddings, shape (b, e).
        target: What the encoder is, for example its checkpoint's SHA-256.
    """

    name: str
    encode: Callable[[NDArray[np.float64]], NDArray[Any]]
    target: str

    def features(self, lonlat_deg: NDArray[np.float64]) -> NDArray[Any]:
        """Embeddings, shape (n, e)."""
        return np.concatenate([np.asarray(self.encode(batch)) for batch in batches(lonlat_deg)])


def batches(lonlat_deg: NDArray[np.float64]) -> Iterator[NDArray[np.float64]]:
    """Places in parts of at most 8,192; one empty part of none.

    Raises:
        TableError: Another shape, a coordinate that is not finite, a latitude beyond 90 or a longitude beyond 180
            degrees.
    """
    places = np.ascontiguousarray(lonlat_deg, dtype=np.float64)
    if places.ndim != 2 or places.shape[1] != 2:
        raise TableError(f"places have shape {places.shape}; expected (n, 2), longitude and latitude in degrees")
    beyond = ~(np.abs(places) <= np.array([180.0, 90.0])).all(axis=1)
    if beyond.any():
        row = int(np.flatnonzero(beyond)[0])
        raise TableError(
            f"place {row} is lon, lat {places[row].tolist()}; expected -180 to 180 and -90 to 90 degrees, longitude "
            "first"
        )
    for start in range(0, max(len(places), 1), BATCH_SIZE):
        yield places[start : start + BATCH_SIZE]


def dotted_name(method: object) -> str:
    """Module and class of an object."""
    return f"{type(method).__module__}.{type(method).__qualname__}"
