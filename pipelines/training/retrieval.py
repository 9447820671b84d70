"""From an image to its location: how often the right place comes first."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

EARTH_RADIUS_KM = 6371.0088
RECALL_RANKS = (1, 5, 10)
GALLERY_SIZE = 256
NUM_GALLERIES = 20
_CONFIDENCE = 0.95


@dataclass(frozen=True)
class RetrievalScores:
    """Scores of image-to-location retrieval, averaged over random galleries.

    Attributes:
        num_places: Places that galleries were drawn from.
        gallery_size: Places per gallery.
        num_galleries: Galleries drawn.
        recall_at_1: Share of queries whose own place has the highest similarity.
        recall_at_1_lower: Lower end of the 95 % bootstrap interval over places.
        recall_at_1_upper: Upper end.
        recall_at_5: Share of queries whose own place is among the first five.
        recall_at_10: Among the first ten.
        mean_rank: Mean rank of the own place; 1 is perfect, (gallery_size + 1) / 2 is chance.
        chance_recall_at_1: 1 / gallery_size.
        median_error_km: Median great-circle distance between a query's place and its best match.
    """

    num_places: int
    gallery_size: int
    num_galleries: int
    recall_at_1: float
    recall_at_1_lower: float
    recall_at_1_upper: float
    recall_at_5: float
    recall_at_10: float
    mean_rank: float
    chance_recall_at_1: float
    median_error_km: float


@dataclass(frozen=True)
class RankedGalleries:
    """Where the right location came in every query.

    Attributes:
        query: Place that asked, shape (queries,).
        rank: Rank of its own location in its gallery, from 1, shape (queries,).
        error_km: Great-circle distance between its place and that of the first location, shape (queries,).
        gallery_size: Places per gallery.
    """

    query: NDArray[np.intp]
    rank: NDArray[np.intp]
    error_km: NDArray[np.float64]
    gallery_size: int

    @property
    def num_galleries(self) -> int:
        """Galleries drawn."""
        return len(self.query) // self.gallery_size

    @property
    def median_error_km(self) -> float:
        """Median over all queries."""
        return float(np.median(self.error_km))

    def recall(self, rank: int) -> float:
        """Share of queries whose own location is among the first ``rank``."""
        return float((self.rank <= rank).mean())


def score_retrieval(
    image_embeddings: NDArray[np.floating],
    location_embeddings: NDArray[np.floating],
    lonlat_deg: NDArray[np.float64],
    rng: np.random.Generator,
    *,
    gallery_size: int = GALLERY_SIZE,
    num_galleries: int = NUM_GALLERIES,
    num_bootstrap: int = 1000,
) -> RetrievalScores:
    """Retrieval of locations by images in galleries of a fixed size.

    In each gallery every image of it is a query among the gallery's locations. Locations that tie with the right one
    rank before it, so that a collapsed model scores nothing.

    Args:
        image_embeddings: Unit length, shape (n, e).
        location_embeddings: Unit length, shape (n, e); row i belongs to image i.
        lonlat_deg: Longitude and latitude in degrees, shape (n, 2).
        rng: Draws galleries and bootstrap samples.
        gallery_size: Places per gallery, clipped to n.
        num_galleries: Galleries to average over.
        num_bootstrap: Resamplings of places behind the interval.

    Raises:
        ValueError: Fewer than two places, or shapes that do not fit.
    """
    galleries = rank_galleries(image_embeddings, location_embeddings, lonlat_deg, rng, gallery_size, num_galleries)
    hits, num_places = galleries.rank == 1, len(image_embeddings)
    lower, upper = _bootstrap_interval(hits, galleries.query, num_places, rng, num_bootstrap)
    return RetrievalScores(
        num_places=num_places,
        gallery_size=galleries.gallery_size,
        num_galleries=galleries.num_galleries,
        recall_at_1=galleries.recall(1),
        recall_at_1_lower=lower,
        recall_at_1_upper=upper,
        recall_at_5=galleries.recall(5),
        recall_at_10=galleries.recall(10),
        mean_rank=float(galleries.rank.mean()),
        chance_recall_at_1=1.0 / galleries.gallery_size,
        median_error_km=galleries.median_error_km,
    )


def rank_galleries(
    image_embeddings: NDArray[np.floating],
    location_embeddings: NDArray[np.floating],
    lonlat_deg: NDArray[np.float64],
    rng: np.random.Generator,
    gallery_size: int = GALLERY_SIZE,
    num_galleries: int = NUM_GALLERIES,
) -> RankedGalleries:
    """Rank of every query in galleries drawn at random; see `score_retrieval`.

    Raises:
        ValueError: Fewer than two places, or shapes that do not fit.
    """
    num_places = len(image_embeddings)
    if num_places < 2 or image_embeddings.shape != location_embeddings.shape or lonlat_deg.shape != (num_places, 2):
        raise ValueError(
            f"embeddings {image_embeddings.shape} and {location_embeddings.shape}, coordinates {lonlat_deg.shape}; "
            "expected at least two places, (n, e) twice and (n, 2)"
        )
    size = min(gallery_size, num_places)
    queries: list[NDArray[np.intp]] = []
    ranks: list[NDArray[np.intp]] = []
    errors_km: list[NDArray[np.float64]] = []
    for _ in range(num_galleries if size < num_places else 1):
        gallery = rng.permutation(num_places)[:size]
        of_gallery = image_embeddings[gallery].astype(np.float64) @ location_embeddings[gallery].astype(np.float64).T
        ranks.append((of_gallery >= of_gallery.diagonal()[:, None]).sum(axis=1))
        best = gallery[of_gallery.argmax(axis=1)]
        errors_km.append(great_circle_km(lonlat_deg[gallery], lonlat_deg[best]))
        queries.append(gallery)
    return RankedGalleries(
        query=np.concatenate(queries), rank=np.concatenate(ranks), error_km=np.concatenate(errors_km), gallery_size=size
    )


def great_circle_km(a_lonlat_deg: NDArray[np.float64], b_lonlat_deg: NDArray[np.float64]) -> NDArray[np.float64]:
    """Great-circle distances in kilometres between rows of two (n, 2) arrays of longitude and latitude in degrees."""
    lon_a, lat_a = np.radians(a_lonlat_deg).T
    lon_b, lat_b = np.radians(b_lonlat_deg).T
    haversine = np.sin((lat_b - lat_a) / 2) ** 2 + np.cos(lat_a) * np.cos(lat_b) * np.sin((lon_b - lon_a) / 2) ** 2
    distance: NDArray[np.float64] = 2 * EARTH_RADIUS_KM * np.arcsin(np.sqrt(np.clip(haversine, 0.0, 1.0)))
    return distance


def _bootstrap_interval(
    hits: NDArray[np.bool_],
    query: NDArray[np.intp],
    num_places: int,
    rng: np.random.Generator,
    num: int,
) -> tuple[float, float]:
    """Interval of the mean of ``hits`` under resampling of places with replacement."""
    asked = np.bincount(query, minlength=num_places).astype(np.float64)
    found = np.bincount(query, weights=hits, minlength=num_places)
    weights = rng.multinomial(num_places, np.full(num_places, 1.0 / num_places), size=num)
    means = (weights @ found) / np.maximum(weights @ asked, 1.0)
    tail = (1.0 - _CONFIDENCE) / 2
    lower, upper = np.quantile(means, [tail, 1.0 - tail])
    return float(lower), float(upper)
