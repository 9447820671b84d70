"""Where an image was taken: the place of a gallery whose embedding is most like that of the image."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from pipelines.evaluation.sphere import great_circle_km, unit_vectors

THRESHOLDS_KM: Final = (25.0, 200.0, 750.0, 2500.0)
"""City, region, country and continent, as image geolocation is usually scored (Hays and Efros 2008, IM2GPS, and its
successors)."""

NUM_GALLERY_PLACES: Final = 100_000
_QUERIES_AT_ONCE: Final = 256
_GOLDEN_ANGLE_DEG: Final = 180.0 * (3.0 - math.sqrt(5.0))


@dataclass(frozen=True)
class LocationGallery:
    """Places among which an image is looked for.

    Attributes:
        lonlat_deg: Shape (n, 2), longitude first.
        embeddings: Unit length, shape (n, e), float32.
    """

    lonlat_deg: NDArray[np.float64]
    embeddings: NDArray[np.float32]


@dataclass(frozen=True)
class Localization:
    """The best place for each image.

    Attributes:
        lonlat_deg: Of the images, shape (q, 2), longitude first.
        found_lonlat_deg: The gallery's places of the highest similarity, shape (q, 2).
        similarity: Cosine with them, shape (q,).
        error_km: Great-circle distance between the image and the place found, shape (q,).
        floor_km: Distance between the image and the nearest place of the gallery, shape (q,): no answer is better.
        chance_km: Distances between each image and a place of the gallery drawn for it, shape (q,).
    """

    lonlat_deg: NDArray[np.float64]
    found_lonlat_deg: NDArray[np.float64]
    similarity: NDArray[np.float64]
    error_km: NDArray[np.float64]
    floor_km: NDArray[np.float64]
    chance_km: NDArray[np.float64]

    @property
    def median_error_km(self) -> float:
        """Median over the images."""
        return float(np.median(self.error_km))

    def share_within(self, distance_km: float) -> float:
        """Share of images whose place was found within a distance."""
        return float((self.error_km <= distance_km).mean())

    def chance_within(self, distance_km: float) -> float:
        """Share of images for which a drawn place lies within a distance."""
        return float((self.chance_km <= distance_km).mean())


def fibonacci_lattice(num_places: int) -> NDArray[np.float64]:
    """Places spread evenly by area over the sphere, shape (n, 2), longitude first in degrees, south to north.

    Raises:
        ValueError: ``num_places`` is below 1.

    Source: Gonzalez (2010), Measurement of areas on a sphere using Fibonacci and latitude-longitude lattices,
        Mathematical Geosciences 42, eq. 1.
    """
    if num_places < 1:
        raise ValueError(f"num_places is {num_places}; expected at least 1")
    index = np.arange(num_places)
    lat = np.rad2deg(np.arcsin((2.0 * index + 1.0) / num_places - 1.0))
    lon = np.remainder(_GOLDEN_ANGLE_DEG * index + 180.0, 360.0) - 180.0
    return np.column_stack([lon, lat])


def build_gallery(
    encode: Callable[[NDArray[np.float64]], NDArray[Any]],
    num_places: int = NUM_GALLERY_PLACES,
    is_wanted: Callable[[NDArray[np.float64]], NDArray[np.bool_]] | None = None,
) -> LocationGallery:
    """A gallery spread evenly over the sphere, or over the part of it that is wanted.

    Args:
        encode: Maps (n, 2) places, longitude first in degrees, to (n, e) embeddings.
        num_places: Places on the whole sphere.
        is_wanted: Which of them to keep, for example those on land.

    Raises:
        ValueError: No place is wanted.
    """
    lonlat_deg = fibonacci_lattice(num_places)
    if is_wanted is not None:
        lonlat_deg = lonlat_deg[is_wanted(lonlat_deg)]
    if not len(lonlat_deg):
        raise ValueError(f"none of {num_places} places is wanted; give more places, or another condition")
    return LocationGallery(lonlat_deg, _normalized(encode(lonlat_deg)))


def localize(
    image_embeddings: NDArray[Any], lonlat_deg: NDArray[np.float64], gallery: LocationGallery, seed: int = 0
) -> Localization:
    """The place of a gallery that each image is most similar to.

    Args:
        image_embeddings: Shape (q, e), of any length above zero.
        lonlat_deg: Where the images were taken, shape (q, 2), longitude first.
        gallery: Where to look.
        seed: Draws the places that chance is measured by.

    Raises:
        ValueError: Shapes that do not fit, or embeddings that are not finite.
    """
    images = np.asarray(image_embeddings)
    if images.ndim != 2 or len(images) != len(lonlat_deg) or images.shape[1] != gallery.embeddings.shape[1]:
        raise ValueError(
            f"image embeddings {images.shape}, their places {np.shape(lonlat_deg)} and the gallery's embeddings "
            f"{gallery.embeddings.shape} do not fit together; expected (q, e), (q, 2) and (n, e)"
        )
    best = np.concatenate([part.argmax(axis=1) for part in _similarities(images, gallery)])
    units, places = unit_vectors(lonlat_deg), unit_vectors(gallery.lonlat_deg)
    drawn = np.random.default_rng(seed).integers(0, len(places), len(units))
    return Localization(
        lonlat_deg=lonlat_deg,
        found_lonlat_deg=gallery.lonlat_deg[best],
        similarity=np.einsum("qe,qe->q", _normalized(images), gallery.embeddings[best]).astype(np.float64),
        error_km=_distance_km(units, places[best]),
        floor_km=_nearest_km(units, places),
        chance_km=_distance_km(units, places[drawn]),
    )


def similarity_field(image_embedding: NDArray[Any], gallery: LocationGallery) -> NDArray[np.float32]:
    """Cosine of one image, shape (e,), with every place of a gallery, shape (n,)."""
    field: NDArray[np.float32] = next(_similarities(np.asarray(image_embedding)[None], gallery))[0]
    return field


def _similarities(images: NDArray[Any], gallery: LocationGallery) -> Iterator[NDArray[np.float32]]:
    units = _normalized(images)
    for start in range(0, len(units), _QUERIES_AT_ONCE):
        yield units[start : start + _QUERIES_AT_ONCE] @ gallery.embeddings.T


def _normalized(embeddings: NDArray[Any]) -> NDArray[np.float32]:
    numbers = np.asarray(embeddings, dtype=np.float32)
    length = np.linalg.norm(numbers, axis=1, keepdims=True)
    if not np.isfinite(length).all() or not length.all():
        raise ValueError(f"{int((~(np.isfinite(length) & (length > 0))).sum())} embeddings are zero or not finite")
    unit: NDArray[np.float32] = numbers / length
    return unit


def _distance_km(first: NDArray[np.float64], second: NDArray[np.float64]) -> NDArray[np.float64]:
    return great_circle_km(np.linalg.norm(first - second, axis=1))


def _nearest_km(units: NDArray[np.float64], places: NDArray[np.float64]) -> NDArray[np.float64]:
    from scipy.spatial import cKDTree

    chord, _ = cKDTree(places).query(units)
    return great_circle_km(np.asarray(chord))
