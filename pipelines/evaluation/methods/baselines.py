"""Features of a place that need no training on images."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pipelines.evaluation.methods.base import batches, dotted_name

if TYPE_CHECKING:
    from satclip_model.config import LocationEncoderConfig, PositionalEncodingConfig


@dataclass(frozen=True)
class SinCosCoordinates:
    """Sine and cosine of longitude and of latitude: four features."""

    name: str = "sincos"

    @property
    def target(self) -> str:
        """Dotted name of this class."""
        return dotted_name(self)

    def features(self, lonlat_deg: NDArray[np.float64]) -> NDArray[np.float64]:
        """Features, shape (n, 4): sin lon, cos lon, sin lat, cos lat."""
        lon, lat = np.deg2rad(np.concatenate(list(batches(lonlat_deg)))).T
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
        return dotted_name(self)

    def features(self, lonlat_deg: NDArray[np.float64]) -> NDArray[np.float64]:
        """Features, shape (n, ``config.encoding_dim``)."""
        import torch

        from satclip_model.positional_encoding import build_positional_encoding

        encoding = build_positional_encoding(self.config)
        with torch.inference_mode():
            parts = [encoding(torch.from_numpy(batch)).numpy() for batch in batches(lonlat_deg)]
        return np.concatenate(parts).astype(np.float64, copy=False)


@dataclass(frozen=True)
class UntrainedEncoder:
    """The model's location encoder as initialised by a seed, never trained."""

    config: "LocationEncoderConfig"
    seed: int
    name: str = "untrained"

    @property
    def target(self) -> str:
        """Dotted name of this class."""
        return dotted_name(self)

    def features(self, lonlat_deg: NDArray[np.float64]) -> NDArray[np.float64]:
        """Un-normalised outputs, shape (n, embedding_dim)."""
        import torch

        from satclip_model.location_encoder import build_location_encoder

        encoder = build_location_encoder(self.config, self.seed).eval()
        with torch.inference_mode():
            parts = [encoder(torch.from_numpy(batch)).numpy() for batch in batches(lonlat_deg)]
        return np.concatenate(parts).astype(np.float64, copy=False)
