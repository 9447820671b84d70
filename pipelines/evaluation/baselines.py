"""What embeddings are compared with: features of a place that need no training on images."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from satclip_model.config import LocationEncoderConfig, PositionalEncodingConfig

BATCH_SIZE = 8192


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
class SinCosCoordinates:
    """Sine and cosine of longitude and of latitude: four features."""

    name: str = "sincos"

    @property
    def target(self) -> str:
        """Dotted name of this class."""
        return _dotted_name(self)

    def features(self, lonlat_deg: NDArray[np.float64]) -> NDArray[np.float64]:
        """Features, shape (n, 4): sin lon, cos lon, sin lat, cos lat."""
        lon, lat = np.deg2rad(lonlat_deg).T
        return np.column_stack([np.sin(lon), np.cos(lon), np.sin(lat), np.cos(lat)])


@dataclass(frozen=True)
class EncodingAlone:
    """The positional encoding of the model, without its network.

    Attributes:
        config: The encoding.
    """

    config: "PositionalEncodingConfig"

    @property
    def name(self) -> str:
        """Short name in the rows of scores: harmonics, or the kind of another encoding."""
        return "harmonics" if self.config.kind == "spherical_harmonics" else self.config.kind

    @property
    def target(self) -> str:
        """Dotted name of this class."""
        return _dotted_name(self)

    def features(self, lonlat_deg: NDArray[np.float64]) -> NDArray[np.float64]:
        """Features, shape (n, ``config.encoding_dim``)."""
        import torch

        from satclip_model.positional_encoding import build_positional_encoding

        encoding = build_positional_encoding(self.config)
        with torch.inference_mode():
            batches = [encoding(torch.from_numpy(batch)).numpy() for batch in _batches(lonlat_deg)]
        return np.concatenate(batches).astype(np.float64, copy=False)


@dataclass(frozen=True)
class UntrainedEncoder:
    """The model's location encoder as initialised by a seed, never trained."""

    config: "LocationEncoderConfig"
    seed: int
    name: str = "untrained"

    @property
    def target(self) -> str:
        """Dotted name of this class."""
        return _dotted_name(self)

    def features(self, lonlat_deg: NDArray[np.float64]) -> NDArray[np.float64]:
        """Un-normalised outputs, shape (n, embedding_dim)."""
        import torch

        from satclip_model.location_encoder import build_location_encoder

        encoder = build_location_encoder(self.config, self.seed).eval()
        with torch.inference_mode():
            batches = [encoder(torch.from_numpy(batch)).numpy() for batch in _batches(lonlat_deg)]
        return np.concatenate(batches).astype(np.float64, copy=False)


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
        return np.concatenate([np.asarray(self.encode(batch)) for batch in _batches(lonlat_deg)])


def _batches(lonlat_deg: NDArray[np.float64]) -> list[NDArray[np.float64]]:
    places = np.ascontiguousarray(lonlat_deg, dtype=np.float64)
    return [places[start : start + BATCH_SIZE] for start in range(0, max(len(places), 1), BATCH_SIZE)]


def _dotted_name(method: object) -> str:
    return f"{type(method).__module__}.{type(method).__qualname__}"
